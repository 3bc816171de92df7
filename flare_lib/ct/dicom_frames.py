"""The frames of an Enhanced multi-frame CT, each with a header like that of a single-frame slice.

A multi-frame file states once what all frames share, and for each frame what is its own. Here each frame gets the
elements that a file of its own would have, so that the code that follows need not know the difference.
Reference: DICOM PS3.3, A.38 (Enhanced CT), C.7.6.16 (functional groups), C.8.15.3 (those of CT).
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flare_lib.ct.dicom_headers import Header

if TYPE_CHECKING:
    from pydicom import Dataset

ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")  # the second: converted from slices

# {functional group: {its element: the same in a single-frame CT}}
_GROUPS = {
    "PixelMeasuresSequence": {"PixelSpacing": "PixelSpacing", "SliceThickness": "SliceThickness"},
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "PixelValueTransformationSequence": {
        "RescaleSlope": "RescaleSlope",
        "RescaleIntercept": "RescaleIntercept",
        "RescaleType": "RescaleType",
    },
    "CTImageFrameTypeSequence": {"FrameType": "ImageType"},
    "CTReconstructionSequence": {"ConvolutionKernel": "ConvolutionKernel"},
    "CTAcquisitionDetailsSequence": {"GantryDetectorTilt": "GantryDetectorTilt"},
    "CardiacSynchronizationSequence": {"NominalPercentageOfCardiacPhase": "NominalPercentageOfCardiacPhase"},
    "CTXRayDetailsSequence": {"KVP": "KVP"},
    "FrameContentSequence": {
        "StackID": "StackID",
        "TemporalPositionIndex": "TemporalPositionIdentifier",
        "FrameAcquisitionNumber": "AcquisitionNumber",
    },
}
# NumberOfFrames and the two sequences of functional groups: what the file has and a single frame has not
_OWN_TAGS = {0x00280008, 0x52009229, 0x52009230}


def frames_of(header: Header) -> list[Header]:
    """Return a header for every frame of an Enhanced CT, in the file's order; for any other file, its header only.

    Raises ValueError, naming the file, unless it describes as many frames as it holds.
    """
    if header.value("SOPClassUID") not in ENHANCED_CT:
        return [header]
    per_frame: Any = header.value("PerFrameFunctionalGroupsSequence") or ()
    shared: Any = header.value("SharedFunctionalGroupsSequence") or ()
    n_frames = header.whole("NumberOfFrames")
    if n_frames < 1 or len(per_frame) != n_frames:
        raise ValueError(f"{header} must describe each of its frames, got {len(per_frame)} of {n_frames}")
    return [_frame(header, i, [*shared, own]) for i, own in enumerate(per_frame)]


def check_parts(files: Iterable[Header]) -> None:
    """Raise ValueError if a multi-frame image is spread over several files (a concatenation) and one is not there.

    A file without a number among them is no part of any.
    """
    there: dict[str, set[int]] = defaultdict(set)
    n_parts: dict[str, int] = defaultdict(int)
    for file in files:
        image = str(file.value("ConcatenationUID") or "")
        if image and file.value("InConcatenationNumber") is not None:
            number = file.whole("InConcatenationNumber")
            stated = file.value("InConcatenationTotalNumber") is not None
            there[image].add(number)
            n_parts[image] = max(n_parts[image], number, file.whole("InConcatenationTotalNumber") if stated else 0)
    for image, numbers in there.items():
        if len(numbers) < n_parts[image]:
            raise ValueError(f"a multi-frame image in {n_parts[image]} files must be whole, got {len(numbers)} of them")


def _frame(file: Header, i: int, groups: list["Dataset"]) -> Header:
    """Return the header of frame i: the file's elements, and those of its functional groups (the later ones win)."""
    from pydicom import Dataset

    elements = Dataset()
    elements.update({tag: file.elements.get_item(tag) for tag in file.elements.keys() - _OWN_TAGS})
    for group in groups:
        for name, keywords in _GROUPS.items():
            items: Any = file.value(name, group) or ()
            for theirs, ours in keywords.items():
                if items and (value := file.value(theirs, items[0])) is not None:
                    setattr(elements, ours, value)
    return Header(file.path, elements, file.syntax, file.pixels_at, i, file, file.shows)
