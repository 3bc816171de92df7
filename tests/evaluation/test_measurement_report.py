"""A DICOM report of measurements: what other readers find in it is what was measured."""

import highdicom
import numpy as np
import pytest
from dicoms import HU, SERIES, a_slice, every, write_series
from pydicom import dcmread, uid
from pydicom.sr.codedict import codes

from flare_lib.ct.files import load_ct, save_ct
from flare_lib.ct.volume import Volume
from flare_lib.evaluation.measurement_report import check_report, write_report
from flare_lib.evaluation.measurements import measure_organs

STUDY = f"{SERIES}.5"


def in_study(ds, k):
    ds.StudyInstanceUID = STUDY


def labels_of(ct):
    """The left kidney in the middle, the liver up to the border."""
    labels = np.zeros(ct.shape_zyx, np.uint8)
    labels[1:3, 2:4, 1:5] = 13
    labels[3:, 1:3, :2] = 1
    return labels


@pytest.fixture
def measured(tmp_path):
    ct = load_ct(write_series(tmp_path / "ct", in_study))
    organs = measure_organs(ct, labels_of(ct))
    write_report(tmp_path / "report.dcm", organs, ct)
    return organs, tmp_path / "report.dcm"


def test_highdicom_reads_the_same_numbers_under_the_organs_codes(measured):
    organs, path = measured
    report = highdicom.sr.srread(path)
    groups = report.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["liver, at least: cut by the border", "left kidney"]
    sites = [group.finding_sites[0] for group in groups]
    assert [(site.value.value, site.value.scheme_designator) for site in sites] == [
        ("10200004", "SCT"),
        ("64033007", "SCT"),
    ]
    assert [site.laterality and site.laterality.meaning for site in sites] == [None, "Left"]
    for group, organ in zip(groups, organs, strict=True):
        volume, mean, sd = group.get_measurements()
        assert (volume.name, volume.unit.value) == (codes.SCT.Volume, "ml")
        assert (mean.unit, mean.derivation, sd.derivation) == (
            codes.UCUM.HounsfieldUnit,
            codes.SCT.Mean,
            codes.SCT.StandardDeviation,
        )
        expected = (organ.volume_ml, organ.mean_hu, organ.sd_hu)
        assert [float(m.value) for m in (volume, mean, sd)] == pytest.approx(expected, abs=0.006)
    assert organs[0].volume_ml == pytest.approx(2 * 2 * 2 * 3.0 * 1.25 * 0.75 / 1000)


def test_the_report_is_of_the_cts_study_and_lists_its_slices(measured):
    ds = dcmread(measured[1])
    slices = {a_slice(k).SOPInstanceUID for k in range(len(HU))}
    assert (ds.SOPClassUID, ds.Modality, ds.StudyInstanceUID) == (uid.EnhancedSRStorage, "SR", STUDY)
    assert (ds.PatientID, ds.CompletionFlag, ds.VerificationFlag) == ("4711", "COMPLETE", "UNVERIFIED")
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    [evidence] = ds.CurrentRequestedProcedureEvidenceSequence
    [series] = evidence.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SERIES
    assert {image.ReferencedSOPInstanceUID for image in series.ReferencedSOPSequence} == slices


def test_what_cannot_be_reported_is_refused_and_leaves_nothing(tmp_path):
    ct = load_ct(write_series(tmp_path / "ct", in_study))
    with pytest.raises(ValueError, match="must have an organ that was measured, got none"):
        write_report(tmp_path / "r.dcm", [], ct)
    organs = measure_organs(ct, labels_of(ct))
    stray = load_ct(write_series(tmp_path / "stray", every(FrameOfReferenceUID="1.2.3")))
    with pytest.raises(ValueError, match=r"must have a StudyInstanceUID for DICOM to refer to it, got none"):
        write_report(tmp_path / "r.dcm", organs, stray)
    save_ct(tmp_path / "ct.nii.gz", Volume.from_array(ct.array_zyx, ct.spacing_zyx_mm))
    with pytest.raises(ValueError, match="only measurements of a DICOM series can be a DICOM report, got a CT from an"):
        check_report(tmp_path / "r.dcm", load_ct(tmp_path / "ct.nii.gz"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct", "ct.nii.gz", "stray"]


def test_a_slice_is_never_overwritten_by_its_report(tmp_path):
    folder = write_series(tmp_path / "ct", in_study)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    ct = load_ct(folder)
    organs = measure_organs(ct, labels_of(ct))
    for path in (folder / "002.dcm", tmp_path / "ct" / ".." / "ct" / "002.dcm"):
        with pytest.raises(ValueError, match=r"not replace a file that flare-lib did not make, got .*\.dcm \(CT"):
            write_report(path, organs, ct)
    for _ in range(2):  # a report of its own may be replaced
        write_report(folder / "report.dcm", organs, ct)
    assert {path: path.read_bytes() for path in before} == before
