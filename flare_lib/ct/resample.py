"""Resampling a whole volume to another grid: trilinear for CTs, nearest voxel for label maps.

Where the new voxels lie is a matter of convention. Along an axis of n voxels resampled to m:

* `align_corners=False` (the default): the *outer faces* of the first and last voxel stay where they are. The extent
  n * spacing is kept, the spacing becomes extent / m, and new voxel i is read at the old index (i + 1/2) n/m - 1/2.
  The first centre moves by half the difference between the spacings; beyond the outermost old centres the nearest value
  is repeated. Millimetres stay true, and a box rescaled by m/n is the same region.
* `align_corners=True` (the paper's engine): the *centres* of the first and last voxel stay where they are. New voxel i
  is read at the old index i (n - 1)/(m - 1), the spacing becomes spacing (n - 1)/(m - 1), and the extent changes.
  At the borders the two conventions differ by half the difference between the spacings, in the middle not at all.

`resample_volume` returns the affine that fits the convention, so that a structure keeps its place in the world with
either. When downsampling, trilinear interpolation only reads the 8 neighbours and does not smooth first, as in the
paper.
References: paper 2.1; PyTorch `interpolate` ("trilinear", "nearest-exact"), which gives the same numbers.
"""

import math

import numpy as np

from flare_lib.ct.linear_taps import linear_taps
from flare_lib.ct.volume import Shape, Triple, Volume, check_spacing, triple
from flare_lib.machine.compiled import njit
from flare_lib.machine.threads import map_shares

Window = tuple[float, float]


def check_window(window_hu: Window) -> None:
    """Raise ValueError unless a window is two finite numbers, low < high."""
    if len(window_hu) != 2 or not -math.inf < window_hu[0] < window_hu[1] < math.inf:
        raise ValueError(f"window_hu must be two numbers, low < high, got {tuple(window_hu)}")


def resampled_shape(shape_zyx: Shape, spacing_zyx_mm: Triple, target_spacing_zyx_mm: Triple) -> Shape:
    """Return round(shape * spacing / target) per axis, at least 1; ValueError for a spacing that is not positive."""
    check_spacing(spacing_zyx_mm)
    check_spacing(target_spacing_zyx_mm)
    axes = zip(shape_zyx, spacing_zyx_mm, target_spacing_zyx_mm, strict=True)
    return triple(max(1, round(n * spacing / target)) for n, spacing, target in axes)


def resample_trilinear(
    array_zyx: np.ndarray, shape_zyx: Shape, *, align_corners: bool = False, window_hu: Window | None = None
) -> np.ndarray:
    """Return the array (Z, Y, X; integers or floats) on a grid of `shape_zyx` as float32.

    Needs memory for the output only: values are read, and clipped to `window_hu` if it is given, as they are needed.
    Clipping comes before interpolation, so that padding of -3024 HU does not bleed into the tissue beside it.
    Raises ValueError for a shape that is not 3 positive integers or a window that is not low < high.
    """
    _check_shapes(array_zyx, shape_zyx)
    if window_hu is not None:
        check_window(window_hu)
    if array_zyx.dtype not in (np.int16, np.float32):
        array_zyx = array_zyx.astype(np.float32)
    resampled = np.empty(shape_zyx, dtype=np.float32)
    axes = zip(array_zyx.shape, shape_zyx, strict=True)
    taps = (linear_taps(n, m, align_corners=align_corners) for n, m in axes)
    z, y, x = ((axis.lower, axis.upper, axis.upper_weight) for axis in taps)
    low, high = window_hu or (-math.inf, math.inf)
    ends = np.float32(low), np.float32(high)
    n_x = array_zyx.shape[2]

    def fill(share: int, n_shares: int) -> None:
        _interpolate(array_zyx, z, y, x, *ends, resampled, np.empty(n_x, np.float32), share, n_shares)

    map_shares(fill)
    return resampled


