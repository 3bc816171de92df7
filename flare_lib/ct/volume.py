"""A CT in memory: NIfTI and DICOM in, NIfTI out, and the only place where XYZ meets ZYX.

Inside the library an array is ZYX and canonical (RAS+, nibabel's closest): z grows towards the head, y to the front,
x to the patient's right. A file may keep its axes in any of 48 orders and directions; a volume remembers the file's
grid, and labels are saved back on exactly that grid. Oblique grids stay as they are: nothing is ever rotated.
References: NIfTI-1 and NIfTI-2 headers (nifti.nimh.nih.gov); nibabel, "Image orientation".
"""

import logging
import math
import os
import secrets
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import array_from_file

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]

SUFFIXES = (".nii", ".nii.gz")
_RAS = np.array([[0, 1], [1, 1], [2, 1]])
# Air (-1000) and fat (-100) are in every CT; a label map or an image scaled for a net has neither.
_SOMETHING_BELOW_HU = -10.0
# Cosine between two axes, 0.6 degrees: distances stay true to a hundredth. A tilted gantry is ten times that.
_SHEAR_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class FileGrid:
    """The grid of the file a volume came from.

    `shape_xyz` in the file's own axis order (i, j, k), `affine` (4, 4) index (i, j, k) -> world RAS in mm, `header` the
    NIfTI header, None for a DICOM series: its geometry fields are written back unchanged.
    """

    shape_xyz: Shape
    affine: np.ndarray
    header: nib.Nifti1Header | None = None


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT or a label map with its place in the world.

    `array_zyx` canonical (RAS+): array_zyx[z, y, x] with x growing to the patient's right, y to the front, z to the
    head. `spacing_zyx_mm` distance of voxel centres. `affine` (4, 4) float64, index (x, y, z) -> world RAS in mm.
    `file_grid` where it is saved; None for a volume made in memory, which is saved on its own grid.
    Raises ValueError for an array without 3 axes, a spacing that is not positive, an affine that is not (4, 4).
    """

    array_zyx: np.ndarray
    spacing_zyx_mm: Triple
    affine: np.ndarray
    file_grid: FileGrid | None = None

    def __post_init__(self) -> None:
        if self.array_zyx.ndim != 3 or not self.array_zyx.size:
            raise ValueError(f"array_zyx must have 3 axes and a voxel at least, got shape {self.array_zyx.shape}")
        check_spacing(self.spacing_zyx_mm)
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise ValueError(f"affine must be (4, 4) finite numbers, got {self.affine.tolist()}")

    @classmethod
    def from_array(cls, array_zyx: np.ndarray, spacing_zyx_mm: Triple) -> "Volume":
        """Return a volume made in memory: axes along the world's, the centre of its first voxel at (0, 0, 0) mm."""
        check_spacing(spacing_zyx_mm)
        affine = np.diag([*spacing_zyx_mm[::-1], 1.0]).astype(np.float64)
        return cls(np.asarray(array_zyx), tuple(float(s) for s in spacing_zyx_mm), affine)

    @property
    def shape_zyx(self) -> Shape:
        """The number of voxels along z, y, x."""
        return self.array_zyx.shape

    @property
    def size_mm_zyx(self) -> Triple:
        """The extent along z, y, x in mm, from the first voxel's outer face to the last one's."""
        return tuple(n * s for n, s in zip(self.shape_zyx, self.spacing_zyx_mm, strict=True))

    @property
    def voxel_ml(self) -> float:
        """The volume of one voxel in millilitres."""
        return math.prod(self.spacing_zyx_mm) / 1000.0

    @property
    def grid(self) -> FileGrid:
        """The grid this volume is saved on: the file's, or its own when it was made in memory."""
        return self.file_grid or FileGrid(self.shape_zyx[::-1], self.affine)

    def with_array(self, array_zyx: np.ndarray) -> "Volume":
        """Return other values (any dtype) on the same grid; ValueError when the shape differs."""
        if array_zyx.shape != self.shape_zyx:
            raise ValueError(f"array_zyx must have the volume's shape {self.shape_zyx}, got {array_zyx.shape}")
        return Volume(array_zyx, self.spacing_zyx_mm, self.affine, self.file_grid)


