"""Measurements as a DICOM Structured Report, for any archive: each organ's volume and HU, in codes instead of words.

The report belongs to the CT's study, names its patient, and lists the CT's slices as evidence. Each organ is a group
with its finding site in SNOMED CT (the two of a pair with their sides), its volume in mL, and mean and standard
deviation of its HU. An organ that the border of the scan cuts has this in its group's name. No person has verified it.

Reference: DICOM PS3.16, TID 1500 (measurement report) and TID 1501 (measurement group); PS3.3, A.35.2 (Enhanced SR).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare_lib import __version__
from flare_lib.ct.dicom_derived import MARK, check_replaceable, highdicoms_errors, whole_header
from flare_lib.ct.dicom_headers import Header, quiet
from flare_lib.ct.dicom_seg import ANATOMICAL_STRUCTURE, snomed_of
from flare_lib.ct.volume import Volume
from flare_lib.evaluation.measurements import CUT, Measurement
from flare_lib.machine.atomic_write import atomic_write
from flare_lib.machine.extras import check_extra, extra

if TYPE_CHECKING:
    from pydicom import Dataset

REPORT_SUFFIX = ".dcm"
_SERIES_NUMBER = 2000  # added to the CT's, so that viewers list the report after it and its labels
_MILLILITRE = ("ml", "UCUM", "ml")


def check_report(path: str | Path, ct: Volume) -> None:
    """Raise ValueError unless measurements of this CT can be reported in a file `path` (see `check_replaceable`).

    Raises MissingExtra without the extra `dicom`.
    """
    check_extra("highdicom", "dicom")
    if not ct.grid.slices:
        raise ValueError("only measurements of a DICOM series can be a DICOM report, got a CT from another format")
    check_replaceable(path)


def write_report(path: str | Path, measured: Sequence[Measurement], ct: Volume) -> None:
    """Write the measurements of a CT as a DICOM Structured Report, complete or not at all.

    Raises the errors of `check_report`, and ValueError if nothing was measured or if a slice's header lacks what a
    report must refer to.
    """
    check_report(path, ct)
    if not measured:
        raise ValueError("a report must have an organ that was measured, got none")
    slices: list[Header] = []
    for slice_ in ct.grid.slices:
        file = slice_ if slice_.parent is None else slice_.file
        if not slices or str(file.path) != str(slices[-1].path):
            slices.append(file)
    with quiet(), atomic_write(path) as unfinished:
        _report(measured, [whole_header(file) for file in slices], slices[0]).save_as(
            unfinished, enforce_file_format=True
        )


def _report(measured: Sequence[Measurement], images: list["Dataset"], first: Header) -> "Dataset":
    with extra("dicom"):
        from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(), name="flare-lib", manufacturer_name="flare-lib", model_name=f"flare-lib {__version__}"
    )
    with highdicoms_errors(first, "a DICOM report"):
        report = sr.MeasurementReport(
            observation_context=sr.ObservationContext(
                observer_device_context=sr.ObserverContext(codes.DCM.Device, device)
            ),
            procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
            imaging_measurements=[_group(organ) for organ in measured],
        )
        return sr.EnhancedSR(
            evidence=images,
            content=report,
            series_instance_uid=generate_uid(),
            series_number=_SERIES_NUMBER + int(images[0].get("SeriesNumber") or 0),
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="flare-lib",
            is_complete=True,
            series_description=f"Measurements of abdominal organs {MARK}",
        )


def _group(measured: Measurement) -> Any:
    """Return the measurements of one organ."""
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    structure, side = snomed_of(measured.organ)
    site = sr.FindingSite(sr.CodedConcept(*structure), laterality=sr.CodedConcept(*side) if side else None)
    hu: dict[str, Any] = {"name": codes.DCM.AttenuationCoefficient, "unit": codes.UCUM.HounsfieldUnit}
    name = f"{measured.organ.name}{f', {CUT}' * measured.cut_off}"
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier=name),
        finding_type=sr.CodedConcept(*ANATOMICAL_STRUCTURE),
        finding_sites=[site],
        measurements=[
            sr.Measurement(codes.SCT.Volume, round(measured.volume_ml, 2), sr.CodedConcept(*_MILLILITRE)),
            sr.Measurement(value=round(measured.mean_hu, 2), derivation=codes.SCT.Mean, **hu),
            sr.Measurement(value=round(measured.sd_hu, 2), derivation=codes.SCT.StandardDeviation, **hu),
        ],
    )
