"""Labels as DICOM-SEG, for any archive: one segment per organ, on the slices of the CT that they were found in.

The file belongs to the CT's study and names its patient, as every image of the study does, and refers to each slice. It
says what made it, codes each organ in SNOMED CT, recommends this project's colours, and is deflated. All 13 organs are
described; one that was not found has no pixels.
Reference: DICOM PS3.3, A.51 and C.8.20 (Segmentation); PS3.16, CID 7150 and 7151 (categories and properties), CID 7162
(families of algorithms); PS3.5, A.5 (deflated).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flare_lib import __version__
from flare_lib.ct.dicom import on_slices
from flare_lib.ct.dicom_derived import MARK, check_replaceable, highdicoms_errors, whole_header
from flare_lib.ct.dicom_headers import Header, quiet
from flare_lib.ct.labels import ORGANS, Organ
from flare_lib.ct.volume import Volume, to_file_axes
from flare_lib.machine.atomic_write import atomic_write
from flare_lib.machine.extras import check_extra, extra

if TYPE_CHECKING:
    from pydicom import Dataset

SEG_SUFFIX = ".dcm"
_SERIES_NUMBER = 1000  # added to the CT's, so that viewers list the labels after it

# {organ: its code in SNOMED CT, the code's meaning}; paired organs share a code and have a side as its modifier
_SNOMED = {
    "liver": ("10200004", "Liver"),
    "right kidney": ("64033007", "Kidney"),
    "spleen": ("78961009", "Spleen"),
    "pancreas": ("15776009", "Pancreas"),
    "aorta": ("15825003", "Aorta"),
    "inferior vena cava": ("64131007", "Inferior vena cava"),
    "right adrenal gland": ("23451007", "Adrenal gland"),
    "left adrenal gland": ("23451007", "Adrenal gland"),
    "gallbladder": ("28231008", "Gallbladder"),
    "esophagus": ("32849002", "Esophagus"),
    "stomach": ("69695003", "Stomach"),
    "duodenum": ("38848004", "Duodenum"),
    "left kidney": ("64033007", "Kidney"),
}
_SIDES = {"right": ("24028007", "Right"), "left": ("7771000", "Left")}
ANATOMICAL_STRUCTURE = ("91723000", "SCT", "Anatomical Structure")


def snomed_of(organ: Organ) -> tuple[tuple[str, str, str], tuple[str, str, str] | None]:
    """Return an organ's code in SNOMED CT and that of its side, or None: (code, "SCT", meaning)."""
    code, meaning = _SNOMED[organ.name]
    side = _SIDES.get(organ.name.partition(" ")[0])
    return (code, "SCT", meaning), side and (side[0], "SCT", side[1])


def check_dicom_seg(like: Volume) -> None:
    """Raise ValueError unless labels of this CT can be saved as DICOM-SEG; call it before long work.

    Raises MissingExtra if the extra `dicom` is not installed.
    """
    check_extra("highdicom", "dicom")
    slices = like.grid.slices
    if not slices:
        raise ValueError(f"only labels of a DICOM series can be saved as {SEG_SUFFIX}, got a CT from another format")
    if len({str(slice_.path) for slice_ in slices}) > 1 and any(slice_.parent for slice_ in slices):
        raise ValueError(f"labels can refer to one multi-frame file, got a series of several: {slices[0].path} ...")
    some = slices if slices[0].parent else _one_of_each(slices)
    _segmentation(some, np.zeros((len(some), slices[0].whole("Rows"), slices[0].whole("Columns")), np.uint8))


def save_dicom_seg(path: Path, label_map_zyx: np.ndarray, like: Volume) -> None:
    """Save labels (uint8, 0 to 13, like's shape) as a DICOM-SEG that refers to the slices `like` was read from.

    Each slice's labels lie on its own pixels; where a tilted gantry was corrected, they go back by the nearest row. The
    file appears complete or not at all. Raises the errors of `check_dicom_seg` and `check_replaceable`.
    """
    check_dicom_seg(like)
    check_replaceable(path)
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    grid = like.grid
    labels = to_file_axes(label_map_zyx, grid).T
    if grid.tilt_rows:
        labels = on_slices(labels, grid.tilt_rows, grid.slices[0].whole("Rows"))
    made = _segmentation(grid.slices, np.ascontiguousarray(labels))
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with atomic_write(path) as unfinished, quiet():
        made.save_as(unfinished, enforce_file_format=True)


def _one_of_each(slices: tuple[Header, ...]) -> tuple[Header, ...]:
    """Return the first slice of each patient, study, series and frame of reference, and the last slice of all."""
    names = ("SeriesInstanceUID", "FrameOfReferenceUID")
    first = {(slice_.shows, *(str(slice_.value(name)) for name in names)): slice_ for slice_ in reversed(slices)}
    return tuple(slice_ for slice_ in slices if slice_ in {*first.values(), slices[-1]})


def _segmentation(slices: tuple[Header, ...], labels: np.ndarray) -> "Dataset":
    """Return labels (slices, rows, columns) as a DICOM-SEG, not yet deflated."""
    with extra("dicom"):
        import highdicom
    from pydicom.uid import generate_uid

    first = slices[0]
    with quiet():
        if first.parent is None:
            images = [whole_header(slice_) for slice_ in slices]
        else:
            images = [whole_header(first.file)]
            in_file = np.zeros((first.file.whole("NumberOfFrames"), *labels.shape[1:]), labels.dtype)
            in_file[[slice_.frame for slice_ in slices]] = labels
            labels = in_file
        with highdicoms_errors(first, "a DICOM-SEG"):
            made = highdicom.seg.Segmentation(
                source_images=images,
                pixel_array=labels,
                segmentation_type="BINARY",
                segment_descriptions=[_described(organ) for organ in ORGANS],
                series_instance_uid=generate_uid(),
                series_number=_SERIES_NUMBER + int(images[0].get("SeriesNumber") or 0),
                sop_instance_uid=generate_uid(),
                instance_number=1,
                manufacturer="flare-lib",
                manufacturer_model_name="flare-lib",
                software_versions=__version__,
                device_serial_number="0",
                content_label="ORGANS",
                content_description="13 abdominal organs, found by a net; not for clinical use",
                series_description=f"13 abdominal organs {MARK}",
            )
        made.ContentCreatorName = ""  # no person made it
    return made


def _described(organ: Organ) -> Any:
    """Return the description of an organ's segment."""
    import highdicom
    from pydicom.sr.codedict import codes

    structure, side = snomed_of(organ)
    described = highdicom.seg.SegmentDescription(
        segment_number=organ.id,
        segment_label=organ.name,
        segmented_property_category=highdicom.sr.CodedConcept(*ANATOMICAL_STRUCTURE),
        segmented_property_type=highdicom.sr.CodedConcept(*structure),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="flare-lib, coarse to fine", family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
        display_color=highdicom.color.CIELabColor.from_string(organ.color),
    )
    if side:
        modifier = highdicom.sr.CodedConcept(*side)
        described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return described