def check_spacing(spacing_zyx_mm: Triple) -> None:
    """Raise ValueError unless a spacing is 3 positive finite numbers."""
    if len(spacing_zyx_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_zyx_mm):
        raise ValueError(f"spacing_zyx_mm must be 3 positive numbers, got {tuple(spacing_zyx_mm)}")


def from_file_axes(array_xyz: np.ndarray, grid: FileGrid) -> np.ndarray:
    """Return an array in the file's axes as canonical ZYX, C-contiguous.

    A canonical file's array (Fortran order, as NIfTI stores it) is returned as a view; others are copied once.
    """
    return np.ascontiguousarray(apply_orientation(array_xyz, io_orientation(grid.affine)).T)


def to_file_axes(array_zyx: np.ndarray, grid: FileGrid) -> np.ndarray:
    """Return a canonical ZYX array in the axes of a file's grid, as a view: the inverse of `from_file_axes`.

    Raises ValueError when the shape is not the grid's.
    """
    array_xyz = apply_orientation(array_zyx.T, ornt_transform(_RAS, io_orientation(grid.affine)))
    if array_xyz.shape != tuple(grid.shape_xyz):
        raise ValueError(f"array must have the file's shape (x, y, z) {grid.shape_xyz}, got {array_xyz.shape}")
    return array_xyz


def load_ct(path: str | os.PathLike) -> Volume:
    """Load a CT in HU from a .nii or .nii.gz file (NIfTI-1 or 2) or from a folder with one DICOM series.

    int16 when every value is a whole number that fits, float32 otherwise; never a float64 copy. A fourth axis of
    length 1 is dropped. Raises FileNotFoundError for a missing file and ValueError, in one line, for what is not a
    complete 3-D CT: truncated or damaged, 2-D or 4-D, NaN or Inf, no value below -10 HU (a label map), a spacing that
    is not positive, a sheared affine, no orientation in the header, several DICOM series.
    """
    path = Path(path)
    volume = _load_dicom(path) if path.is_dir() else _load_nifti(path, np.int16)
    lowest, highest = volume.array_zyx.min(), volume.array_zyx.max()
    if lowest > _SOMETHING_BELOW_HU:
        raise ValueError(
            f"{path} must be a CT in HU, where air and fat lie well below 0; got values from {lowest:g} to {highest:g}"
            " (a label map, or an image already normalised?)"
        )
    return volume


def load_label_map(path: str | os.PathLike) -> Volume:
    """Load a label map from a .nii or .nii.gz file as uint8; any stored dtype, as long as the values are 0..255.

    Raises as `load_ct` does, and ValueError for labels that are not whole numbers from 0 to 255.
    """
    volume = _load_nifti(Path(path), np.uint8)
    if volume.array_zyx.dtype != np.uint8:
        lowest, highest = volume.array_zyx.min(), volume.array_zyx.max()
        raise ValueError(
            f"{path} must be a label map, whole numbers from 0 to 255; got values from {lowest:g} to {highest:g}"
        )
    return volume


def save_label_map(path: str | os.PathLike, label_map_zyx: np.ndarray, like: Volume) -> None:
    """Save labels as uint8 (slope 1, intercept 0) on the grid of the file that `like` came from.

    `label_map_zyx` integers 0..255 of like's shape. The file gets that file's shape, affine, orientation and NIfTI
    version, and appears complete or not at all. Raises ValueError for other labels, shapes or an unwritable path.
    """
    labels = like.with_array(np.asarray(label_map_zyx)).array_zyx
    if labels.dtype != np.uint8 and not (labels.dtype.kind in "bui" and labels.min() >= 0 and labels.max() <= 255):
        raise ValueError(f"labels must be integers from 0 to 255, got {labels.dtype}, {labels.min()} to {labels.max()}")
    _save(path, like.with_array(labels.astype(np.uint8, copy=False)))


