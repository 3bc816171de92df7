"""Resize + argmax in slabs: from class scores on a small grid to a label map on a large one, with little memory.

The 14 scores of every voxel of a whole-body CT are 14 x 900 x 512 x 512 floats, 13 GB, and all we want to know is which
is the largest. So they never exist together here: a few slices are interpolated (trilinear), reduced to labels and
forgotten. Unlike slabs that are resized one by one, every output slice reads the two input slices that it needs, so
the result is the same as for the whole volume. Where all eight corners of a cell agree on the winner, nothing is
interpolated: a trilinear value is a convex combination of the corners, so a class that wins at all of them wins
everywhere in between.

Paper 2.5 and Fig. 4. The sampling points are those of `torch.nn.functional.interpolate`, to the last bit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from flare_lib.ct.labels import check_unmasked
from flare_lib.ct.linear_taps import linear_taps
from flare_lib.inference.slice_numba import paint_with_numba
from flare_lib.inference.slice_tensors import paint_with_torch
from flare_lib.inference.sliding_window import Slab
from flare_lib.machine.extras import extra

# if more than this share of voxels lies between disagreeing corners, it is faster to interpolate everywhere
DENSE_ABOVE = {
    "auto": 0.15,
    "torch": -1.0,
    "torch_pruned": 1.0,
    "numba_dense": -1.0,
    "numba_pruned": 1.0,
    "triton": 1.0,
}
CPU_MEMORY_BYTES = 32 * 2**20  # more memory was no faster
GPU_MEMORY_BYTES = 512 * 2**20


def resize_argmax(
    scores: np.ndarray | torch.Tensor | Iterable[Slab],
    shape_zyx: Sequence[int],
    *,
    in_shape_zyx: Sequence[int] | None = None,
    align_corners: bool = False,
    memory_bytes: int | None = None,
    method: str = "auto",
) -> np.ndarray:
    """Interpolate class scores to another grid and return the winning class of every voxel.

    `scores`: probabilities or logits (C, z, y, x), 1 to 255 classes, float32, float16 or bfloat16; a numpy array or a
    torch tensor on any device, contiguous or not; or a stream of slabs that cover z in order without gaps, as
    `sliding_window` yields them, with `in_shape_zyx` (z, y, x) of the whole. `shape_zyx`: the new grid, finer or
    coarser. `align_corners`: False if both grids have the same extent (their outer voxel borders meet), True if the
    centres of their outermost voxels meet. `memory_bytes`: how much may be used besides input and output (default
    32 MiB on a CPU, 512 MiB on a GPU; never less than one slice). `method`: "torch" (interpolate everywhere),
    "torch_pruned" (only where corners disagree), "numba_dense" and "numba_pruned" (the same two, compiled for the CPU),
    "triton" (one kernel on the GPU, compared with "torch" on its first use; not yet part of "auto") or "auto" (the
    fastest).

    Returns uint8 (Z, Y, X): the argmax of the float32 trilinear interpolation of the whole volume, with ties going to
    the lower class; it can differ only where two classes tie within rounding. Raises ValueError if a shape is empty or
    does not fit, or if a score is NaN or infinite; TypeError for other dtypes and for a stream of anything but slabs;
    MissingExtra for "triton" if that package is not installed.
    """
    shape_zyx = _checked_shape("shape_zyx", shape_zyx)
    if memory_bytes is not None and not memory_bytes > 0:
        raise ValueError(f"memory_bytes must be above 0, got {memory_bytes}")
    if method not in DENSE_ABOVE:
        raise ValueError(f"method must be one of {tuple(DENSE_ABOVE)}, got {method!r}")
    if isinstance(scores, np.ndarray | torch.Tensor):
        scores = _as_tensor(scores)
        whole = tuple(scores.shape[1:])
        if in_shape_zyx is not None and tuple(in_shape_zyx) != whole:
            raise ValueError(f"in_shape_zyx must be that of the scores, {whole}, got {tuple(in_shape_zyx)}")
        in_shape_zyx, windows = whole, iter([(0, scores)])
    elif in_shape_zyx is None:
        raise ValueError(
            "scores must be a numpy array or a torch tensor, or slabs together with in_shape_zyx, "
            f"got {type(scores).__name__} without in_shape_zyx"
        )
    else:
        in_shape_zyx = _checked_shape("in_shape_zyx", in_shape_zyx)
        windows = _windows(scores, in_shape_zyx)

    labels = np.empty(shape_zyx, dtype=np.uint8)  # first: if there is no room, nothing else needs to be made
    z, y, x = (linear_taps(n, m, align_corners=align_corners) for n, m in zip(in_shape_zyx, shape_zyx, strict=True))
    for start_z, window in windows:
        stop_z = start_z + window.shape[1]
        first, stop = z.readers(start_z, stop_z, to_the_end=stop_z == in_shape_zyx[0])
        taps_zyx = (z.part(first, stop, start_z), y, x)
        on_cpu = window.device.type == "cpu"
        budget = memory_bytes or (CPU_MEMORY_BYTES if on_cpu else GPU_MEMORY_BYTES)
        paint = _engine(method, window.device)
        if not paint(window, taps_zyx, labels[first:stop], budget, DENSE_ABOVE[method]):
            raise ValueError(f"scores must be finite, got NaN or infinity in slices {start_z} to {stop_z - 1}")
        del window  # before the stream makes the next one
    return labels


def resized_slices(
    slabs: Iterable[Slab], in_shape_zyx: Sequence[int], shape_zyx: Sequence[int]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (z, scores (K, Y, X)) for every slice of another grid, in order, from a stream of slabs that cover z.

    Both grids have the same extent. Interpolated trilinearly, first along z, so that only a slab and a slice exist at a
    time. Raises ValueError if a shape is empty or the slabs do not cover `in_shape_zyx` in order.
    """
    in_shape_zyx, shape_zyx = _checked_shape("in_shape_zyx", in_shape_zyx), _checked_shape("shape_zyx", shape_zyx)
    z_taps, done = linear_taps(in_shape_zyx[0], shape_zyx[0]), 0
    for start_z, window in _windows(slabs, in_shape_zyx):
        stop_z = start_z + window.shape[1]
        first, stop = z_taps.readers(start_z, stop_z, to_the_end=stop_z == in_shape_zyx[0])
        first = max(first, done)  # a last slab of one slice has been seen together with the slab before
        done = max(stop, done)
        taps = z_taps.part(first, stop, start_z)
        weights = zip(taps.lower_weight.tolist(), taps.upper_weight.tolist(), strict=True)
        for z, lower, upper, (a, b) in zip(range(first, stop), taps.lower, taps.upper, weights, strict=True):
            scores = a * window[:, lower] + b * window[:, upper]
            yield z, F.interpolate(scores[None], shape_zyx[1:], mode="bilinear")[0]
        del window  # before the stream makes the next one


