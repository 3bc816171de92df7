"""The torch path: a cell whose corners agree needs no arithmetic, and skipping it changes nothing; nor do blocks."""

import numpy as np
import pytest
import torch

from flare_lib.ct.linear_taps import linear_taps
from flare_lib.inference import slice_tensors
from flare_lib.inference.slice_interpolation import resize_argmax
from flare_lib.inference.slice_tensors import paint_with_torch

NOISE = torch.rand(5, 4, 9, 6, generator=torch.Generator().manual_seed(2))


def paint(scores, shape_zyx, memory_bytes, dense_above):
    taps = tuple(linear_taps(n, m) for n, m in zip(scores.shape[1:], shape_zyx, strict=True))
    labels = np.full(shape_zyx, 99, np.uint8)
    return paint_with_torch(scores, taps, labels, memory_bytes, dense_above), labels


@pytest.mark.parametrize("memory_bytes", [1, 10_000, 2**25])
@pytest.mark.parametrize("dense_above", [-1.0, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("shape_zyx", [(7, 11, 8), (3, 4, 5), (1, 1, 1)])
def test_in_any_memory_and_with_any_share_the_labels_are_those_of_the_whole(memory_bytes, dense_above, shape_zyx):
    blocks = NOISE * 0.2
    blocks[2, :3, 2:7, 1:5] += 1
    for scores in (NOISE, blocks, blocks.half()):
        finite, labels = paint(scores, shape_zyx, memory_bytes, dense_above)
        expected = torch.nn.functional.interpolate(scores[None].float(), shape_zyx, mode="trilinear")[0].argmax(0)
        assert finite
        np.testing.assert_array_equal(labels, expected.numpy())


@pytest.mark.parametrize(
    ("memory_bytes", "heights"),
    # 40 slices of 10 x 10 voxels from 10: 14 bytes a voxel and 2 for the input, and 16 a voxel of a slice beside
    [(1, [1] * 40), (1600 + 7 * 1600, [7] * 5 + [5]), (1600 + 7 * 1600 - 1, [6] * 6 + [4]), (2**25, [40])],
)
def test_a_block_has_as_many_slices_as_the_memory_holds(monkeypatch, memory_bytes, heights):
    seen = []

    class Block(slice_tensors._Block):
        def __init__(self, scores, z, y, x):
            seen.append(len(z))
            super().__init__(scores, z, y, x)

    monkeypatch.setattr(slice_tensors, "_Block", Block)
    paint(torch.rand(2, 10, 5, 5), (40, 10, 10), memory_bytes, -1.0)
    assert seen == heights


@pytest.mark.parametrize("dense_above", [-1.0, 0.1])
def test_cells_are_looked_at_only_where_that_may_save_something(monkeypatch, dense_above):
    asked = []

    def paint_mixed(block, memory_bytes, share):
        asked.append((memory_bytes, share))

    monkeypatch.setattr(slice_tensors._Block, "paint_mixed", paint_mixed)
    assert paint(NOISE, (9, 17, 11), 2**25, dense_above)[1].max() < 5
    assert asked == ([] if dense_above < 0 else [(2**25, 0.1)])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("z", [0, 3])
def test_scores_that_are_no_numbers_are_seen_in_every_slice(z, bad):
    scores = NOISE.clone()
    scores[4, z, 8, 5] = bad
    assert not paint(scores, (9, 17, 11), 2**25, 1.0)[0]


def test_skipping_uniform_cells_changes_no_label():
    scores = torch.rand(3, 7, 6, 9, generator=torch.Generator().manual_seed(0)) * 0.2
    scores[1, 1:5, 1:4, 2:7] += 1.0
    everywhere, pruned = (resize_argmax(scores, (15, 17, 20), method=method) for method in ("torch", "torch_pruned"))
    np.testing.assert_array_equal(pruned, everywhere)
    assert (everywhere == 1).any()
