"""A box in a volume: find it around a mask, widen it by a margin in mm, crop to it and paste back.

`crop` and `paste` are inverses: crop(paste(a, box, shape), box) is a, and paste restores every voxel inside the box.
"""

import math
from dataclasses import dataclass

import numpy as np

from flare_lib.ct.volume import Shape, Triple, Volume, check_spacing, triple


@dataclass(frozen=True)
class Box:
    """A box of voxels, half-open: start_zyx <= index < stop_zyx.

    Raises ValueError unless both are 3 integers with 0 <= start < stop: a box holds at least one voxel.
    """

    start_zyx: Shape
    stop_zyx: Shape

    def __post_init__(self) -> None:
        # NumPy integers and lists become tuples of plain integers, so that equal boxes compare and print alike
        object.__setattr__(self, "start_zyx", _integers(self.start_zyx))
        object.__setattr__(self, "stop_zyx", _integers(self.stop_zyx))
        if not all(0 <= a < b for a, b in zip(self.start_zyx, self.stop_zyx, strict=True)):
            raise ValueError(f"a box must have 0 <= start < stop, got {self.start_zyx} and {self.stop_zyx}")

    @property
    def shape_zyx(self) -> Shape:
        """The number of voxels along z, y, x."""
        return triple(b - a for a, b in zip(self.start_zyx, self.stop_zyx, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The slices that index the box: array_zyx[box.slices]."""
        return triple(slice(a, b) for a, b in zip(self.start_zyx, self.stop_zyx, strict=True))

    def widen(self, margin_mm: float, spacing_zyx_mm: Triple, shape_zyx: Shape) -> "Box":
        """Return the box widened by at least `margin_mm` on every side, clipped to a volume of `shape_zyx`.

        The margin is rounded up to whole voxels along each axis. Raises ValueError for a negative margin, a spacing
        that is not positive, or a box that does not lie in the volume.
        """
        check_spacing(spacing_zyx_mm)
        _check_inside(self, shape_zyx)
        check_margin(margin_mm)
        # 20 mm at 0.8 mm is 25 voxels, whatever the last bits of the division say
        margins = [math.ceil(margin_mm / s - 1e-6) for s in spacing_zyx_mm]
        return Box(
            triple(max(a - m, 0) for a, m in zip(self.start_zyx, margins, strict=True)),
            triple(min(b + m, n) for b, m, n in zip(self.stop_zyx, margins, shape_zyx, strict=True)),
        )

    def grow(self, size_mm: Triple, spacing_zyx_mm: Triple, shape_zyx: Shape) -> "Box":
        """Return the box grown to at least `size_mm` along each axis, evenly on both sides, within a `shape_zyx`.

        What one side lacks at the volume's border, the other makes up for, as far as the volume reaches. Sizes are
        rounded up to whole voxels; an axis that is large enough stays as it is, so a size of 0 changes nothing. Raises
        ValueError for a negative size, a spacing that is not positive, or a box that does not lie in the volume.
        """
        check_spacing(spacing_zyx_mm)
        _check_inside(self, shape_zyx)
        if not all(math.isfinite(size) and size >= 0 for size in size_mm):
            raise ValueError(f"size_mm must be 0 or more along each axis, got {size_mm}")
        starts, stops = [], []
        for start, stop, n, spacing, size in zip(
            self.start_zyx, self.stop_zyx, shape_zyx, spacing_zyx_mm, size_mm, strict=True
        ):
            lacking = max(min(math.ceil(size / spacing - 1e-6), n) - (stop - start), 0)
            first = min(max(start - lacking // 2, 0), n - (stop - start + lacking))
            starts.append(first)
            stops.append(first + stop - start + lacking)
        return Box(triple(starts), triple(stops))

    def rescale(self, from_shape_zyx: Shape, to_shape_zyx: Shape) -> "Box":
        """Return the same region on another grid of the same extent, rounded outwards to whole voxels.

        Raises ValueError if the box does not lie in `from_shape_zyx` or a shape is not positive.
        """
        _check_inside(self, from_shape_zyx)
        if min(to_shape_zyx) < 1:
            raise ValueError(f"to_shape_zyx must be 3 positive integers, got {to_shape_zyx}")
        return Box(
            triple(a * m // n for a, n, m in zip(self.start_zyx, from_shape_zyx, to_shape_zyx, strict=True)),
            triple(-(-b * m // n) for b, n, m in zip(self.stop_zyx, from_shape_zyx, to_shape_zyx, strict=True)),
        )

    def shift(self, offset_zyx: Shape) -> "Box":
        """Return the box moved by whole voxels, e.g. when its volume is itself a crop that starts there."""
        return Box(
            triple(a + o for a, o in zip(self.start_zyx, offset_zyx, strict=True)),
            triple(b + o for b, o in zip(self.stop_zyx, offset_zyx, strict=True)),
        )


def check_margin(margin_mm: float) -> None:
    """Raise ValueError unless a margin is a finite number of mm, 0 or more."""
    if not (math.isfinite(margin_mm) and margin_mm >= 0):
        raise ValueError(f"margin_mm must be 0 or more, got {margin_mm}")


def bounding_box(mask_zyx: np.ndarray) -> Box | None:
    """Return the smallest box around the non-zero voxels of a mask (Z, Y, X); None if there are none."""
    mask_zyx = np.asarray(mask_zyx)
    if mask_zyx.ndim != 3:
        raise ValueError(f"mask_zyx must have 3 axes, got shape {mask_zyx.shape}")
    occupied_zx = np.any(mask_zyx, axis=1)
    if not occupied_zx.any():
        return None
    profiles = (occupied_zx.any(axis=1), mask_zyx.any(axis=(0, 2)), occupied_zx.any(axis=0))
    ends = [np.flatnonzero(profile)[[0, -1]] for profile in profiles]
    return Box(triple(first for first, _ in ends), triple(last + 1 for _, last in ends))


def box_around(center_zyx: Shape, size_zyx: Shape, shape_zyx: Shape) -> Box:
    """Return the box of `size_zyx` voxels around a voxel, moved as little as keeps it in a volume of `shape_zyx`.

    Raises ValueError for a volume that is smaller than the box along an axis, or a size below 1.
    """
    if min(size_zyx) < 1 or any(n < size for n, size in zip(shape_zyx, size_zyx, strict=True)):
        raise ValueError(
            f"a volume must have at least as many voxels (z, y, x) as a box in it, {tuple(size_zyx)}, "
            f"got {tuple(shape_zyx)}"
        )
    axes = list(zip(center_zyx, size_zyx, shape_zyx, strict=True))
    start = triple(min(max(at - size // 2, 0), n - size) for at, size, n in axes)
    return Box(start, triple(first + size for first, size in zip(start, size_zyx, strict=True)))


def crop(array_zyx: np.ndarray, box: Box) -> np.ndarray:
    """Return the part of an array (Z, Y, X) inside the box, as a view; ValueError if the box reaches outside."""
    _check_inside(box, array_zyx.shape)
    return array_zyx[box.slices]


def crop_volume(volume: Volume, box: Box) -> Volume:
    """Return the part of a volume inside the box, as a view; every voxel keeps its place in the world.

    It has no file grid: it is saved on its own grid.
    """
    affine = volume.affine.copy()
    affine[:3, 3] = (volume.affine @ (*box.start_zyx[::-1], 1.0))[:3]
    return Volume(crop(volume.array_zyx, box), volume.spacing_zyx_mm, affine)


def paste(array_zyx: np.ndarray, box: Box, shape_zyx: Shape, fill: float = 0) -> np.ndarray:
    """Return a new array of `shape_zyx` that is `array_zyx` inside the box and `fill` outside, in the same dtype.

    Raises ValueError if the array does not have the box's shape or the box reaches outside.
    """
    if array_zyx.shape != box.shape_zyx:
        raise ValueError(f"array_zyx must have the box's shape {box.shape_zyx}, got {array_zyx.shape}")
    _check_inside(box, shape_zyx)
    pasted = np.full(shape_zyx, fill, dtype=array_zyx.dtype)
    pasted[box.slices] = array_zyx
    return pasted


def _integers(values: Shape) -> Shape:
    """Return three numbers as plain integers; ValueError if they are anything else."""
    if len(values) != 3 or any(int(i) != i for i in values):
        raise ValueError(f"a box must start and stop at 3 integers, got {tuple(values)}")
    return triple(int(i) for i in values)


def _check_inside(box: Box, shape_zyx: Shape) -> None:
    """Raise ValueError unless the box lies in a volume of this shape."""
    if len(shape_zyx) != 3 or any(b > n for b, n in zip(box.stop_zyx, shape_zyx, strict=True)):
        raise ValueError(f"a box must lie in the volume of shape {tuple(shape_zyx)}, got {box}")
