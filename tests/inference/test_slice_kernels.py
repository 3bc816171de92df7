"""The compiled loops: the first winner of every voxel, what is left to interpolate; pruning changes no label."""

import numpy as np
import torch

from flare_lib.ct.linear_taps import linear_taps
from flare_lib.inference import slice_numba
from flare_lib.inference.slice_interpolation import resize_argmax
from flare_lib.inference.slice_kernels import CELLS, MIXED, NOTHING, ROW, CellBox, find_winners, paint_uniform

IN, OUT = (3, 4, 6), (5, 8, 11)


def planned(scores):
    """What the loops share for scores (C, *IN), and labels of the shape OUT that are 99 where none is painted."""
    taps = tuple(linear_taps(n, m) for n, m in zip(IN, OUT, strict=True))
    work = slice_numba._plan(scores, taps, np.full(OUT, 99, np.uint8))
    return work, slice_numba._scratch(work)


def test_the_first_of_equal_scores_wins_and_the_largest_magnitude_comes_back_as_bits():
    scores = torch.zeros(3, *IN)
    scores[1, 2, 3, 1:], scores[2, 2, 3, 1:] = 2.0, 2.0
    scores[0, 1, 2, 4] = -7.5
    work, its = planned(scores)
    top = find_winners(work, CellBox(1, 3, 2, 4), its.winners.reshape(len(its.winners), -1), its.best, its.holder)
    assert np.int32(top).view(np.float32) == 7.5
    expected = np.zeros((2, 2, 6), np.uint8)
    expected[1, 1, 1:], expected[0, 0, 4] = 1, 1
    np.testing.assert_array_equal(its.winners.reshape(len(its.winners), -1)[:2, :12].reshape(2, 2, 6), expected)


def test_uniform_cells_are_filled_and_what_is_left_is_noted_row_by_row():
    scores = torch.zeros(2, *IN)
    scores[1, 1, 2, 3] = 1.0  # the cells with this corner are mixed: x 2 and 3 of rows y 1 and 2 in slices z 0 and 1
    for most_mixed, left in ((2, CELLS), (1, ROW)):
        work, its = planned(scores)
        box = CellBox(0, 3, 0, 4)
        find_winners(work, box, its.winners.reshape(len(its.winners), -1), its.best, its.holder)
        counts = paint_uniform(work, box, its.winners, its.columns, its.cells, its.todo, its.line, most_mixed)
        assert counts == ((4, 0) if left == CELLS else (0, 4))
        expected = np.full((3, 4), NOTHING)
        expected[:2, 1:3] = left
        np.testing.assert_array_equal(its.todo[:3, :4], expected)
        z, y, x = (linear_taps(n, m).lower for n, m in zip(IN, OUT, strict=True))
        in_row = np.isin(z, (0, 1))[:, None, None] & np.isin(y, (1, 2))[:, None] & np.ones(OUT[2], bool)
        unpainted = in_row if left == ROW else in_row & np.isin(x, (2, 3))
        assert set(work.out[unpainted]) == {99 if left == ROW else MIXED}
        assert not work.out[~unpainted].any()


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
