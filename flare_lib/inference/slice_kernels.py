"""Resize + argmax of a few slices, compiled for the CPU by numba: the fast engine of `slice_interpolation`.

A cell is the space between eight neighbouring input voxels. First the winner of every input voxel is found, reading the
scores once. A cell whose corners agree is filled with their winner. In a mixed cell, class j can win only if its
largest corner reaches the largest of all smallest corners, max_j >= max_k min_k: usually two or three classes do, and
only these are interpolated. A row of cells that is mostly mixed (noise, an untrained net) is interpolated as a whole,
all classes, in loops that the compiler turns into vector code.

Compiled on first use (a few seconds) and cached. Interpolates along x, then y, then z, and rounds as torch's own CPU
kernel does: `contract` lets the compiler round once in a * b + c, as torch's compiler does.
"""

from typing import NamedTuple

import numpy as np
import torch

from flare_lib.ct.linear_taps import Taps
from flare_lib.machine.compiled import njit
from flare_lib.machine.threads import map_shares

MIXED = np.uint8(255)  # marks a cell in a row whose corners disagree
BOX_BYTES = 2**20  # scores that one thread handles at a time: they stay in its cache between the two reads
BLOCK = 512  # voxels whose winners are found together: running maximum and its class stay in the first-level cache
INFINITY_BITS = 0x7F800000  # bits of a float32 without its sign: from here on it is infinite or NaN


class _Work(NamedTuple):
    """The kernels' input and output. Score (c, z, y, x) is flat[c * class_step + z * slice_step + y * width + x]."""

    flat: np.ndarray  # float32
    bits: np.ndarray  # the same memory as int32
    n_classes: int
    depth: int
    height: int
    width: int
    class_step: int
    slice_step: int
    box_z: int
    box_y: int
    z_starts: np.ndarray  # the outputs in cell i are starts[i] to starts[i + 1] - 1
    y_starts: np.ndarray
    x_starts: np.ndarray
    z_weights: np.ndarray  # (2, n) float32, for the lower and the upper neighbour
    y_weights: np.ndarray
    x_weights: np.ndarray
    x_lower: np.ndarray  # uint32: an unsigned index needs no check for being negative
    x_upper: np.ndarray
    out: np.ndarray  # uint8 (Z, Y, X)
    dense_above: float


class _Scratch(NamedTuple):
    """What one thread of the kernels writes to beside the output; X is the output's width."""

    winners: np.ndarray  # uint8 (box_z + 1, (box_y + 1) * width): of the box's slices
    best: np.ndarray  # float32 (BLOCK,)
    holder: np.ndarray  # int32 (BLOCK,)
    columns: np.ndarray  # uint8 (width,)
    cells: np.ndarray  # uint8 (width,)
    line: np.ndarray  # uint8 (X,)
    held: np.ndarray  # int64 (2,)
    rows: np.ndarray  # float32 (2 y, 2 z, C, X)
    sides: np.ndarray  # float32 (2 z, C, X)
    value: np.ndarray  # float32 (X,)
    label: np.ndarray  # int32 (X,)
    candidates: np.ndarray  # uint8 (C,)
    corners: np.ndarray  # float32 (C, 8)


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
        work = _plan(scores, taps_zyx, out_zyx, dense_above)
        return all(map_shares(lambda share, n_shares: _paint_boxes(work, _scratch(work), share, n_shares)))
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