def mean_slabs(
    slabs: Iterable[Slab], in_shape_zyx: Sequence[int], others: Sequence[tuple[Iterable[Slab], Sequence[int]]]
) -> Iterator[Slab]:
    """Yield the mean of several streams of slabs on the first one's grid, as its slabs come.

    `others`: (slabs, shape) of streams on grids of their own, all of the first one's extent; they are interpolated
    slice by slice, so that no stream is ever held as a whole; without any, the slabs are those that came. Raises the
    errors of `resized_slices`.
    """
    if not others:
        yield from slabs
        return
    slices = [resized_slices(stream, shape, in_shape_zyx) for stream, shape in others]
    for slab in slabs:
        for k in range(slab.scores.shape[1]):
            for stream in slices:
                slab.scores[:, k] += next(stream)[1]
        yield Slab(slab.start_z, slab.scores.div_(1 + len(others)))
        del slab  # before the streams make their next ones


def _engine(method: str, device: torch.device) -> Callable[..., bool]:
    """Return the function that paints a few slices; raises MissingExtra or what `check_once_on` raises for "triton"."""
    if method == "triton":
        with extra("triton"):
            from flare_lib.inference.slice_triton import check_once_on, paint_with_triton
        check_once_on(device)
        return paint_with_triton
    with_numba = method.startswith("numba") or (method == "auto" and device.type == "cpu")
    return paint_with_numba if with_numba else paint_with_torch


def _checked_shape(name: str, shape_zyx: Sequence[int]) -> tuple[int, ...]:
    try:
        whole = tuple(int(n) for n in shape_zyx if n == int(n))
        shape = whole if len(shape_zyx) == len(whole) else ()
    except (TypeError, ValueError, OverflowError):
        shape = ()
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{name} must be 3 positive whole numbers, got {shape_zyx}")
    return shape


def _as_tensor(scores: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Check scores (C, z, y, x) and view them as a tensor, without a copy wherever torch allows it."""
    check_unmasked(scores, "scores")
    if isinstance(scores, np.ndarray):
        if scores.dtype not in (np.float32, np.float16):
            raise TypeError(f"scores must be float32, float16 or bfloat16, got {scores.dtype}")
        if min(scores.strides, default=0) < 0:
            scores = np.ascontiguousarray(scores)
        scores = torch.from_numpy(np.asarray(_Writable(scores)))
    if scores.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"scores must be float32, float16 or bfloat16, got {scores.dtype}")
    if scores.ndim != 4 or 0 in scores.shape:
        raise ValueError(f"scores must be (C, z, y, x) and not empty, got shape {tuple(scores.shape)}")
    if scores.shape[0] > 255:
        raise ValueError(f"scores must have at most 255 classes, got {scores.shape[0]}")
    return scores.detach()


class _Writable:
    """A read-only array posing as a writable one: torch would warn, though nothing here writes to it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory alive
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}


def _windows(slabs: Iterable[Slab], in_shape_zyx: tuple[int, ...]) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (first slice, scores) for every slab, and for the pair of slices where two slabs meet."""
    next_z, last_slice = 0, None
    for slab in slabs:
        if not isinstance(slab, Slab):
            raise TypeError(f"a stream of scores must be of Slab(start_z, scores), got {type(slab).__name__}")
        scores = _as_tensor(slab.scores)
        if slab.start_z != next_z or tuple(scores.shape[2:]) != in_shape_zyx[1:]:
            raise ValueError(
                f"the next slab must start at slice {next_z} with slices of {in_shape_zyx[1:]}, "
                f"got slice {slab.start_z} and {tuple(scores.shape[2:])}"
            )
        if last_slice is not None:
            if len(last_slice) != len(scores):
                raise ValueError(f"every slab must have {len(last_slice)} classes, got {len(scores)}")
            yield next_z - 1, torch.cat([last_slice, scores[:, :1]], dim=1)
        yield next_z, scores
        next_z += scores.shape[1]
        last_slice = scores[:, -1:].clone()
        del slab, scores  # one slab at a time: this one must be gone before the next is made
    if next_z != in_shape_zyx[0]:
        raise ValueError(f"the slabs must cover {in_shape_zyx[0]} slices, got {next_z}")
