"""Resize + argmax in slabs: from class scores on a small grid to a label map on a large one, with little memory.

The 14 scores of every voxel of a whole-body CT are 14 x 900 x 512 x 512 floats, 13 GB, and are needed for one thing: to
know which is the largest. So they never exist here: a few slices are interpolated (trilinear), reduced to labels and
forgotten. Unlike slabs that are resized each alone, every output slice reads the two input slices that it needs, so
the result is that of the whole volume; and where all eight corners of a cell agree on the winner nothing needs to be
interpolated, since a trilinear value is a convex combination of its corners.

Paper 2.5 and Fig. 4. The sampling points are those of `torch.nn.functional.interpolate`, to the last bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import interpolate

try:
    from flare_lib.inference.slice_kernels import paint_with_numba
except ImportError:  # numba does not exist for every platform: torch does the same work more slowly
    paint_with_numba = None

METHODS = ("auto", "torch", "torch_pruned", "numba_dense", "numba_pruned")
CPU_MEMORY_BYTES = 64 * 2**20
GPU_MEMORY_BYTES = 512 * 2**20


class Slab(Protocol):
    """Some finished slices: scores (C, z, y, x) of the input slices start_z, start_z + 1, ..."""

    start_z: int
    scores: torch.Tensor


Scores = np.ndarray | torch.Tensor | Iterable[Slab]


def resize_argmax(
    scores: Scores,
    shape_zyx: Sequence[int],
    *,
    in_shape_zyx: Sequence[int] | None = None,
    align_corners: bool = False,
    memory_bytes: int | None = None,
    method: str = "auto",
) -> np.ndarray:
    """Interpolate class scores to another grid and return which class wins in every voxel.

    `scores`: probabilities or logits (C, z, y, x), 1 to 255 classes, float32, float16 or bfloat16; a numpy array or a
    torch tensor on any device, contiguous or not; or a stream of slabs, together covering z in order without gaps, as
    `sliding_window` yields them, with `in_shape_zyx` (z, y, x) of the whole. `shape_zyx`: the new grid, finer or
    coarser. `align_corners`: False when both grids have the same extent (voxel borders meet), True when their outermost
    voxel centres meet. `memory_bytes`: how much may be used beside input and output (default 64 MiB on a CPU, 512 MiB
    on a GPU; a few slices at least). `method`: "torch" (every voxel), "torch_pruned" (only the voxels whose
    surroundings disagree), "numba_dense" and "numba_pruned" (the same two, compiled for the CPU), "auto" (the fastest).

    Returns uint8 (Z, Y, X): the argmax of the float32 trilinear interpolation of the whole volume, ties to the lower
    class. Raises ValueError when a shape is empty or does not fit, when a score is NaN or infinite, or when numba was
    asked for and cannot be imported; TypeError for other dtypes.
    """
    raise NotImplementedError
