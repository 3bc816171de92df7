"""The loops of `slice_numba`, compiled: find the winners in a box of voxels, then paint the outputs of its cells.

A cell is the space between eight neighbouring input voxels. First the winner of every input voxel is found, reading the
scores once. A cell whose corners agree is filled with their winner. In a mixed cell, class j can win only if its
largest corner reaches the largest of all smallest corners, max_j >= max_k min_k: usually two or three classes do, and
only these are interpolated. A row of cells that is mostly mixed (noise, an untrained net) is interpolated as a whole,
all classes, in loops that the compiler turns into vector code.

Interpolates along x, then y, then z, and rounds as torch's own CPU kernel does: `contract` lets the compiler round once
in a * b + c, as torch's compiler does.
"""

from typing import NamedTuple

import numpy as np

from flare_lib.machine.compiled import njit

MIXED = np.uint8(255)  # marks a cell in a row whose corners disagree
NOTHING, CELLS, ROW = np.uint8(0), np.uint8(1), np.uint8(2)  # what of a row of cells has to be interpolated
BLOCK = 512  # voxels whose winners are found together: running maximum and its class stay in the first-level cache
INFINITY_BITS = 0x7F800000  # bits of a float32 without its sign: from here on it is infinite or NaN


class Axis(NamedTuple):
    """What is written and read along one axis, from `Taps`."""

    starts: np.ndarray  # uint32: the outputs in cell i are starts[i] to starts[i + 1] - 1
    lower_weight: np.ndarray  # float32, of every output's lower and upper neighbour
    upper_weight: np.ndarray


class Work(NamedTuple):
    """The kernels' input and output. Score (c, z, y, x) is flat[c * class_step + z * slice_step + y * width + x]."""

    flat: np.ndarray  # float32
    bits: np.ndarray  # the same memory as int32
    n_classes: int
    depth: int
    height: int
    width: int
    class_step: int
    slice_step: int
    z: Axis
    y: Axis
    x: Axis
    x_lower: np.ndarray  # uint32: an unsigned index needs no check for being negative
    x_upper: np.ndarray
    out: np.ndarray  # uint8 (Z, Y, X)


class CellBox(NamedTuple):
    """Cells that are painted together: along x all of them."""

    z_first: int
    z_stop: int
    y_first: int
    y_stop: int


# Conditions in place of min and max, and every axis by itself: what numba has to look up takes it long to compile.


@njit(nogil=True)
def find_winners(work, box, winners, best, holder):
    """Find the first class with the largest score for each of a box's voxels, `winners` (z + 1, (y + 1) * width).

    Returns the largest magnitude among the scores as the bits of a float32, which sort like magnitudes, NaN on top.
    """
    top = np.int32(0)
    no_sign = np.int32(0x7FFFFFFF)
    width = work.width
    z_stop = box.z_stop + 1 if box.z_stop < work.depth else box.z_stop  # the last cells' upper corners
    y_stop = box.y_stop + 1 if box.y_stop < work.height else box.y_stop
    size = (y_stop - box.y_first) * width
    for z in range(box.z_first, z_stop):
        start, slice_winners = z * work.slice_step + box.y_first * width, winners[z - box.z_first]
        for block in range(0, size, BLOCK):
            n = BLOCK if block + BLOCK < size else size - block
            for i in range(n):
                best[i] = -np.inf
                holder[i] = 0
            for c in range(work.n_classes):
                at = start + block + c * work.class_step
                scores, bits = work.flat[at : at + n], work.bits[at : at + n]
                label = np.int32(c)
                for i in range(n):
                    magnitude = np.int32(bits[i] & no_sign)
                    top = magnitude if magnitude > top else top
                    wins = scores[i] > best[i]
                    best[i] = scores[i] if wins else best[i]
                    holder[i] = label if wins else holder[i]
            for i in range(n):
                slice_winners[block + i] = holder[i]
    return top