def _plan(scores: torch.Tensor, taps_zyx: tuple[Taps, Taps, Taps], out_zyx: np.ndarray, dense_above: float) -> _Work:
    n_classes, depth, height, width = scores.shape
    class_step, slice_step = scores.stride()[:2]
    flat = scores.as_strided(((n_classes - 1) * class_step + (depth - 1) * slice_step + height * width,), (1,)).numpy()
    axes = list(zip("zyx", taps_zyx, scores.shape[1:], strict=True))
    row_bytes = 4 * n_classes * width
    box_y = min(height, max(8, BOX_BYTES // (8 * row_bytes)))
    return _Work(
        flat=flat,
        bits=flat.view(np.int32),
        n_classes=n_classes,
        depth=depth,
        height=height,
        width=width,
        class_step=class_step,
        slice_step=slice_step,
        box_z=min(depth, max(8, BOX_BYTES // (box_y * row_bytes))),
        box_y=box_y,
        **{f"{axis}_starts": np.searchsorted(taps.lower, np.arange(n + 1)) for axis, taps, n in axes},
        **{f"{axis}_weights": np.stack([taps.lower_weight, taps.upper_weight]) for axis, taps, n in axes},
        x_lower=taps_zyx[2].lower.astype(np.uint32),
        x_upper=taps_zyx[2].upper.astype(np.uint32),
        out=out_zyx,
        dense_above=float(dense_above),
    )


def _scratch(work: _Work) -> _Scratch:
    width_out = work.out.shape[2]
    return _Scratch(
        winners=np.empty((work.box_z + 1, (work.box_y + 1) * work.width), np.uint8),
        best=np.empty(BLOCK, np.float32),
        holder=np.empty(BLOCK, np.int32),
        columns=np.empty(work.width, np.uint8),
        cells=np.empty(work.width, np.uint8),
        line=np.empty(width_out, np.uint8),
        held=np.empty(2, np.int64),
        rows=np.empty((2, 2, work.n_classes, width_out), np.float32),
        sides=np.empty((2, work.n_classes, width_out), np.float32),
        value=np.empty(width_out, np.float32),
        label=np.empty(width_out, np.int32),
        candidates=np.empty(work.n_classes, np.uint8),
        corners=np.empty((work.n_classes, 8), np.float32),
    )


@njit(nogil=True)
def _paint_boxes(work, scratch, first, every):
    """Paint every `every`-th box of cells; return whether all its scores were finite."""
    width = work.width
    boxes_y = (work.height + work.box_y - 1) // work.box_y
    boxes_z = (work.depth + work.box_z - 1) // work.box_z
    winners, cells = scratch.winners, scratch.cells
    for box in range(first, boxes_z * boxes_y, every):
        z_first, y_first = box // boxes_y * work.box_z, box % boxes_y * work.box_y
        z_stop, y_stop = min(z_first + work.box_z, work.depth), min(y_first + work.box_y, work.height)
        last_z, last_y = work.depth - 1 - z_first, work.height - 1 - y_first  # counted from the box
        for z in range(z_first, min(z_stop + 1, work.depth)):
            slice_winners = winners[z - z_first, : (min(y_stop + 1, work.height) - y_first) * width]
            start = z * work.slice_step + y_first * width
            if _find_winners(work, start, slice_winners, scratch.best, scratch.holder) >= INFINITY_BITS:
                return False
        for z in range(z_first, z_stop):
            scratch.held[:] = -1  # no row yet
            if work.z_starts[z] == work.z_starts[z + 1]:
                continue
            lower, upper = winners[z - z_first], winners[min(z - z_first + 1, last_z)]
            for y in range(y_first, y_stop):
                if work.y_starts[y] == work.y_starts[y + 1]:
                    continue
                j = (y - y_first) * width
                k = min(y - y_first + 1, last_y) * width
                n_mixed = _compare(
                    lower[j : j + width],
                    lower[k : k + width],
                    upper[j : j + width],
                    upper[k : k + width],
                    scratch.columns,
                    cells,
                )
                if n_mixed > work.dense_above * width:
                    _paint_row(work, z, y, scratch.rows, scratch.held, scratch.sides, scratch.value, scratch.label)
                else:
                    _fill_uniform(work, z, y, cells, scratch.line)
                    if n_mixed:
                        for x in range(width):
                            if cells[x] == MIXED:
                                _paint_cell(work, z, y, x, scratch.candidates, scratch.corners)
    return True


@njit(no_cpython_wrapper=True)
def _find_winners(work, start, winners, best, holder):
    """Find the first class with the largest score for each of the voxels from `start` on.

    Returns the largest magnitude among the scores as the bits of a float32, which sort like magnitudes, NaN on top.
    """
    top = np.int32(0)
    no_sign = np.int32(0x7FFFFFFF)
    for block in range(0, winners.size, BLOCK):
        n = min(BLOCK, winners.size - block)
        for c in range(work.n_classes):
            at = start + block + c * work.class_step
            scores, bits = work.flat[at : at + n], work.bits[at : at + n]
            label = np.int32(c)
            if c == 0:
                best[:] = -np.inf
                holder[:] = 0
            for i in range(n):
                top = max(top, bits[i] & no_sign)
                wins = scores[i] > best[i]
                best[i] = scores[i] if wins else best[i]
                holder[i] = label if wins else holder[i]
        for i in range(n):
            winners[block + i] = holder[i]
    return top


@njit(no_cpython_wrapper=True)
def _compare(a, b, c, d, columns, cells):
    """Set cells[x] to the winner that the four rows share at x and x + 1, or to MIXED; return how many are mixed.

    `columns` is scratch space for what the four rows share at x: compilers do best with one plain loop per step.
    """
    last = a.size - 1
    for x in range(a.size):
        columns[x] = a[x] if (a[x] == b[x]) & (a[x] == c[x]) & (a[x] == d[x]) else MIXED
    cells[last] = columns[last]
    for x in range(last):
        cells[x] = columns[x] if columns[x] == columns[x + 1] else MIXED
    n_mixed = 0
    for x in range(a.size):
        n_mixed += cells[x] == MIXED
    return n_mixed


@njit(no_cpython_wrapper=True)
def _fill_uniform(work, z, y, cells, line):
    """Fill the outputs of a row of cells with each cell's winner (or MIXED, in mixed cells)."""
    x_starts = work.x_starts
    x = 0
    while x < work.width:
        stop = x + 1
        while stop < work.width and cells[stop] == cells[x]:
            stop += 1
        line[x_starts[x] : x_starts[stop]] = cells[x]
        x = stop
    for z_out in range(work.z_starts[z], work.z_starts[z + 1]):
        for y_out in range(work.y_starts[y], work.y_starts[y + 1]):
            row = work.out[z_out, y_out]
            for i in range(line.size):  # three times faster than assigning arrays in numba
                row[i] = line[i]


@njit(fastmath={"contract"}, no_cpython_wrapper=True)
def _paint_cell(work, z, y, x, candidates, corners):
    """Interpolate the outputs of one mixed cell, for the classes that can win there."""
    z_weights, y_weights, x_weights = work.z_weights, work.y_weights, work.x_weights
    at = z * work.slice_step + y * work.width + x
    dz = work.slice_step if z + 1 < work.depth else 0
    dy = work.width if y + 1 < work.height else 0
    dx = 1 if x + 1 < work.width else 0
    floor = -np.float32(np.inf)
    for c in range(work.n_classes):
        low, high = np.float32(np.inf), -np.float32(np.inf)
        for i in range(8):
            corner = work.flat[at + c * work.class_step + (i >> 2) * dz + ((i >> 1) & 1) * dy + (i & 1) * dx]
            corners[c, i] = corner
            low, high = min(low, corner), max(high, corner)
        floor = max(floor, low)
    n = 0
    for c in range(work.n_classes):
        high = corners[c, 0]
        for i in range(1, 8):
            high = max(high, corners[c, i])
        if high >= floor:
            candidates[n] = c
            for i in range(8):
                corners[n, i] = corners[c, i]
            n += 1
    for x_out in range(work.x_starts[x], work.x_starts[x + 1]):
        for y_out in range(work.y_starts[y], work.y_starts[y + 1]):
            for z_out in range(work.z_starts[z], work.z_starts[z + 1]):
                best, label = -np.float32(np.inf), np.uint8(0)
                for j in range(n):
                    e = corners[j]
                    x0, x1 = x_weights[0, x_out], x_weights[1, x_out]
                    y0, y1 = y_weights[0, y_out], y_weights[1, y_out]
                    low = y0 * (x0 * e[0] + x1 * e[1]) + y1 * (x0 * e[2] + x1 * e[3])
                    high = y0 * (x0 * e[4] + x1 * e[5]) + y1 * (x0 * e[6] + x1 * e[7])
                    value = z_weights[0, z_out] * low + z_weights[1, z_out] * high
                    if value > best:
                        best, label = value, candidates[j]
                work.out[z_out, y_out, x_out] = label


@njit(fastmath={"contract"}, no_cpython_wrapper=True)
def _paint_row(work, z, y, rows, held, sides, value, label):
    """Interpolate all outputs of a row of cells: rows (2 y, 2 z, C, X) -> sides (2 z, C, X) -> labels.

    Rows are kept for the next y: `held` says which y each of the two slots holds.
    """
    z_weights, y_weights, x_weights = work.z_weights, work.y_weights, work.x_weights
    y_upper = min(y + 1, work.height - 1)
    z_upper = min(z + 1, work.depth - 1)
    width = work.out.shape[2]
    for upper_row in range(2):
        y_in = y_upper if upper_row else y
        if held[y_in % 2] == y_in:
            continue
        held[y_in % 2] = y_in
        for side in range(2):
            z_in = z_upper if side else z
            for c in range(work.n_classes):
                at = c * work.class_step + z_in * work.slice_step + y_in * work.width
                scores, row = work.flat[at : at + work.width], rows[y_in % 2, side, c]
                for x in range(width):
                    lower, upper = scores[work.x_lower[x]], scores[work.x_upper[x]]
                    row[x] = x_weights[0, x] * lower + x_weights[1, x] * upper
    for y_out in range(work.y_starts[y], work.y_starts[y + 1]):
        lower_weight, upper_weight = y_weights[0, y_out], y_weights[1, y_out]
        for side in range(2):
            for c in range(work.n_classes):
                lower, upper, row = rows[y % 2, side, c], rows[y_upper % 2, side, c], sides[side, c]
                for x in range(width):
                    row[x] = lower_weight * lower[x] + upper_weight * upper[x]
        for z_out in range(work.z_starts[z], work.z_starts[z + 1]):
            lower_weight, upper_weight = z_weights[0, z_out], z_weights[1, z_out]
            value[:] = -np.inf
            for c in range(work.n_classes):
                lower, upper, this = sides[0, c], sides[1, c], np.int32(c)
                for x in range(width):
                    score = lower_weight * lower[x] + upper_weight * upper[x]
                    wins = score > value[x]
                    value[x] = score if wins else value[x]
                    label[x] = this if wins else label[x]
            row = work.out[z_out, y_out]
            for x in range(width):
                row[x] = label[x]
