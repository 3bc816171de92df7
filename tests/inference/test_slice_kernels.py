"""The compiled path: dense and pruned agree where pruning has much to prune and where it has nothing."""

import numpy as np
import torch

from flare_lib.inference.slice_interpolation import resize_argmax


def test_pruning_changes_no_label_of_blocks_or_of_noise():
    blocks = torch.zeros(4, 8, 9, 10)
    blocks[0], blocks[1, 2:6, 2:5, 3:8], blocks[2, 4:, 6:, :4] = 0.5, 1.0, 0.9
    noise = torch.rand(4, 8, 9, 10, generator=torch.Generator().manual_seed(0))
    for scores in (blocks, noise):
        dense, pruned = (
            resize_argmax(scores, (21, 22, 23), method=method) for method in ("numba_dense", "numba_pruned")
        )
        np.testing.assert_array_equal(pruned, dense)
        assert len(np.unique(dense)) >= 3