@njit(nogil=True)
def paint_uniform(work, box, winners, columns, box_cells, todo, line, most_mixed):
    """Fill the outputs of cells whose corners agree, and note in `todo` what is left of every row of cells.

    That is the row as a whole if more than `most_mixed` of its cells are mixed, else these cells. Returns how many rows
    have mixed cells left, and how many are left as a whole. `columns` is scratch space for what the four rows of
    corners share at x: compilers do best with one plain loop per step.
    """
    z_starts, y_starts, x_starts = work.z.starts, work.y.starts, work.x.starts
    width, last = work.width, work.width - 1
    n_mixed_rows, n_rows = 0, 0
    for z in range(box.z_first, box.z_stop):
        z_in = z - box.z_first
        z_up = z_in + 1 if z + 1 < work.depth else z_in
        for y in range(box.y_first, box.y_stop):
            y_in = y - box.y_first
            todo[z_in, y_in] = NOTHING
            if z_starts[z] == z_starts[z + 1] or y_starts[y] == y_starts[y + 1]:
                continue
            y_up = y_in + 1 if y + 1 < work.height else y_in
            a, b, c, d = winners[z_in, y_in], winners[z_in, y_up], winners[z_up, y_in], winners[z_up, y_up]
            cells = box_cells[z_in, y_in]
            for x in range(width):
                columns[x] = a[x] if (a[x] == b[x]) & (a[x] == c[x]) & (a[x] == d[x]) else MIXED
            cells[last] = columns[last]
            for x in range(last):
                cells[x] = columns[x] if columns[x] == columns[x + 1] else MIXED
            n_mixed = 0
            for x in range(width):
                n_mixed += cells[x] == MIXED
            if n_mixed > most_mixed:
                todo[z_in, y_in] = ROW
                n_rows += 1
                continue
            if n_mixed:
                todo[z_in, y_in] = CELLS
                n_mixed_rows += 1
            x = 0
            while x < width:
                winner, stop = cells[x], x + 1
                while stop < width and cells[stop] == winner:
                    stop += 1
                for i in range(x_starts[x], x_starts[stop]):
                    line[i] = winner
                x = stop
            for z_out in range(z_starts[z], z_starts[z + 1]):
                for y_out in range(y_starts[y], y_starts[y + 1]):
                    row = work.out[z_out, y_out]
                    for i in range(line.size):  # three times faster than assigning arrays in numba
                        row[i] = line[i]
    return n_mixed_rows, n_rows


@njit(nogil=True, fastmath={"contract"})
def paint_cells(work, box, box_cells, todo, candidates, corners):
    """Interpolate the outputs of mixed cells, each for the classes that can win there."""
    flat, n_classes, out = work.flat, work.n_classes, work.out
    z_starts, z0, z1 = work.z.starts, work.z.lower_weight, work.z.upper_weight
    y_starts, y0, y1 = work.y.starts, work.y.lower_weight, work.y.upper_weight
    x_starts, x0, x1 = work.x.starts, work.x.lower_weight, work.x.upper_weight
    infinity = np.float32(np.inf)
    for z in range(box.z_first, box.z_stop):
        for y in range(box.y_first, box.y_stop):
            if todo[z - box.z_first, y - box.y_first] != CELLS:
                continue
            cells = box_cells[z - box.z_first, y - box.y_first]
            for x in range(work.width):
                if cells[x] != MIXED:
                    continue
                at = z * work.slice_step + y * work.width + x
                dz = work.slice_step if z + 1 < work.depth else 0
                dy = work.width if y + 1 < work.height else 0
                dx = 1 if x + 1 < work.width else 0
                floor = -infinity
                for c in range(n_classes):
                    low = infinity
                    for i in range(8):
                        corner = flat[at + c * work.class_step + (i >> 2) * dz + ((i >> 1) & 1) * dy + (i & 1) * dx]
                        corners[c, i] = corner
                        low = corner if corner < low else low
                    floor = low if low > floor else floor
                n = 0
                for c in range(n_classes):
                    high = corners[c, 0]
                    for i in range(1, 8):
                        high = corners[c, i] if corners[c, i] > high else high
                    if high >= floor:
                        candidates[n] = c
                        for i in range(8):
                            corners[n, i] = corners[c, i]
                        n += 1
                for x_out in range(x_starts[x], x_starts[x + 1]):
                    for y_out in range(y_starts[y], y_starts[y + 1]):
                        for z_out in range(z_starts[z], z_starts[z + 1]):
                            best, label = -infinity, np.uint8(0)
                            for j in range(n):
                                e = corners[j]
                                low = y0[y_out] * (x0[x_out] * e[0] + x1[x_out] * e[1]) + y1[y_out] * (
                                    x0[x_out] * e[2] + x1[x_out] * e[3]
                                )
                                high = y0[y_out] * (x0[x_out] * e[4] + x1[x_out] * e[5]) + y1[y_out] * (
                                    x0[x_out] * e[6] + x1[x_out] * e[7]
                                )
                                value = z0[z_out] * low + z1[z_out] * high
                                if value > best:
                                    best, label = value, candidates[j]
                            out[z_out, y_out, x_out] = label


