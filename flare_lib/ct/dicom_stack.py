"""Slices as a stack: every slice in its place, all of one size, evenly spaced and straight above one another.

A scanner may tilt its gantry. Its slices are then still parallel, but each lies a little further along its columns than
the one before. If that is all (a clean shear), shifting the slices along their columns straightens the stack.
Reference: DICOM PS3.3, C.7.6.2 (image plane), C.8.2.1 (image type, gantry tilt) and C.11.1 (from stored values to HU).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from flare_lib.ct.dicom_frames import ENHANCED_CT
from flare_lib.ct.dicom_headers import Header, plain_text
from flare_lib.ct.dicom_pixels import hu_of, read_frames

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CT_CLASSES = {"", CT_IMAGE, *ENHANCED_CT}
_CLASSES = CT_CLASSES | {_SECONDARY_CAPTURE}  # of a file with modality CT: some writers know no better one
_HOUNSFIELD = {"HU", "HU_MOD", "US"}  # US is "unspecified"
# What an image of several energies may show in place of HU, whatever unit it states (PS3.3, C.8.2.1.1.1).
_NO_HU = {"MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_VALUE_BASED", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY"}
# Slices whose numbers differ by less than this share one grid: over 512 pixels it amounts to half a pixel.
_SAME = 1e-3
_MOST_TILT_DEGREES = 30.5  # no gantry tilts further
_STATED_DEGREES = 1.0  # how far a tilt may lie from the one that the header states


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in order, copies left out, and where they lie.

    `affine`: (4, 4), from index (column, row, slice) to LPS in mm, of the straightened slices. `tilt_rows`: how many
    rows further along its columns each slice lies than the one before; 0 for a stack that was straight already.
    """

    slices: tuple[Header, ...]
    affine: np.ndarray
    tilt_rows: float = 0.0

    @property
    def spacing_zyx_mm(self) -> tuple[float, ...]:
        """The distance between slices, rows and columns."""
        return tuple(np.linalg.norm(self.affine[:3, 2::-1], axis=0).tolist())

    @property
    def tilt_degrees(self) -> float:
        """The angle of the gantry."""
        step_mm, row_mm, _ = self.spacing_zyx_mm
        return math.degrees(math.atan2(abs(self.tilt_rows) * row_mm, step_mm))

    @property
    def is_axial(self) -> bool:
        """Whether the slices lie across the body rather than along it."""
        return bool(np.abs(self.affine[:3, 2]).argmax() == 2)


def check_is_ct_slice(header: Header) -> None:
    """Raise ValueError for a file or a frame that is not a single CT slice in HU, saying what it is instead."""
    kind = header.kind
    sop_class = str(header.value("SOPClassUID") or "")
    modality = header.code("Modality") or ("CT" if sop_class == CT_IMAGE else "")
    if modality != "CT" or sop_class not in _CLASSES:
        raise ValueError(f"{header} must be a CT, got {kind}")
    if is_localizer(header):
        raise ValueError(f"{header} must be a slice of a CT, got a localizer (scout)")
    if (frames := header.value("NumberOfFrames") or 1) != 1:
        raise ValueError(f"{header} must hold one slice, got {frames} frames: {kind}")
    if (colour := header.code("PhotometricInterpretation") or "none") not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"{header} must hold grey values, got {plain_text(colour, 'colours')}: {kind}")
    if header.value("ModalityLUTSequence") is not None or header.number("RescaleSlope") == 0:
        raise ValueError(
            f"{header} must say how its values become HU by a slope that is not 0, got a slope of 0 or a table"
        )
    if (unit := header.code("RescaleType") or "HU") not in _HOUNSFIELD:
        raise ValueError(f"{header} must hold HU, got values in {plain_text(unit, 'unit')}")
    if maps := _NO_HU & header.codes("ImageType"):
        raise ValueError(f"{header} must hold HU, got a map of a material or a density ({', '.join(maps)})")
    header.number("RescaleIntercept")


def is_localizer(header: Header) -> bool:
    """Return whether an image says that it is a localizer (scout, topogram)."""
    return "LOCALIZER" in header.codes("ImageType")


