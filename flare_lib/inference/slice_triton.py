"""Resize + argmax of a few slices as one kernel on the GPU, in Triton: one of the engines of `slice_interpolation`.

Every output voxel reads its eight corners class by class, keeps a running maximum, and writes one byte: on the large
grid nothing but labels ever exists. First the winner of every input voxel is found, reading the scores once; where the
corners of all voxels of a block agree, the block is filled with their winner without reading any scores.

Triton comes with torch's builds for CUDA. With TRITON_INTERPRET=1 in the environment its interpreter runs the same
kernels on the CPU, slowly: that is how they are tested.
"""

from functools import cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from flare_lib.ct.linear_taps import Taps, linear_taps
from flare_lib.inference.slice_tensors import paint_with_torch

NOT_FINITE = 255  # in a map of winners: no class has this number
BLOCK = 256  # voxels of a row that one program paints


def paint_with_triton(
    scores: Tensor, taps_zyx: tuple[Taps, Taps, Taps], out_zyx: np.ndarray, memory_bytes: int, dense_above: float
) -> bool:
    """Write the winning class of every output voxel into `out_zyx`; return False if a score is not finite.

    `scores` (C, z, y, x); `taps_zyx`: what is read along each axis; `out_zyx` uint8 (Z, Y, X). Besides one byte for
    each input voxel, about `memory_bytes` are used for labels on the device, never less than one slice. With
    `dense_above` below 0 every voxel is interpolated; otherwise blocks whose corners agree are not.
    """
    scores = scores.contiguous()
    n_classes, depth, height, width = scores.shape
    class_step = depth * height * width
    winners = torch.empty((depth, height, width), dtype=torch.uint8, device=scores.device)
    _find_winners[(triton.cdiv(class_step, BLOCK),)](scores, winners, class_step, n_classes, BLOCK=BLOCK)
    if bool((winners == NOT_FINITE).any()):
        return False
    taps_there = [tensor for taps in taps_zyx for tensor in _on(scores.device, taps)]
    n_out, n_rows, n_columns = out_zyx.shape
    step = max(1, memory_bytes // (n_rows * n_columns))
    for first in range(0, n_out, step):
        labels = torch.empty((min(step, n_out - first), n_rows, n_columns), dtype=torch.uint8, device=scores.device)
        _paint_rows[(triton.cdiv(n_columns, BLOCK), n_rows, len(labels))](
            *(scores, winners, labels, class_step, n_classes, height, width, first, n_rows, n_columns),
            *taps_there,
            PRUNED=dense_above >= 0,
            BLOCK=BLOCK,
        )
        torch.from_numpy(out_zyx[first : first + len(labels)]).copy_(labels)
    return True


def check_once_on(device: torch.device) -> None:
    """Raise RuntimeError unless the kernels give torch's labels on this device, on scores that rounding cannot change.

    Compared once a process and device. Raises ValueError for a CPU, unless Triton's interpreter runs.
    """
    if device.type == "cpu" and not triton.knobs.runtime.interpret:
        raise ValueError("method triton needs scores on a GPU, got scores on the CPU")
    _compare_on(str(device))


@cache
def _compare_on(device: str) -> None:
    shape_zyx = (3, 4, 3 * BLOCK // 2)
    scores = np.random.default_rng(0).integers(0, 9, (3, 2, 2, shape_zyx[2] // 2)).astype(np.float32)
    scores[..., : BLOCK // 2 + 4] = np.reshape([3, 0, 7], (3, 1, 1, 1))  # cells whose corners agree
    z, y, x = (linear_taps(n, m) for n, m in zip(scores.shape[1:], shape_zyx, strict=True))
    there = torch.from_numpy(scores).to(device)
    labels, expected = np.empty(shape_zyx, np.uint8), np.empty(shape_zyx, np.uint8)
    paint_with_triton(there, (z, y, x), labels, 2**20, 1.0)
    paint_with_torch(there, (z, y, x), expected, 2**20, -1.0)
    if n_wrong := int((labels != expected).sum()):
        raise RuntimeError(
            f"on {device} the labels of method triton must be those of torch, got {n_wrong} of {labels.size} others; "
            "use another method"
        )


def _on(device: torch.device, taps: Taps) -> list[Tensor]:
    """Return the taps of one axis on a device: lower and upper as int32, their weights as float32."""
    indices = [torch.from_numpy(index.astype(np.int32)) for index in (taps.lower, taps.upper)]
    weights = [torch.from_numpy(weight) for weight in (taps.lower_weight, taps.upper_weight)]
    return [tensor.to(device) for tensor in (*indices, *weights)]


@triton.jit
def _find_winners(scores, winners, class_step, n_classes, BLOCK: tl.constexpr):
    """Write the class with the largest score of each of BLOCK input voxels, the lowest of several equal ones."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < class_step
    best = tl.load(scores + at, mask=inside, other=0.0).to(tl.float32)
    finite = tl.abs(best) < float("inf")  # False for NaN, too
    label = tl.zeros([BLOCK], tl.int32)
    for c in range(1, n_classes):
        value = tl.load(scores + c * tl.cast(class_step, tl.int64) + at, mask=inside, other=0.0).to(tl.float32)
        finite = finite & (tl.abs(value) < float("inf"))
        label = tl.where(value > best, c, label)
        best = tl.maximum(best, value)
    tl.store(winners + at, tl.where(finite, label, 255).to(tl.uint8), mask=inside)


@triton.jit
def _paint_rows(
    scores,
    winners,
    labels,
    class_step,
    n_classes,
    height,
    width,
    first_z,
    n_rows,
    n_columns,
    z_lower,
    z_upper,
    z_lower_weight,
    z_upper_weight,
    y_lower,
    y_upper,
    y_lower_weight,
    y_upper_weight,
    x_lower,
    x_upper,
    x_lower_weight,
    x_upper_weight,
    PRUNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the labels of BLOCK voxels of one output row."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, z = tl.program_id(1), tl.program_id(2)
    inside = column < n_columns
    x0 = tl.load(x_lower + column, mask=inside, other=0)
    x1 = tl.load(x_upper + column, mask=inside, other=0)
    plane0 = tl.load(z_lower + first_z + z).to(tl.int64) * height
    plane1 = tl.load(z_upper + first_z + z).to(tl.int64) * height
    row0, row1 = tl.load(y_lower + row), tl.load(y_upper + row)
    at00, at01 = (plane0 + row0) * width, (plane0 + row1) * width  # the four input rows, [z][y]
    at10, at11 = (plane1 + row0) * width, (plane1 + row1) * width
    out = labels + (z.to(tl.int64) * n_rows + row) * n_columns + column

    label = tl.load(winners + at00 + x0, mask=inside, other=0).to(tl.int32)
    mixed = tl.full([BLOCK], 1, tl.int32)
    if PRUNED:
        mixed = (tl.load(winners + at00 + x1, mask=inside, other=0).to(tl.int32) != label).to(tl.int32)
        mixed |= (tl.load(winners + at01 + x0, mask=inside, other=0).to(tl.int32) != label).to(tl.int32)
        mixed |= (tl.load(winners + at01 + x1, mask=inside, other=0).to(tl.int32) != label).to(tl.int32)
        mixed |= (tl.load(winners + at10 + x0, mask=inside, other=0).to(tl.int32) != label).to(tl.int32)
        mixed |= (tl.load(winners + at10 + x1, mask=inside, other=0).to(tl.int32) != label).to(tl.int32)
        mixed |= (tl.load(winners + at11 + x0, mask=inside, other=0).to(tl.int32) != label).to(tl.int32)
        mixed |= (tl.load(winners + at11 + x1, mask=inside, other=0).to(tl.int32) != label).to(tl.int32)
    if tl.max(mixed, axis=0) == 0:
        tl.store(out, label.to(tl.uint8), mask=inside)
    else:
        wx0 = tl.load(x_lower_weight + column, mask=inside, other=0.0)
        wx1 = tl.load(x_upper_weight + column, mask=inside, other=0.0)
        wy0, wy1 = tl.load(y_lower_weight + row), tl.load(y_upper_weight + row)
        wz0, wz1 = tl.load(z_lower_weight + first_z + z), tl.load(z_upper_weight + first_z + z)
        wanted = inside & (mixed != 0)
        best = tl.full([BLOCK], float("-inf"), tl.float32)
        winner = tl.zeros([BLOCK], tl.int32)
        for c in range(n_classes):
            of_class = scores + c * tl.cast(class_step, tl.int64)
            along00 = _along_x(of_class + at00, x0, x1, wx0, wx1, wanted)
            along01 = _along_x(of_class + at01, x0, x1, wx0, wx1, wanted)
            along10 = _along_x(of_class + at10, x0, x1, wx0, wx1, wanted)
            along11 = _along_x(of_class + at11, x0, x1, wx0, wx1, wanted)
            slice0 = tl.fma(wy0, along00, wy1 * along01)
            slice1 = tl.fma(wy0, along10, wy1 * along11)
            value = tl.fma(wz0, slice0, wz1 * slice1)
            winner = tl.where(value > best, c, winner)
            best = tl.maximum(best, value)
        tl.store(out, tl.where(mixed != 0, winner, label).to(tl.uint8), mask=inside)


@triton.jit
def _along_x(row, x0, x1, lower_weight, upper_weight, wanted):
    """Interpolate one input row at a block's columns, rounding as torch does: the upper product first."""
    lower = tl.load(row + x0, mask=wanted, other=0.0).to(tl.float32)
    upper = tl.load(row + x1, mask=wanted, other=0.0).to(tl.float32)
    return tl.fma(lower_weight, lower, upper_weight * upper)
