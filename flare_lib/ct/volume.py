"""A CT in memory, and the only place where XYZ meets ZYX.

Inside the library every array is ZYX and canonical (RAS+, nibabel's closest): z grows towards the head, y to the front,
x to the patient's right. A file may store its axes in any of 48 orders and directions; a volume remembers the file's
grid, and labels are saved back on exactly that grid (`files`). Oblique grids stay as they are: nothing is ever rotated.
Reference: nibabel, "Image orientation".
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from flare_lib.ct.dicom_headers import Header
from flare_lib.ct.labels import check_unmasked

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]
_Value = TypeVar("_Value")

_RAS = np.array([[0, 1], [1, 1], [2, 1]])
# Cosine between two axes, 0.6 degrees off: distances stay true to a hundredth. A tilted gantry is off ten times as far.
_SHEAR_TOLERANCE = 0.01
# From a mouse's CT to the thickest slices, and the longest scanner table: beyond these, unit or header must be wrong.
SPACINGS_MM = (0.01, 100.0)
_LONGEST_MM = 3000.0
_SPACINGS_DIFFER = 0.01  # rounded to a few digits in one place and not in the other
_FARTHEST_MM = 1e6


@dataclass(frozen=True, eq=False)
class FileGrid:
    """The grid of the file a volume came from.

    `shape_xyz` in the file's own axis order (i, j, k); `affine` (4, 4) from index (i, j, k) to world RAS in mm;
    `header` the NIfTI header, whose geometry fields are written back unchanged, or None for a DICOM series. `slices`:
    the headers of a DICOM series in the order of k; `tilt_rows`: how many rows further along j each of its slices lay
    than the one before, until the tilt of its gantry was corrected.
    """

    shape_xyz: Shape
    affine: np.ndarray
    header: nib.Nifti1Header | None = None
    slices: tuple[Header, ...] = ()
    tilt_rows: float = 0.0

    @property
    def third_axis_zyx(self) -> tuple[int, int]:
        """The canonical axis (0 z, 1 y, 2 x) along which the file's third axis runs, and its direction, 1 or -1."""
        axis_xyz, direction = io_orientation(self.affine)[2]
        return 2 - int(axis_xyz), int(direction)


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT or a label map with its place in the world.

    `array_zyx` is canonical (RAS+): array_zyx[z, y, x] with x growing to the patient's right, y to the front, z to the
    head. `spacing_zyx_mm`: distance between voxel centres. `affine`: (4, 4) float64, from index (x, y, z) to world RAS
    in mm. `file_grid`: the grid to save on; None for a volume made in memory, which is saved on its own grid. `notes`:
    what anyone who uses it should know about how it was read.
    Raises TypeError for an array that is not of real numbers, ValueError for one without 3 axes or with a mask, a
    spacing that is not positive, an affine that is not (4, 4), not canonical or not of this spacing.
    """

    array_zyx: np.ndarray
    spacing_zyx_mm: Triple
    affine: np.ndarray
    file_grid: FileGrid | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.array_zyx, np.ndarray) or self.array_zyx.dtype.kind not in "buif":
            got = getattr(self.array_zyx, "dtype", type(self.array_zyx).__name__)
            raise TypeError(f"array_zyx must be a NumPy array of real numbers, got {got}")
        check_unmasked(self.array_zyx, "array_zyx")
        if self.array_zyx.ndim != 3 or not self.array_zyx.size:
            raise ValueError(f"array_zyx must have 3 axes and at least one voxel, got shape {self.array_zyx.shape}")
        check_spacing(self.spacing_zyx_mm)
        if np.shape(self.affine) != (4, 4) or not np.isfinite(self.affine).all():
            raise ValueError(f"affine must be (4, 4) finite numbers, got {np.asarray(self.affine).tolist()}")
        object.__setattr__(self, "spacing_zyx_mm", triple(float(s) for s in self.spacing_zyx_mm))
        object.__setattr__(self, "affine", np.asarray(self.affine, np.float64))
        if not np.array_equal(io_orientation(self.affine), _RAS):
            axes = "".join(code or "?" for code in nib.aff2axcodes(self.affine))
            raise ValueError(f"affine must lead to the patient's right, front and head (x, y, z: RAS), got {axes}")
        lengths = np.linalg.norm(self.affine[:3, 2::-1], axis=0)
        if not np.allclose(lengths, self.spacing_zyx_mm, rtol=_SPACINGS_DIFFER, atol=0):
            raise ValueError(
                f"affine must have the spacing {self.spacing_zyx_mm} mm (z, y, x), got "
                f"({', '.join(f'{length:g}' for length in lengths)})"
            )

    @classmethod
    def from_array(cls, array_zyx: np.ndarray, spacing_zyx_mm: Triple) -> "Volume":
        """Return a volume made in memory, its axes along the world's and its first voxel's centre at (0, 0, 0) mm.

        `array_zyx`: real numbers (Z, Y, X), in whatever NumPy takes for an array. Raises the errors of `Volume` and of
        `check_spacing`.
        """
        check_spacing(spacing_zyx_mm)
        spacing = triple(float(s) for s in spacing_zyx_mm)
        check_unmasked(array_zyx, "array_zyx")
        return cls(np.asarray(array_zyx), spacing, np.diag([*spacing[::-1], 1.0]))

    @property
    def shape_zyx(self) -> Shape:
        """The number of voxels along z, y, x."""
        return self.array_zyx.shape

    @property
    def size_mm_zyx(self) -> Triple:
        """The extent along z, y, x in mm, from the first voxel's outer face to the last one's."""
        return extent_mm(self.shape_zyx, self.spacing_zyx_mm)

    @property
    def voxel_ml(self) -> float:
        """The volume of one voxel in millilitres."""
        return math.prod(self.spacing_zyx_mm) / 1000.0

    @property
    def grid(self) -> FileGrid:
        """The grid this volume is saved on: the file's, or its own if it was made in memory."""
        return self.file_grid or FileGrid(self.shape_zyx[::-1], self.affine)

    def with_array(self, array_zyx: np.ndarray) -> "Volume":
        """Return a volume of other values (any dtype) on the same grid; ValueError if the shape differs."""
        if array_zyx.shape != self.shape_zyx:
            raise ValueError(f"array_zyx must have the volume's shape {self.shape_zyx}, got {array_zyx.shape}")
        return Volume(array_zyx, self.spacing_zyx_mm, self.affine, self.file_grid, self.notes)


