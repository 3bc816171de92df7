"""Resize + argmax of a few slices, compiled for the CPU by numba: the fast engine of `slice_interpolation`.

Here the work is planned and shared out: boxes of cells whose scores fit into a core's cache, each painted by one thread
with the loops of `slice_kernels`. These are compiled on first use (a few seconds) and cached.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from flare_lib.ct.linear_taps import Taps
from flare_lib.inference.slice_kernels import (
    BLOCK,
    INFINITY_BITS,
    Axis,
    CellBox,
    Work,
    find_winners,
    paint_cells,
    paint_rows,
    paint_uniform,
)
from flare_lib.machine.threads import map_shares

BOX_BYTES = 2**20  # scores that one thread handles at a time: they stay in its cache between the two reads


def paint_with_numba(
    scores: torch.Tensor,
    taps_zyx: tuple[Taps, Taps, Taps],
    out_zyx: np.ndarray,
    memory_bytes: int,
    dense_above: float,
) -> bool:
    """Write the winning class of every output voxel into `out_zyx`; return False if a score is not finite.

    `scores` (C, z, y, x); `taps_zyx`: what is read along each axis; `out_zyx` uint8 (Z, Y, X). A row of cells is
    interpolated as a whole if more than the share `dense_above` of it is mixed. float32 scores on the CPU with
    contiguous slices are read in place; others are converted a few slices at a time, in about `memory_bytes`.
    """
    n_classes, depth, height, width = scores.shape
    if scores.device.type == "cpu" and scores.dtype == torch.float32 and scores[0, 0].is_contiguous():
        work, most_mixed = _plan(scores, taps_zyx, out_zyx), math.floor(dense_above * width)
        return all(map_shares(lambda share, n_shares: _paint_boxes(work, most_mixed, share, n_shares)))
    step = max(1, memory_bytes // (4 * n_classes * height * width) - 1)
    z, y, x = taps_zyx
    for start in range(0, max(1, depth - 1), step):
        stop = min(start + step + 1, depth)
        first, beyond = z.readers(start, stop, to_the_end=stop == depth)
        part = scores[:, start:stop].to("cpu", torch.float32).contiguous()
        part_taps = (z.part(first, beyond, start), y, x)
        if not paint_with_numba(part, part_taps, out_zyx[first:beyond], memory_bytes, dense_above):
            return False
    return True


def _plan(scores: torch.Tensor, taps_zyx: tuple[Taps, Taps, Taps], out_zyx: np.ndarray) -> Work:
    n_classes, depth, height, width = scores.shape
    class_step, slice_step = scores.stride()[:2]
    flat = scores.as_strided(((n_classes - 1) * class_step + (depth - 1) * slice_step + height * width,), (1,)).numpy()
    z, y, x = (_axis(taps, n) for taps, n in zip(taps_zyx, scores.shape[1:], strict=True))
    return Work(
        flat=flat,
        bits=flat.view(np.int32),
        n_classes=n_classes,
        depth=depth,
        height=height,
        width=width,
        class_step=class_step,
        slice_step=slice_step,
        z=z,
        y=y,
        x=x,
        x_lower=taps_zyx[2].lower.astype(np.uint32),
        x_upper=taps_zyx[2].upper.astype(np.uint32),
        out=out_zyx,
    )


def _axis(taps: Taps, n_in: int) -> Axis:
    starts = np.searchsorted(taps.lower, np.arange(n_in + 1)).astype(np.uint32)
    return Axis(starts, np.ascontiguousarray(taps.lower_weight), np.ascontiguousarray(taps.upper_weight))


def _box_size(work: Work) -> tuple[int, int]:
    """Return how many slices and rows of cells a thread's cache holds the scores of."""
    row_bytes = 4 * work.n_classes * work.width
    box_y = min(work.height, max(8, BOX_BYTES // (8 * row_bytes)))
    return min(work.depth, max(8, BOX_BYTES // (box_y * row_bytes))), box_y


class _Scratch(NamedTuple):
    """What one thread finds in a box of cells, and what else it writes to; X is the output's width."""

    winners: np.ndarray  # uint8 (z + 1, y + 1, width)
    cells: np.ndarray  # uint8 (z, y, width): what wins in a cell, or MIXED
    todo: np.ndarray  # uint8 (z, y): NOTHING, CELLS or ROW
    columns: np.ndarray  # uint8 (width,)
    best: np.ndarray  # float32 (BLOCK,)
    holder: np.ndarray  # int32 (BLOCK,)
    line: np.ndarray  # uint8 (X,)
    candidates: np.ndarray  # uint8 (C,)
    corners: np.ndarray  # float32 (C, 8)
    held: np.ndarray  # int64 (2,)
    rows: np.ndarray  # float32 (2 y, 2 z * C, X)
    sides: np.ndarray  # float32 (2 z * C, X)
    value: np.ndarray  # float32 (X,)
    label: np.ndarray  # int32 (X,)


def _scratch(work: Work) -> _Scratch:
    box_z, box_y = _box_size(work)
    width_out = work.out.shape[2]
    return _Scratch(
        winners=np.empty((box_z + 1, box_y + 1, work.width), np.uint8),
        cells=np.empty((box_z, box_y, work.width), np.uint8),
        todo=np.empty((box_z, box_y), np.uint8),
        columns=np.empty(work.width, np.uint8),
        best=np.empty(BLOCK, np.float32),
        holder=np.empty(BLOCK, np.int32),
        line=np.empty(width_out, np.uint8),
        candidates=np.empty(work.n_classes, np.uint8),
        corners=np.empty((work.n_classes, 8), np.float32),
        held=np.empty(2, np.int64),
        rows=np.empty((2, 2 * work.n_classes, width_out), np.float32),
        sides=np.empty((2 * work.n_classes, width_out), np.float32),
        value=np.empty(width_out, np.float32),
        label=np.empty(width_out, np.int32),
    )


def _paint_boxes(work: Work, most_mixed: int, first: int, every: int) -> bool:
    """Paint every `every`-th box of cells; return whether all its scores were finite.

    Its loops are compiled one by one and called from here: numba would compile them twice for a function around them.
    """
    box_z, box_y = _box_size(work)
    boxes_z, boxes_y = -(-work.depth // box_z), -(-work.height // box_y)
    its = _scratch(work)
    flat_winners = its.winners.reshape(box_z + 1, -1)
    for number in range(first, boxes_z * boxes_y, every):
        z, y = number // boxes_y * box_z, number % boxes_y * box_y
        box = CellBox(z, min(z + box_z, work.depth), y, min(y + box_y, work.height))
        if find_winners(work, box, flat_winners, its.best, its.holder) >= INFINITY_BITS:
            return False
        n_mixed, n_rows = paint_uniform(work, box, its.winners, its.columns, its.cells, its.todo, its.line, most_mixed)
        if n_mixed:
            paint_cells(work, box, its.cells, its.todo, its.candidates, its.corners)
        if n_rows:
            paint_rows(work, box, its.todo, its.held, its.rows, its.sides, its.value, its.label)
    return True
