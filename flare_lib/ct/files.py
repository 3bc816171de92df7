"""Files in and out: NIfTI and DICOM to a `Volume`, a `Volume` to NIfTI on exactly the grid it came from.

References: NIfTI-1 and NIfTI-2 headers (nifti.nimh.nih.gov).
"""

import logging
import math
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import array_from_file

from flare_lib.ct.dicom import load_dicom
from flare_lib.ct.hu import hu_problem
from flare_lib.ct.volume import FileGrid, Volume, place_in_world, scale_values, three_axes, to_file_axes
from flare_lib.machine.atomic_write import atomic_write

SUFFIXES = (".nii", ".nii.gz")


def find_images(folder: str | os.PathLike, *, channel: str = "") -> dict[str, Path]:
    """Return {name of the case: path} of a folder's .nii and .nii.gz files, by name; empty when there are none.

    `channel`, the number of one at a name's end (`_0000`, as nnU-Net and FLARE 2022 have it for CTs), is no part of the
    name. Hidden files are no cases: a killed process may have left one. Raises ValueError for two files of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).glob("[!.]*")):
        if path.name.lower().endswith(SUFFIXES):
            name = path.name[: path.name.lower().rindex(".nii")].removesuffix(channel)
            if name in found:
                raise ValueError(f"every case must have one file in {folder}, got {found[name].name} and {path.name}")
            found[name] = path
    return found


def load_ct(path: str | os.PathLike) -> Volume:
    """Load a CT in HU from a .nii or .nii.gz file (NIfTI-1 or 2) or from a folder with one DICOM series.

    int16 when every value is a whole number that fits, float32 otherwise; never a float64 copy. A fourth axis of
    length 1 is dropped. Raises FileNotFoundError for a missing file and ValueError, in one line, for what is not a
    complete 3-D CT: truncated or damaged, 2-D or 4-D, NaN or Inf, grey values that are not HU (`hu_problem`), a
    spacing that is not positive, a sheared affine, no orientation in the header, several DICOM series.
    """
    path = Path(path)
    volume = load_dicom(path) if path.is_dir() else _load_nifti(path, np.int16)
    if problem := hu_problem(volume.array_zyx):
        raise ValueError(f"{path} must be a CT in HU: {problem}")
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
        with ImageOpener(os.fspath(path)) as opener:
            file: Any = opener  # reads as a file does, though it is no IOBase
            header = _read_header(file.read(nib.Nifti2Header.sizeof_hdr), path)
            shape = three_axes(header.get_data_shape(), path)
            affine = header.get_best_affine()
            slope, intercept = header.get_slope_inter()
            raw = array_from_file(shape, header.get_data_dtype(), file, header.get_data_offset(), mmap=False)
            file.read(1)  # at the end of a .gz file its checksum is compared
    except (OSError, EOFError, zlib.error, HeaderDataError) as error:
        raise ValueError(f"{path} must be a complete NIfTI file, got: {' '.join(str(error).split())}") from error
    grid = FileGrid(shape, affine, header)
    return place_in_world(scale_values(raw, slope or 1.0, intercept or 0.0, integers, path), grid, path)


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
    with atomic_write(path) as unfinished:
        image.to_filename(unfinished)
