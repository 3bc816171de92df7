"""Resampling by splines of any order, with the numbers that scikit-image's `resize` and nnU-Net's preprocessing give.

A spline's value at a new voxel is a weighted sum over the old ones, and the weights are products of one number per
axis. So each axis needs one small matrix, new voxels times old ones, and resampling is three matrix products. SciPy
fills the matrices: its answer to a row of zeros with a single 1 is a column of weights.

The outer faces of a volume stay where they are (`align_corners=False` in `resample`), and beyond them the outermost
values are repeated. As in scikit-image, a result never leaves the range of its input: cubic splines would overshoot at
edges.

References: Unser, Splines: a perfect fit for signal and image processing, 1999; scikit-image 0.26, `transform.resize`
with mode "edge"; nnU-Net 2.8, `default_resampling`, for thick slices.
"""

from functools import lru_cache

import numpy as np
from scipy import ndimage

from flare_lib.ct.resample import Window, resample_nearest
from flare_lib.ct.volume import Shape, Triple, triple

ANISOTROPIC = 3.0  # nnU-Net: from this ratio of spacings on, slices are thick


def thick_axis(spacing_mm: Triple, other_spacing_mm: Triple) -> int | None:
    """Return the axis along which slices are thick, in the first spacing or else in the second; None if in neither.

    Slices are thick if the largest spacing, that of a single axis, is more than 3 times the smallest (nnU-Net's rule).
    If two axes share the largest, none counts as thick.
    """
    for spacing in (spacing_mm, other_spacing_mm):
        if max(spacing) / min(spacing) > ANISOTROPIC:
            return spacing.index(max(spacing)) if spacing.count(max(spacing)) == 1 else None
    return None


def resample_spline(
    array: np.ndarray,
    shape: Shape,
    *,
    order: int = 3,
    thick: int | None = None,
    window_hu: Window = (-np.inf, np.inf),
) -> np.ndarray:
    """Return an array (three axes, integers or floats) on a grid of `shape` by splines of `order` 0 to 5, as float32.

    Along a `thick` axis the nearest slice is taken instead. Values are clipped to `window_hu` first. Needs memory for
    the result and for one array with the slices of the input and the rows and columns of the result. Raises ValueError
    unless both shapes are 3 positive integers and the order is 0 to 5.
    """
    if array.ndim != 3 or not array.size or len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"array and shape must have 3 axes and at least one voxel, got {array.shape} and {shape}")
    if order not in range(6):
        raise ValueError(f"order must be 0 to 5, got {order}")
    if thick is not None:
        array = np.moveaxis(array, thick, 0)
        shape = triple((shape[thick], *(n for axis, n in enumerate(shape) if axis != thick)))
    slices, rows, columns = (_weights(n, m, order) for n, m in zip(array.shape, shape, strict=True))
    between = np.empty((len(array), *shape[1:]), np.float32)  # the old slices with new rows and columns
    low, high = (np.float32(end) for end in window_hu)
    ends = np.empty((len(array), 2), np.float32)
    for i, plane in enumerate(array):
        values = np.clip(plane.astype(np.float32), low, high)
        ends[i] = values.min(), values.max()
        between[i] = rows @ values @ columns.T
        if thick is not None:
            np.clip(between[i], *ends[i], out=between[i])
    if thick is not None:
        return np.moveaxis(resample_nearest(between, shape), 0, thick)
    resampled = (slices @ between.reshape(len(between), -1)).reshape(shape)
    return np.clip(resampled, ends[:, 0].min(), ends[:, 1].max(), out=resampled)


@lru_cache(maxsize=16)
def _weights(n_in: int, n_out: int, order: int) -> np.ndarray:
    """Return the weight of each old point in each new one along one axis, float32 (n_out, n_in)."""
    ones = np.eye(n_in)
    if n_in == n_out:
        return ones.astype(np.float32)
    if n_in == 1:
        return np.ones((n_out, 1), np.float32)
    weights = [ndimage.zoom(one, n_out / n_in, order=order, mode="nearest", grid_mode=True) for one in ones]
    return np.stack(weights, axis=1).astype(np.float32)
