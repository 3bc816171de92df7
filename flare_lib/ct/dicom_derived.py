"""What all DICOM files that are made from a CT have in common: they refer to it, and never take another file's place.

They belong to the CT's study and name its patient, so they need most of its header. Reference: DICOM PS3.3, C.7 (what
is common to all images of a patient, a study and a frame of reference).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flare_lib.ct.dicom_headers import Header, open_dicom, read_header

if TYPE_CHECKING:
    from pydicom import Dataset

MARK = "(flare-lib)"  # at the end of the description of every series of ours

# What an image must have, even if empty; anonymisers remove some of it.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_MUST_BE_THERE = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")


def check_replaceable(path: str | os.PathLike) -> None:
    """Raise ValueError if a file lies at `path`, unless it is empty or a DICOM file that flare-lib made.

    It may be a slice of the CT, or of another series beside it, even if it is damaged: nothing else holds its pixels.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size == 0:
        return
    there = read_header(path)
    if there is None or not str(there.value("SeriesDescription")).endswith(MARK):
        kind = "which is no DICOM" if there is None else there.kind
        raise ValueError(f"the output must not replace a file that flare-lib did not make, got {path} ({kind})")


def whole_header(file: Header) -> "Dataset":
    """Return all elements of a file but its pixels, adding those that may be empty; ValueError if others are absent."""
    from pydicom import dcmread

    with open_dicom(file.path) as opened:
        elements = dcmread(opened, stop_before_pixels=True, force=True)
    for keyword in _MUST_BE_THERE:
        if not elements.get(keyword):
            raise ValueError(f"{file} must have a {keyword} for DICOM to refer to it, got none")
    for keyword in _MAY_BE_EMPTY:
        if keyword not in elements:
            setattr(elements, keyword, None)
    return elements


@contextmanager
def highdicoms_errors(file: Header, made: str) -> Iterator[None]:
    """Raise, in place of whatever highdicom raises, a ValueError without its text: it may quote the patient's header.

    `made`: what is being made of `file`, with its article.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{file.path} must have a header that {made} can refer to, got one that highdicom refuses "
            f"({type(error).__name__})"
        ) from None
