"""Reading and writing files: NIfTI or DICOM to a `Volume`, and a `Volume` to NIfTI on exactly its original grid.

References: NIfTI-1 and NIfTI-2 headers (nifti.nimh.nih.gov).
"""

import os
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener

from flare_lib.ct.dicom import load_dicom
from flare_lib.ct.dicom_derived import check_replaceable
from flare_lib.ct.dicom_folder import may_hold_dicom
from flare_lib.ct.dicom_seg import SEG_SUFFIX, check_dicom_seg, save_dicom_seg
from flare_lib.ct.hu import hu_problem
from flare_lib.ct.labels import N_CLASSES, as_label_map, check_unmasked
from flare_lib.ct.nifti_file import SUFFIXES, load_nifti
from flare_lib.ct.volume import Volume, check_volume, grid_difference, to_file_axes
from flare_lib.machine.atomic_write import atomic_write

LABEL_SUFFIXES = (*SUFFIXES, SEG_SUFFIX)


def load_ct(path: str | os.PathLike, *, series: str | None = None) -> Volume:
    """Load a CT in HU from a .nii or .nii.gz file (NIfTI-1 or 2), or from a folder or .zip that holds DICOM.

    `series` names one of several DICOM series (`dicom_series.find_series`); without it, the only CT is taken. The array
    is int16 if every value is a whole number that fits, float32 otherwise; a float64 copy of it is never made. A fourth
    axis of length 1 is dropped. Raises FileNotFoundError for a missing file and ValueError, in one line, for anything
    that is not a complete 3-D CT: truncated or damaged, 2-D or 4-D, NaN or Inf, grey values that are not HU
    (`hu_problem`), a spacing that is not positive, a sheared affine, no orientation in the header, several CT series.
    """
    path = Path(path)
    if is_dicom(path):
        volume = load_dicom(path, series)
    elif series is None:
        volume = load_nifti(path, (np.int16, np.float32))
    else:
        raise ValueError(f"--series needs a folder or a .zip that holds DICOM, got {path}")
    if problem := hu_problem(volume.array_zyx):
        raise ValueError(f"{path} must be a CT in HU: {problem}")
    return volume


def is_dicom(path: Path) -> bool:
    """Return whether a path leads to DICOM (a folder, a .zip, a DICOMDIR, a .dcm file) rather than to a NIfTI file."""
    return may_hold_dicom(path) and not path.name.lower().endswith(SUFFIXES)


def load_label_map(path: str | os.PathLike) -> Volume:
    """Load a label map from a .nii or .nii.gz file as uint8, whatever the stored dtype.

    Raises the errors of `load_ct`, and ValueError for labels that are not whole numbers from 0 to 255. DICOM-SEG is
    written, not read.
    """
    path = Path(path)
    if os.path.lexists(path) and not path.name.lower().endswith(SUFFIXES):
        why = f" ({SEG_SUFFIX}: DICOM-SEG is written, not read)" if is_seg(path) else ""
        raise ValueError(f"a label map must be a .nii or .nii.gz file, got {path}{why}")
    return load_nifti(path, (np.uint8,))


def load_labels_on(ct: Volume, path: str | os.PathLike, *, n_classes: int = N_CLASSES) -> np.ndarray:
    """Load the label map of a CT: uint8 (Z, Y, X), 0 to `n_classes` - 1, in the CT's shape.

    Raises the errors of `load_label_map`, and ValueError for other labels or a map that lies on another grid.
    """
    labels = load_label_map(path)
    if differs := grid_difference(labels, ct):
        raise ValueError(f"{path} must lie on the CT's grid, got {differs}")
    return as_label_map(labels.array_zyx, str(path), n_classes=n_classes)


def save_label_map(path: str | os.PathLike, label_map_zyx: np.ndarray, like: Volume) -> None:
    """Save labels as uint8 (slope 1, intercept 0) on the grid of the file that `like` came from.

    `label_map_zyx`: integers 0..255, of like's shape. The new file has the shape, affine, orientation and NIfTI version
    of the original, and appears complete or not at all. A path that ends in .dcm gets a DICOM-SEG of labels 0..13
    (`dicom_seg`), for which `like` must come from DICOM. Raises TypeError if `like` is no volume, and ValueError for
    other labels or shapes, or for a path that cannot be written or at which a .dcm file lies that flare-lib did not
    make.
    """
    check_volume(like, "like")
    check_unmasked(label_map_zyx, "label_map_zyx")
    labels = like.with_array(np.asarray(label_map_zyx)).array_zyx
    if labels.dtype != np.uint8 and not (labels.dtype.kind in "bui" and labels.min() >= 0 and labels.max() <= 255):
        raise ValueError(f"labels must be integers from 0 to 255, got {labels.dtype}, {labels.min()} to {labels.max()}")
    if is_seg(path):
        check_writable(path, suffixes=(SEG_SUFFIX,))
        save_dicom_seg(Path(path), as_label_map(labels).astype(np.uint8, copy=False), like)
    else:
        _save(path, like.with_array(labels.astype(np.uint8, copy=False)))


def is_seg(path: str | os.PathLike) -> bool:
    """Return whether labels saved to `path` become a DICOM-SEG."""
    return str(path).lower().endswith(SEG_SUFFIX)


def check_labels_fit(path: str | os.PathLike, like: Volume) -> None:
    """Raise ValueError unless labels of this CT can be saved to `path` in its format; call it before long work."""
    if is_seg(path):
        check_dicom_seg(like)
        check_replaceable(path)


def save_ct(path: str | os.PathLike, volume: Volume) -> None:
    """Save a CT on its file's grid, as int16 if its array is int16 and float32 otherwise; see `save_label_map`."""
    dtype = np.int16 if volume.array_zyx.dtype == np.int16 else np.float32
    _save(path, volume.with_array(volume.array_zyx.astype(dtype, copy=False)))


def check_writable(path: str | os.PathLike, *, suffixes: tuple[str, ...] = SUFFIXES, instead: str = "") -> None:
    """Raise ValueError unless a file with one of `suffixes` can be written to `path`; leaves nothing behind.

    `instead`: what else an output may do than end in one of them, for the message; nothing if empty.
    """
    path = Path(path)
    if not path.name.lower().endswith(suffixes):
        ways = " or ".join(suffixes) + (f", or {instead}" if instead else "")
        raise ValueError(f"an output must end in {ways}, got {path}")
    if path.name.lower() in suffixes:  # what a shell makes of $NAME.nii.gz where NAME is not set
        raise ValueError(f"an output must have a name before its ending, got {path}")
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


# The fields that place a NIfTI grid in the world. Nothing else (descriptions, names, scaling) is carried over.
_GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def _save(path: str | os.PathLike, volume: Volume) -> None:
    """Write a volume on its grid in its own dtype, to a file next to the target which is then renamed."""
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
    # nibabel itself refuses to write some spellings of an ending, such as .Nii, after all the work
    with atomic_write(path) as unfinished, ImageOpener(str(unfinished), "wb") as file:
        image.to_stream(file.fobj)