def place_slices(headers: Sequence[Header], where: Path) -> Stack:
    """Return slices as a stack; identical copies of a slice count once.

    Raises ValueError, naming a file, for anything but CT slices of one size and frame of reference that are evenly
    spaced and straight above one another, or tilted as a gantry tilts them. `where`: the folder to name.
    """
    for header in headers:
        check_is_ct_slice(header)
    _check_same(headers, "rows and columns", lambda h: (h.whole("Rows"), h.whole("Columns")))
    _check_same(headers, "PixelSpacing", lambda h: h.numbers("PixelSpacing", 2))
    _check_same(headers, "ImageOrientationPatient", lambda h: h.numbers("ImageOrientationPatient", 6))
    at = {header.numbers("ImagePositionPatient", 3) for header in headers}  # copies lie in one place
    frames = {str(header.value("FrameOfReferenceUID") or "") for header in headers}
    if len(frames) < max(3, len(at)):  # one for every slice tells nothing: some writers draw them
        _check_same(headers, "FrameOfReferenceUID", lambda h: str(h.value("FrameOfReferenceUID") or ""))
    along_row, along_column, row_mm, column_mm = _axes_of(headers[0])
    normal = np.cross(along_row, along_column)
    normal /= np.linalg.norm(normal)  # cosines are written with few digits
    places = {header: np.array(header.numbers("ImagePositionPatient", 3)) for header in headers}
    ordered = sorted(headers, key=lambda header: places[header] @ normal)
    ordered = ordered[:1] + [b for a, b in pairwise(ordered) if not _are_one(a, b, places, normal)]
    axes_mm = np.stack([along_row * column_mm, along_column * row_mm])
    step_mm, shear_mm = _steps(ordered, np.array([places[header] for header in ordered]), normal, axes_mm, where)
    tilt_rows = float(shear_mm @ along_column) / row_mm
    first = places[ordered[0]] + first_row(tilt_rows, len(ordered)) * row_mm * along_column
    affine = np.eye(4)
    affine[:3] = np.stack([*axes_mm, normal * step_mm, first], axis=1)
    return Stack(tuple(ordered), affine, tilt_rows)