def save_ct(path: str | os.PathLike, volume: Volume) -> None:
    """Save a CT on its file's grid: int16 when its array is int16, float32 otherwise; else as `save_label_map`."""
    dtype = np.int16 if volume.array_zyx.dtype == np.int16 else np.float32
    _save(path, volume.with_array(volume.array_zyx.astype(dtype, copy=False)))


def check_writable(path: str | os.PathLike) -> None:
    """Raise ValueError unless a .nii or .nii.gz file can be written at `path`; leaves nothing behind."""
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"an output must end in .nii or .nii.gz, got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"the output's folder must exist, got {path.parent}")
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(f"the output must be a file that may be replaced, got {path}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"the output's folder must be writable, got {path.parent} ({error.strerror})") from error


def _load_nifti(path: Path, integers: type) -> Volume:
    """Load a NIfTI file as `integers` when that loses nothing, as float32 otherwise."""
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"an image must be a .nii or .nii.gz file, or a folder with one DICOM series, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"an image must exist to be loaded, got {path}")
    try:
        with ImageOpener(path) as file:
            header = _read_header(file.read(nib.Nifti2Header.sizeof_hdr), path)
            shape = _three_axes(header.get_data_shape(), path)
            affine = header.get_best_affine()
            slope, intercept = header.get_slope_inter()
            raw = array_from_file(shape, header.get_data_dtype(), file, header.get_data_offset(), mmap=False)
            file.read(1)  # at the end of a .gz file its checksum is compared
    except (OSError, EOFError, zlib.error, HeaderDataError) as error:
        raise ValueError(f"{path} must be a complete NIfTI file, got: {' '.join(str(error).split())}") from error
    grid = FileGrid(shape, affine, header)
    return _place(_scaled(raw, slope or 1.0, intercept or 0.0, integers, path), grid, path)


def _read_header(block: bytes, path: Path) -> nib.Nifti1Header:
    """Return the header in a file's first bytes, its spacing and orientation checked before nibabel repairs them."""
    for header_class in (nib.Nifti1Header, nib.Nifti2Header):
        if header_class.may_contain_header(block):
            header = header_class(block[: header_class.sizeof_hdr], check=False)
            break
    else:
        raise ValueError(f"{path} must be a NIfTI-1 or NIfTI-2 file, got {len(block)} bytes that are no such header")
    spacing = header["pixdim"][1:4].tolist()
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"the spacing in {path} must be 3 positive numbers (x, y, z), got {tuple(spacing)}")
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        raise ValueError(f"{path} must say how it lies in the patient (sform or qform), got neither: left is unknown")
    header.check_fix(logger=logging.Logger("quiet", logging.CRITICAL + 1))  # errors are raised all the same
    return header


def _three_axes(shape: tuple[int, ...], path: Path) -> Shape:
    """Return the shape without trailing axes of length 1 after the third; ValueError unless 3 axes remain."""
    if len(shape) < 3 or min(shape) < 1 or any(n != 1 for n in shape[3:]):
        raise ValueError(f"{path} must be a 3-D image, got shape {shape}")
    return shape[:3]


def _scaled(raw: np.ndarray, slope: float, intercept: float, integers: type, path: Path) -> np.ndarray:
    """Return raw * slope + intercept as `integers` when that loses nothing, as float32 otherwise; slice by slice."""
    if raw.dtype.kind not in "iuf":
        raise ValueError(f"{path} must hold one real number a voxel, got {raw.dtype}")
    if raw.dtype.newbyteorder("=") == integers and (slope, intercept) == (1.0, 0.0):
        return raw.astype(integers, copy=False)
    limits = np.iinfo(integers)
    scaled = np.empty(raw.shape, dtype=integers, order="F")
    for k in range(raw.shape[2]):
        values = raw[:, :, k].astype(np.float64) * slope + intercept
        lowest, highest = values.min(), values.max()
        if not max(-lowest, highest) <= np.finfo(np.float32).max:  # also false for NaN
            raise ValueError(f"{path} must hold finite numbers only, got NaN or Inf in slice {k} of its third axis")
        fits = limits.min <= lowest and highest <= limits.max and np.array_equal(values, np.rint(values))
        if scaled.dtype == integers and not fits:
            scaled = scaled.astype(np.float32)
        scaled[:, :, k] = values
    return scaled


