"""Files in and out: NIfTI and DICOM to a `Volume`, a `Volume` to NIfTI on exactly the grid it came from.

References: NIfTI-1 and NIfTI-2 headers (nifti.nimh.nih.gov).
"""

import os
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from flare_lib.ct.dicom import load_dicom
from flare_lib.ct.hu import hu_problem
from flare_lib.ct.nifti_file import SUFFIXES, load_nifti
from flare_lib.ct.volume import Volume, to_file_axes
from flare_lib.machine.atomic_write import atomic_write


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
    volume = (
        load_dicom(path)
        if os.path.isdir(path) and not path.name.lower().endswith(SUFFIXES)
        else load_nifti(path, (np.int16, np.float32))
    )
    if problem := hu_problem(volume.array_zyx):
        raise ValueError(f"{path} must be a CT in HU: {problem}")
    return volume


def load_label_map(path: str | os.PathLike) -> Volume:
    """Load a label map from a .nii or .nii.gz file as uint8; any stored dtype, as long as the values are 0..255.

    Raises as `load_ct` does, and ValueError for labels that are not whole numbers from 0 to 255.
    """
    return load_nifti(Path(path), (np.uint8,))


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
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long
        raise ValueError(f"the output must be a file that may be replaced, got {path} ({error.strerror})") from error
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(f"the output must be a file that may be replaced, got {path}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"the output's folder must be writable, got {path.parent} ({error.strerror})") from error


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