def check_volume(volume: object, name: str) -> None:
    """Raise TypeError for an array or a path in place of a `Volume`; the message calls it `name`."""
    if not isinstance(volume, Volume):
        raise TypeError(
            f"{name} must be a Volume, as load_ct and Volume.from_array return it, got {type(volume).__name__}"
        )


def triple(values: Iterable[_Value]) -> tuple[_Value, _Value, _Value]:
    """Return values that come one per axis as a tuple of three, in the same order; ValueError for more or fewer."""
    first, second, third = values
    return first, second, third


def extent_mm(shape: Shape, spacing_mm: Triple) -> Triple:
    """Return the extent in mm, along the same axes in the same order, of a grid of `shape` voxels."""
    return triple(n * s for n, s in zip(shape, spacing_mm, strict=True))


def grid_difference(volume: Volume, other: Volume) -> str | None:
    """Say how one volume's grid differs from another's; None if no corner is off by more than a tenth of a voxel."""
    if volume.shape_zyx != other.shape_zyx:
        return f"{volume.shape_zyx} voxels (z, y, x), not {other.shape_zyx}"
    corners_xyz = np.array(list(np.ndindex(2, 2, 2))) * (np.array(other.shape_zyx[::-1]) - 1)
    away = (volume.affine - other.affine)[:3]
    off_mm = float(np.linalg.norm(corners_xyz @ away[:, :3].T + away[:, 3], axis=1).max())
    return f"a corner {off_mm:.1f} mm away" if off_mm > 0.1 * min(other.spacing_zyx_mm) else None


def check_spacing(spacing_zyx_mm: Sequence[float]) -> None:
    """Raise ValueError unless a spacing is 3 positive finite numbers, TypeError if it is no sequence of numbers."""
    got = " ".join(f"{spacing_zyx_mm}".split())  # a matrix is written in several lines
    try:
        is_one = len(spacing_zyx_mm) == 3 and all(math.isfinite(s) and s > 0 for s in spacing_zyx_mm)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"spacing_zyx_mm must be 3 positive numbers, got {got}") from error
    if not is_one:
        raise ValueError(f"spacing_zyx_mm must be 3 positive numbers, got {got}")