@njit(nogil=True, fastmath={"contract"})
def paint_rows(work, box, todo, held, rows, sides, value, label):
    """Interpolate all outputs of whole rows: rows (2 y, 2 z * C, X) -> sides (2 z * C, X) -> labels.

    Rows are kept for the next y: `held` says which row of the volume each of the two slots holds.
    """
    n_classes, width_out = work.n_classes, value.size
    x_lower, x0, x_upper, x1 = work.x_lower, work.x.lower_weight, work.x_upper, work.x.upper_weight
    held[0], held[1] = -1, -1
    for z in range(box.z_first, box.z_stop):
        z_up = z + 1 if z + 1 < work.depth else z
        for y in range(box.y_first, box.y_stop):
            if todo[z - box.z_first, y - box.y_first] != ROW:
                continue
            y_up = y + 1 if y + 1 < work.height else y
            for y_in in range(y, y_up + 1):
                slot = y_in & 1
                if held[slot] == z * work.height + y_in:
                    continue
                held[slot] = z * work.height + y_in
                for i in range(2 * n_classes):
                    c, z_in = (i, z) if i < n_classes else (i - n_classes, z_up)
                    at = c * work.class_step + z_in * work.slice_step + y_in * work.width
                    scores, row = work.flat[at : at + work.width], rows[slot, i]
                    for x in range(width_out):
                        row[x] = x0[x] * scores[x_lower[x]] + x1[x] * scores[x_upper[x]]
            for y_out in range(work.y.starts[y], work.y.starts[y + 1]):
                lower_weight, upper_weight = work.y.lower_weight[y_out], work.y.upper_weight[y_out]
                for i in range(2 * n_classes):
                    lower, upper, row = rows[y & 1, i], rows[y_up & 1, i], sides[i]
                    for x in range(width_out):
                        row[x] = lower_weight * lower[x] + upper_weight * upper[x]
                for z_out in range(work.z.starts[z], work.z.starts[z + 1]):
                    lower_weight, upper_weight = work.z.lower_weight[z_out], work.z.upper_weight[z_out]
                    for x in range(width_out):
                        value[x] = -np.inf
                    for c in range(n_classes):
                        lower, upper, this = sides[c], sides[n_classes + c], np.int32(c)
                        for x in range(width_out):
                            score = lower_weight * lower[x] + upper_weight * upper[x]
                            wins = score > value[x]
                            value[x] = score if wins else value[x]
                            label[x] = this if wins else label[x]
                    row = work.out[z_out, y_out]
                    for x in range(width_out):
                        row[x] = label[x]
