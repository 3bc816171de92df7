"""The compiled path: dense and pruned agree where pruning has much to prune and where it has nothing.

Whatever the memory, the layout and the type of the scores, it paints what torch gives for the whole volume.
"""

import numpy as np
import pytest
import torch

from flare_lib.ct.linear_taps import linear_taps
from flare_lib.inference import slice_numba
from flare_lib.inference.slice_numba import paint_with_numba

SHAPE = (9, 17, 11)
NOISE = torch.rand(5, 4, 19, 6, generator=torch.Generator().manual_seed(2))


def paint(scores, shape_zyx=SHAPE, *, memory_bytes=2**25, dense_above=0.15):
    """Return what the function returns, and the labels; 99 where it painted nothing."""
    taps = tuple(linear_taps(n, m) for n, m in zip(scores.shape[1:], shape_zyx, strict=True))
    labels = np.full(shape_zyx, 99, np.uint8)
    return paint_with_numba(scores, taps, labels, memory_bytes, dense_above), labels


def winners(scores, shape_zyx=SHAPE):
    return torch.nn.functional.interpolate(scores[None].float(), shape_zyx, mode="trilinear")[0].argmax(0).numpy()


LAYOUTS = {
    "plain": lambda scores: scores,
    "float16": lambda scores: scores.half(),
    "of more classes": lambda scores: torch.cat([scores, -scores])[:5],
    "every other slice": lambda scores: scores.repeat_interleave(2, dim=1)[:, ::2],
    "x first": lambda scores: scores.transpose(1, 3).contiguous().transpose(1, 3),
}


@pytest.mark.parametrize("slices", [1, 2, 3, 100])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_any_layout_and_memory_the_labels_are_those_of_the_whole(layout, slices):
    scores = LAYOUTS[layout](NOISE)
    finite, labels = paint(scores, memory_bytes=slices * 4 * 5 * 19 * 6)
    assert finite
    np.testing.assert_array_equal(labels, winners(scores))


@pytest.mark.parametrize("dense_above", [-1.0, 0.15, 1.0])
@pytest.mark.parametrize("shape", [(4, 19, 6), (1, 19, 6), (4, 1, 6), (4, 19, 1), (1, 1, 1)])
def test_in_boxes_of_few_cells_too(monkeypatch, shape, dense_above):
    monkeypatch.setattr(slice_numba, "BOX_BYTES", 1)  # boxes are then of 8 slices and 8 rows, the least
    scores = NOISE[:, : shape[0], : shape[1], : shape[2]].contiguous()
    finite, labels = paint(scores, dense_above=dense_above)
    assert finite
    np.testing.assert_array_equal(labels, winners(scores))


def test_a_box_is_as_large_as_a_cache():
    scores = torch.zeros(1, 1, 160, 160).expand(14, 128, 160, 160)
    taps = tuple(linear_taps(n, n) for n in scores.shape[1:])
    work = slice_numba._plan(scores, taps, np.empty(0, np.uint8))
    assert slice_numba._box_size(work) == (8, 14)  # 14 * 14 * 160 * 4 bytes a slice: 8 of them are a MiB
    assert work.flat.size == 160 * 160


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("z", [0, 3])
@pytest.mark.parametrize("layout", ["plain", "float16"])
def test_scores_that_are_no_numbers_are_seen_in_every_slice(layout, z, bad):
    scores = NOISE.clone()
    scores[4, z, 18, 5] = bad
    assert not paint(LAYOUTS[layout](scores), memory_bytes=1)[0]
