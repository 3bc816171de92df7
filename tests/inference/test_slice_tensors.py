"""The torch path: a cell whose corners agree needs no arithmetic, and skipping it changes nothing."""

import numpy as np
import torch

from flare_lib.inference.slice_interpolation import resize_argmax


def test_skipping_uniform_cells_changes_no_label():
    scores = torch.rand(3, 7, 6, 9, generator=torch.Generator().manual_seed(0)) * 0.2
    scores[1, 1:5, 1:4, 2:7] += 1.0
    everywhere, pruned = (resize_argmax(scores, (15, 17, 20), method=method) for method in ("torch", "torch_pruned"))
    np.testing.assert_array_equal(pruned, everywhere)
    assert (everywhere == 1).any()
