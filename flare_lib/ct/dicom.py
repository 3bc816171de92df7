"""One DICOM series as a volume: every file in the folder goes to its place, or is refused by name.

Reference: DICOM PS3.3, C.7.6.2 (image plane) and C.11.1 (from stored values to HU).
"""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from flare_lib.ct.dicom_headers import Header, about_series, by_series, quiet, read_headers
from flare_lib.ct.dicom_pixels import read_stored_values
from flare_lib.ct.volume import FileGrid, Volume, place_in_world, scale_values

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
# The classes a file with modality CT may have: the last two are what ITK writes, and multi-frame files.
_CLASSES = {"", _CT_IMAGE, "1.2.840.10008.5.1.4.1.1.7", f"{_CT_IMAGE}.1"}
_HOUNSFIELD = {"HU", "HU_MOD", "US"}  # US is "unspecified"
# Slices whose numbers differ by less than this share one grid: over 512 pixels it amounts to half a pixel.
_SAME = 1e-3


def load_dicom(folder: Path) -> Volume:
    """Load the only DICOM series in a folder, on the series' own grid converted from LPS to RAS.

    int16 or float32, as in `load_ct`; each slice has its own slope and intercept. Identical copies of a slice count
    once. Raises ValueError, in one line, for anything but a single, complete CT series whose slices are of one size,
    evenly spaced and straight above one another.
    """
    with quiet():
        hu_zyx, affine = _load(folder)
    grid = FileGrid(hu_zyx.shape[::-1], np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    return place_in_world(hu_zyx.T, grid, folder)


def _load(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the series' HU (slices, rows, columns) and the affine from index (i, j, k) to LPS in mm, (4, 4)."""
    series = by_series(read_headers(folder))
    if len(series) != 1:
        found = "; ".join(about_series(uid, headers) for uid, headers in sorted(series.items())) or "none"
        raise ValueError(f"{folder} must hold exactly one DICOM series, got {len(series)}: {found}")
    headers = next(iter(series.values()))
    for header in headers:
        _check_is_ct_slice(header)
    _check_same(headers, "rows and columns", lambda h: (h.whole("Rows"), h.whole("Columns")))
    _check_same(headers, "PixelSpacing", lambda h: h.numbers("PixelSpacing", 2))
    _check_same(headers, "ImageOrientationPatient", lambda h: h.numbers("ImageOrientationPatient", 6))
    _check_same(headers, "FrameOfReferenceUID", lambda h: str(h.value("FrameOfReferenceUID") or ""))
    headers, affine = _place_slices(folder, headers)
    hu_zyx = np.empty((len(headers), *(first := _read_hu(headers[0])).shape), first.dtype)
    for k, header in enumerate(headers):
        slice_hu = _read_hu(header) if k else first
        if slice_hu.dtype != hu_zyx.dtype:
            hu_zyx = hu_zyx.astype(np.float32, copy=False)
        hu_zyx[k] = slice_hu
    return hu_zyx, affine


def _read_hu(header: Header) -> np.ndarray:
    """Return a slice in HU (rows, columns): int16 if that loses nothing, float32 otherwise."""
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    return scale_values(read_stored_values(header)[..., None], slope, intercept, np.int16, header.path)[..., 0]


def _check_is_ct_slice(header: Header) -> None:
    """Raise ValueError for a file that is not a single CT slice in HU, saying what it is instead."""
    path, kind = header.path, header.kind
    sop_class = str(header.value("SOPClassUID") or "")
    modality = header.value("Modality") or ("CT" if sop_class == _CT_IMAGE else "")
    if modality != "CT" or sop_class not in _CLASSES:
        raise ValueError(f"{path} must be a CT, got {kind}")
    image_type: Any = header.value("ImageType") or []
    if "LOCALIZER" in image_type:
        raise ValueError(f"{path} must be a slice of a CT, got a localizer (scout)")
    if (frames := header.value("NumberOfFrames") or 1) != 1:
        raise ValueError(f"{path} must hold one slice, got {frames} frames: {kind}")
    if (colour := header.value("PhotometricInterpretation") or "none") not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"{path} must hold grey values, got {colour}: {kind}")
    if header.value("ModalityLUTSequence") is not None or header.number("RescaleSlope") == 0:
        raise ValueError(
            f"{path} must say how its values become HU by a slope that is not 0, got a slope of 0 or a table"
        )
    if (unit := header.value("RescaleType") or "HU") not in _HOUNSFIELD:
        raise ValueError(f"{path} must hold HU, got values in {unit}")
    header.number("RescaleIntercept")


def _check_same(headers: list[Header], name: str, of: Callable[[Header], tuple | str]) -> None:
    """Raise ValueError, naming the file, if a slice's `name` differs from that of most slices."""
    values = [of(header) for header in headers]
    usual = Counter(values).most_common(1)[0][0]
    for header, value in zip(headers, values, strict=True):
        rounded = not isinstance(value, str) and not all(isinstance(n, int) for n in value)
        if value != usual and not (rounded and np.allclose(value, usual, rtol=_SAME, atol=_SAME)):
            raise ValueError(
                f"all slices of a series must have the same {name}, got {value} in {header.path}, not {usual}"
            )


def _place_slices(folder: Path, headers: list[Header]) -> tuple[list[Header], np.ndarray]:
    """Return the slices sorted by position, without copies, and the affine from index (i, j, k) to LPS mm, (4, 4)."""
    along_row, along_column = np.reshape(headers[0].numbers("ImageOrientationPatient", 6), (2, 3))
    skewed = np.abs([along_row @ along_row - 1, along_column @ along_column - 1, along_row @ along_column]).max()
    spacing_row_mm, spacing_column_mm = headers[0].numbers("PixelSpacing", 2)
    if skewed > 0.01 or min(spacing_row_mm, spacing_column_mm) <= 0:
        raise ValueError(
            f"{headers[0].path} must have two axes of length 1 at right angles and a PixelSpacing above 0, got "
            f"{headers[0].value('ImageOrientationPatient')} and {headers[0].value('PixelSpacing')}"
        )
    normal = np.cross(along_row, along_column)
    normal /= np.linalg.norm(normal)  # cosines are written with few digits
    places = {header: np.array(header.numbers("ImagePositionPatient", 3)) for header in headers}
    headers = sorted(headers, key=lambda header: places[header] @ normal)
    headers = headers[:1] + [b for a, b in pairwise(headers) if not _are_one(a, b, places, normal)]
    first = places[headers[0]]
    if len(headers) == 1:
        step_mm = headers[0].number("SliceThickness")
        if step_mm <= 0:
            raise ValueError(f"{headers[0].path}, a single slice, must have a SliceThickness above 0, got {step_mm:g}")
    else:
        steps_mm = np.diff([places[header] @ normal for header in headers])
        step_mm = steps_mm.mean()
        off_mm = [np.linalg.norm(places[h] - first - k * step_mm * normal) for k, h in enumerate(headers)]
        if max(*off_mm, np.ptp(steps_mm)) > step_mm / 4:
            raise ValueError(
                f"the slices in {folder} must be evenly spaced and straight above one another (none missing, no tilted "
                f"gantry), got one {max(off_mm):.1f} mm off its place: {headers[int(np.argmax(off_mm))].path.name}"
            )
    affine = np.eye(4)
    affine[:3] = np.stack(
        [along_row * spacing_column_mm, along_column * spacing_row_mm, normal * step_mm, first], axis=1
    )
    return headers, affine


def _are_one(a: Header, b: Header, places: dict[Header, np.ndarray], normal: np.ndarray) -> bool:
    """Return whether two slices are copies of one; ValueError for two at the same place that differ."""
    if (places[b] - places[a]) @ normal > _SAME:
        return False
    if np.abs(places[b] - places[a]).max() > _SAME or not np.array_equal(_read_hu(a), _read_hu(b)):
        raise ValueError(
            f"every place must have one slice, got {a.path} and {b.path.name} at one and with different values "
            "(several phases or reconstructions in one series?)"
        )
    return True
