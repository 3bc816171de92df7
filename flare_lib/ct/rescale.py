"""From stored numbers to values: times a slope, plus an intercept, in the smallest type that loses nothing.

Slice by slice, so that no copy of a whole CT in float64 is ever made.
References: DICOM PS3.3, C.11.1 (rescale slope and intercept); NIfTI-1 (scl_slope and scl_inter).
"""

from collections.abc import Callable, Iterable

import numpy as np


def stack_slices(
    slices: Iterable[np.ndarray],
    empty: Callable[[type], np.ndarray],
    slope_intercept: tuple[float, float],
    dtypes: tuple[type, ...],
    path: object,
) -> np.ndarray:
    """Collect slices (x, y) along the file's third axis into one array of values, stored * slope + intercept.

    `empty` makes the array (x, y, z) for a dtype: the first of `dtypes` (integers, and perhaps float32) that loses
    nothing. Raises ValueError, naming a voxel, if a value fits none of them.
    """
    slope, intercept = slope_intercept
    integers, *floats = dtypes
    limits = np.iinfo(integers)
    stacked = empty(integers)
    for k, stored in enumerate(slices):
        if stored.dtype == integers and (slope, intercept) == (1.0, 0.0):
            stacked[:, :, k] = stored
            continue
        with np.errstate(over="ignore", invalid="ignore"):  # the result is checked below
            values = stored.astype(np.float64) * slope + intercept
        bad = ~(np.abs(values) <= np.finfo(np.float32).max)  # also NaN
        if bad.any():
            raise ValueError(
                f"{path} must hold finite numbers only, got NaN or Inf in slice {k} of its third axis, "
                f"{np.count_nonzero(bad)} of its {bad.size} voxels (padding must be a number, too: -1024 HU in a CT)"
            )
        if stacked.dtype == integers:
            lossy = (values < limits.min) | (values > limits.max) | (values != np.rint(values))
            if lossy.any() and not floats:
                x, y = np.unravel_index(lossy.argmax(), lossy.shape)
                raise ValueError(
                    f"{path} must be a label map, whole numbers from {limits.min} to {limits.max}; got "
                    f"{repr(float(values[x, y])).removesuffix('.0')} at voxel ({x}, {y}, {k}) (x, y, z)"
                    f"{'' if float(values[x, y]).is_integer() else ': was it interpolated, or scaled?'}"
                )
            if lossy.any():
                whole, stacked = stacked, empty(floats[0])
                stacked[:, :, :k] = whole[:, :, :k]
        stacked[:, :, k] = values
    return stacked