def resample_nearest(label_map_zyx: np.ndarray, shape_zyx: Shape) -> np.ndarray:
    """Return labels (Z, Y, X; any dtype) on a grid of `shape_zyx`, each new voxel from the old one around its centre.

    The extent is kept (`align_corners=False`). Raises ValueError for a shape that is not 3 positive integers.
    """
    label_map_zyx = np.asarray(label_map_zyx)
    _check_shapes(label_map_zyx, shape_zyx)
    # in whole numbers: floor((i + 1/2) n/m) without rounding errors at the faces between voxels
    z, y, x = ((2 * np.arange(m) + 1) * n // (2 * m) for n, m in zip(label_map_zyx.shape, shape_zyx, strict=True))
    resampled = np.empty(shape_zyx, dtype=label_map_zyx.dtype)
    for i, source in enumerate(z):
        resampled[i] = label_map_zyx[source][y[:, None], x]
    return resampled


def resample_volume(
    volume: Volume,
    target_spacing_zyx_mm: Triple,
    *,
    align_corners: bool = False,
    window_hu: Window | None = None,
) -> Volume:
    """Return a CT at (nearly) another spacing, float32, as `resample_trilinear` gives it.

    The shape is `resampled_shape`. The result carries the spacing actually reached, extent / shape, and the affine that
    keeps every structure in its place, but no file grid. Raises ValueError for a spacing that is not positive, and for
    a window that is not low < high.
    """
    shape_zyx = resampled_shape(volume.shape_zyx, volume.spacing_zyx_mm, target_spacing_zyx_mm)
    array_zyx = resample_trilinear(volume.array_zyx, shape_zyx, align_corners=align_corners, window_hu=window_hu)
    return place_resampled(volume, array_zyx, align_corners=align_corners)


def place_resampled(volume: Volume, array_zyx: np.ndarray, *, align_corners: bool = False) -> Volume:
    """Return `array_zyx` (any shape), which was resampled from `volume`, with the spacing and affine that go with it.

    It has no file grid.
    """
    shape_zyx = array_zyx.shape
    # step: distance between new voxels, in old voxels; start: the old index where the first new voxel lies
    step_zyx = np.divide(volume.shape_zyx, shape_zyx)
    start_zyx = step_zyx / 2 - 0.5
    if align_corners:
        start_zyx = np.zeros(3)
        for axis, (n, m) in enumerate(zip(volume.shape_zyx, shape_zyx, strict=True)):
            if n > 1 and m > 1:  # a single voxel has no second centre: its size comes from the extent
                step_zyx[axis] = (n - 1) / (m - 1)
    new_to_old = np.diag([*step_zyx[::-1], 1.0])
    new_to_old[:3, 3] = start_zyx[::-1]
    spacing = tuple((step_zyx * volume.spacing_zyx_mm).tolist())
    return Volume(array_zyx, spacing, volume.affine @ new_to_old)


def _check_shapes(array_zyx: np.ndarray, shape_zyx: Shape) -> None:
    """Raise ValueError unless both the array and the wanted shape have 3 axes and at least one voxel."""
    if array_zyx.ndim != 3 or not array_zyx.size:
        raise ValueError(f"the array must have 3 axes and at least one voxel, got shape {array_zyx.shape}")
    if len(shape_zyx) != 3 or min(shape_zyx) < 1:
        raise ValueError(f"shape_zyx must be 3 positive integers, got {tuple(shape_zyx)}")


@njit(nogil=True)
def _interpolate(array, z_table, y_table, x_table, low, high, out, row, share, n_shares):
    """Fill a share of the slices of `out` (Z, Y, X float32) from the values of `array`, first clipped to [low, high].

    `row` is scratch space, float32: an old row as it would be at the new (z, y).
    Computes a + t (b - a), not (1 - t) a + t b, so that a constant stays exactly that constant.
    """
    z_lower, z_upper, z_weight = z_table
    y_lower, y_upper, y_weight = y_table
    x_lower, x_upper, x_weight = x_table
    depth = out.shape[0]
    for z in range(depth * share // n_shares, depth * (share + 1) // n_shares):
        below, above = array[z_lower[z]], array[z_upper[z]]
        for y in range(out.shape[1]):
            y0, y1, ty = y_lower[y], y_upper[y], y_weight[y]
            for x in range(row.size):
                a, b = min(max(below[y0, x], low), high), min(max(below[y1, x], low), high)
                c, d = min(max(above[y0, x], low), high), min(max(above[y1, x], low), high)
                front = a + ty * (b - a)
                row[x] = front + z_weight[z] * (c + ty * (d - c) - front)
            for x in range(out.shape[2]):
                left = row[x_lower[x]]
                out[z, y, x] = left + x_weight[x] * (row[x_upper[x]] - left)