def _place(array_xyz: np.ndarray, grid: FileGrid, path: Path) -> Volume:
    """Return an array in a file's axes as a canonical volume; ValueError for a degenerate or sheared affine."""
    axes = grid.affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(grid.affine).all() or not (lengths > 0).all():
        raise ValueError(f"the affine of {path} must be finite with 3 axes longer than 0, got {grid.affine.tolist()}")
    cosines = (axes / lengths).T @ (axes / lengths)
    shear = np.abs(cosines - np.eye(3)).max()
    if shear > _SHEAR_TOLERANCE:
        raise ValueError(
            f"the affine of {path} must have axes at right angles (a tilted gantry must be corrected first), "
            f"got axes {math.degrees(math.asin(min(shear, 1.0))):.1f} degrees off"
        )
    affine = grid.affine @ inv_ornt_aff(io_orientation(grid.affine), grid.shape_xyz)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    return Volume(from_file_axes(array_xyz, grid), tuple(spacing.tolist()), affine, grid)


def _load_dicom(folder: Path) -> Volume:
    """Load the one DICOM series in a folder; its grid is the series' own, turned from LPS to RAS."""
    import SimpleITK as sitk  # here, because who loads NIfTI need not wait for it

    warns = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what it would warn of is refused below
    try:
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if len(series) != 1:
            found = ", ".join(series) or "none"
            raise ValueError(f"{folder} must hold exactly one DICOM series, got {len(series)}: {found}")
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
        image = sitk.ReadImage(names)
        positions = []
        for name in names:
            reader = sitk.ImageFileReader()
            reader.SetFileName(name)
            reader.ReadImageInformation()
            positions.append(reader.GetOrigin())
    except RuntimeError as error:
        raise ValueError(f"{folder} must hold readable DICOM, got: {' '.join(str(error).split())}") from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warns)
    raw = sitk.GetArrayFromImage(image).T
    shape = _three_axes(raw.shape, folder)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    if len(names) > 1:  # SimpleITK stacks the slices straight and evenly, wherever they say they lie
        stacked = affine[:3, 3] + np.arange(len(names))[:, None] * affine[:3, 2]
        off_mm = np.linalg.norm(stacked - positions, axis=1).max()
        if off_mm > image.GetSpacing()[2] / 4:
            raise ValueError(
                f"the slices in {folder} must be evenly spaced and straight above one another (none missing, no tilted "
                f"gantry), got one {off_mm:.1f} mm off its place"
            )
    grid = FileGrid(shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    return _place(_scaled(raw, 1.0, 0.0, np.int16, folder), grid, folder)


# What places a NIfTI grid in the world. Everything else in a header (descriptions, names, scaling) is not carried on.
_GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def _save(path: str | os.PathLike, volume: Volume) -> None:
    """Write a volume on its grid in its own dtype, to a file beside the target that is then renamed."""
    check_writable(path)
    path, grid = Path(path), volume.grid
    image_class = nib.Nifti2Image if isinstance(grid.header, nib.Nifti2Header) else nib.Nifti1Image
    header = image_class.header_class()
    if grid.header is None:
        header.set_xyzt_units("mm")
        header.set_qform(grid.affine, code="scanner")
        header.set_sform(grid.affine, code="scanner")
    else:
        for field in _GEOMETRY_FIELDS:
            header[field] = grid.header[field]
    header.set_data_dtype(volume.array_zyx.dtype)
    image = image_class(to_file_axes(volume.array_zyx, grid), None, header)
    image.header.set_slope_inter(1.0, 0.0)
    unfinished = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        image.to_filename(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