def from_file_axes(array_xyz: np.ndarray, grid: FileGrid) -> np.ndarray:
    """Convert an array from the file's axes to canonical ZYX, C-contiguous.

    The array of a canonical file (in Fortran order, as NIfTI stores it) is returned as a view; others are copied once.
    """
    return np.ascontiguousarray(apply_orientation(array_xyz, io_orientation(grid.affine)).T)


def to_file_axes(array_zyx: np.ndarray, grid: FileGrid) -> np.ndarray:
    """Convert a canonical ZYX array to the axes of a file's grid, as a view: the inverse of `from_file_axes`.

    Raises ValueError if the shape is not the grid's.
    """
    array_xyz = apply_orientation(array_zyx.T, ornt_transform(_RAS, io_orientation(grid.affine)))
    if array_xyz.shape != tuple(grid.shape_xyz):
        raise ValueError(f"array must have the file's shape (x, y, z) {grid.shape_xyz}, got {array_xyz.shape}")
    return array_xyz


def three_axes(shape: tuple[int, ...], path: Path) -> Shape:
    """Return the shape without trailing axes of length 1 after the third; ValueError unless 3 axes remain."""
    if len(shape) < 3 or min(shape) < 1 or any(n != 1 for n in shape[3:]):
        raise ValueError(f"{path} must be a 3-D image, got shape {shape}")
    return triple(shape[:3])


def empty_in_file_axes(grid: FileGrid, dtype: type) -> np.ndarray:
    """Return an array (x, y, z) to fill, laid out in memory so that `from_file_axes` need not copy it."""
    shape_zyx = np.empty(3, dtype=int)
    shape_zyx[2 - io_orientation(grid.affine)[:, 0].astype(int)] = grid.shape_xyz
    return to_file_axes(np.empty(shape_zyx, dtype), grid)


def check_plausible(shape_xyz: Shape, spacing_xyz_mm: np.ndarray, path: object) -> None:
    """Raise ValueError for a spacing or an extent that no CT has: a unit or the header is wrong."""
    lowest, highest = SPACINGS_MM
    if not all(lowest <= s <= highest for s in spacing_xyz_mm):
        raise ValueError(
            f"the spacing in {path} must be {lowest:g} to {highest:g} mm along each axis (x, y, z), "
            f"got ({', '.join(f'{s:g}' for s in spacing_xyz_mm)})"
        )
    extent_mm = max(n * s for n, s in zip(shape_xyz, spacing_xyz_mm, strict=True))
    if extent_mm > _LONGEST_MM:
        raise ValueError(f"{path} must be {_LONGEST_MM:g} mm long at most along each axis, got {extent_mm:g} mm")


def check_grid(grid: FileGrid, path: Path) -> None:
    """Raise ValueError for a degenerate or sheared affine, and for a grid that no CT has."""
    axes = grid.affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not (np.abs(grid.affine) < _FARTHEST_MM).all() or not (lengths > 0).all():  # also NaN
        raise ValueError(
            f"the affine of {path} must have 3 axes longer than 0 and an origin within a kilometre, "
            f"got {grid.affine[:3].tolist()}"
        )
    check_plausible(grid.shape_xyz, lengths, path)
    cosines = (axes / lengths).T @ (axes / lengths)
    shear = np.abs(cosines - np.eye(3)).max()
    if shear > _SHEAR_TOLERANCE:
        raise ValueError(
            f"the affine of {path} must have axes at right angles (a tilted gantry must be corrected first), "
            f"got axes {math.degrees(math.asin(min(shear, 1.0))):.1f} degrees off"
        )


def place_in_world(array_xyz: np.ndarray, grid: FileGrid, path: Path, notes: tuple[str, ...] = ()) -> Volume:
    """Return an array in a file's axes as a canonical volume; raises the errors of `check_grid`."""
    check_grid(grid, path)
    affine = grid.affine @ inv_ornt_aff(io_orientation(grid.affine), grid.shape_xyz)
    return Volume(from_file_axes(array_xyz, grid), _spacing_zyx_mm(grid, affine), affine, grid, notes)


def _spacing_zyx_mm(grid: FileGrid, affine: np.ndarray) -> Triple:
    """Return the header's own spacing where the affine agrees: 3 mm, not a rounded 3.0000002, which exceeds 3 mm."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if grid.header is not None:
        stated = np.empty(3)
        stated[io_orientation(grid.affine)[:, 0].astype(int)] = grid.header["pixdim"][1:4]
        if np.allclose(stated, spacing, rtol=1e-5, atol=0):
            spacing = stated
    return tuple(spacing[::-1].tolist())