def _axes_of(header: Header) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return a slice's directions along a row and along a column, and how far apart its rows and its columns are.

    Raises ValueError unless the directions are of length 1 and at right angles, and the distances above 0 mm.
    """
    along_row, along_column = np.reshape(header.numbers("ImageOrientationPatient", 6), (2, 3))
    skewed = np.abs([along_row @ along_row - 1, along_column @ along_column - 1, along_row @ along_column]).max()
    row_mm, column_mm = header.numbers("PixelSpacing", 2)
    if skewed > 0.01 or min(row_mm, column_mm) <= 0:
        raise ValueError(
            f"{header} must have two axes of length 1 at right angles and a PixelSpacing above 0, got "
            f"{header.value('ImageOrientationPatient')} and {header.value('PixelSpacing')}"
        )
    return along_row, along_column, row_mm, column_mm


def _steps(
    ordered: list[Header], places_mm: np.ndarray, normal: np.ndarray, axes_mm: np.ndarray, where: Path
) -> tuple[float, np.ndarray]:
    """Return the step from one of the ordered slices to the next, in mm: along their normal, and beside it (x, y, z).

    `places_mm` (n, 3): where they lie; `axes_mm` as in `_shear`. The step of a single slice is its thickness. Raises
    ValueError, naming a file, for slices that are uneven or lie askew, unless a gantry tilts them so.
    """
    if len(ordered) == 1:
        thickness_mm = ordered[0].number("SliceThickness")
        if thickness_mm <= 0:
            raise ValueError(f"{ordered[0]}, a single slice, must have a SliceThickness above 0, got {thickness_mm:g}")
        return thickness_mm, np.zeros(3)
    steps_mm = np.diff([place @ normal for place in places_mm])
    step_mm = steps_mm.mean()
    away_mm = np.array([place - places_mm[0] - k * step_mm * normal for k, place in enumerate(places_mm)])
    off_mm = np.linalg.norm(away_mm, axis=1)
    if max(*off_mm, np.ptp(steps_mm)) <= step_mm / 4:
        return step_mm, np.zeros(3)
    shear_mm = _shear(ordered, away_mm, steps_mm, axes_mm)
    if not shear_mm.any():
        raise ValueError(
            f"the slices in {where} must be evenly spaced and straight above one another, or tilted as a gantry tilts "
            f"them, got one {max(off_mm):.1f} mm off its place: {_name(ordered[int(np.argmax(off_mm))])} (are some "
            "missing?)"
        )
    return step_mm, shear_mm


def is_stack(headers: Sequence[Header], where: Path) -> bool:
    """Return whether slices form one stack: whether `place_slices` has nothing against them."""
    try:
        place_slices(headers, where)
    except ValueError:
        return False
    return True


def first_row(tilt_rows: float, n_slices: int) -> int:
    """Return the first row of straightened slices, counted in rows of the first slice as it was."""
    return math.floor(min(0.0, tilt_rows * (n_slices - 1)))


def _name(header: Header) -> str:
    return f"{header.path.name}{'' if header.parent is None else f', frame {header.frame + 1}'}"


def _check_same(headers: Sequence[Header], name: str, of: Callable[[Header], tuple | str]) -> None:
    """Raise ValueError, naming the file, if a slice's `name` differs from that of most slices."""
    values = [of(header) for header in headers]
    usual = Counter(values).most_common(1)[0][0]
    for header, value in zip(headers, values, strict=True):
        rounded = not isinstance(value, str) and not all(isinstance(n, int) for n in value)
        if value != usual and not (rounded and np.allclose(value, usual, rtol=_SAME, atol=_SAME)):
            raise ValueError(f"all slices of a series must have the same {name}, got {value} in {header}, not {usual}")


def _shear(slices: list[Header], away_mm: np.ndarray, steps_mm: np.ndarray, axes_mm: np.ndarray) -> np.ndarray:
    """Return how far each slice lies beside the one before (x, y, z) in mm, if a tilted gantry explains it; else 0.

    `away_mm` (n, 3): the slices' distances from where they would lie straight above the first. `axes_mm`: the image's
    row and column steps. The slices must be evenly spaced and shifted, to within half a pixel, along their columns
    only, by an angle that gantries have; and the header must not state another angle.
    """
    shear_mm = away_mm[-1] / max(1, len(slices) - 1)
    half_mm = np.linalg.norm(axes_mm, axis=1).min() / 2
    bent_mm = np.linalg.norm(away_mm - np.arange(len(slices))[:, None] * shear_mm, axis=1).max()
    sideways_mm = abs(away_mm[-1] @ axes_mm[0]) / np.linalg.norm(axes_mm[0])
    degrees = math.degrees(math.atan2(float(np.linalg.norm(shear_mm)), float(steps_mm.mean())))
    stated = slices[0].value("GantryDetectorTilt")
    if (
        len(slices) < 3
        or np.ptp(steps_mm) > steps_mm.mean() / 4
        or max(bent_mm, sideways_mm) > half_mm
        or degrees > _MOST_TILT_DEGREES
        or (stated is not None and abs(abs(slices[0].number("GantryDetectorTilt")) - degrees) > _STATED_DEGREES)
    ):
        return np.zeros(3)
    return shear_mm


def _are_one(a: Header, b: Header, places: dict[Header, np.ndarray], normal: np.ndarray) -> bool:
    """Return whether two slices are copies of one; ValueError for two in the same place that differ."""
    if (places[b] - places[a]) @ normal > _SAME:
        return False
    if np.abs(places[b] - places[a]).max() > _SAME or not np.array_equal(_hu(a), _hu(b)):
        raise ValueError(
            f"every place must have one slice, got {a} and {_name(b)} in the same place with different values "
            "(several phases or reconstructions in one series?)"
        )
    return True


def _hu(header: Header) -> np.ndarray:
    return hu_of(header, read_frames(header)[header.frame])
