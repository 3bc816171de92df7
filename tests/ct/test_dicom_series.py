"""Several series in a folder: what is listed of each, which one is taken, what is passed over by name."""

import numpy as np
import pytest
from dicoms import HU, SERIES, N, a_slice, every, only, other_series, set_elements, store, write, write_series
from pydicom import uid

from flare_lib.ct.dicom_series import find_series
from flare_lib.ct.files import load_ct
from flare_lib.ct.volume import to_file_axes

SCOUT = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
SAGITTAL = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
REPORT = {"Modality": "SR", "SOPClassUID": uid.XRayRadiationDoseSRStorage, "SeriesDescription": "Dose report"}
CAPTURE = {"SOPClassUID": uid.SecondaryCaptureImageStorage, "ImagePositionPatient": None}
CONTOURS = {"Modality": "RTSTRUCT", "SOPClassUID": uid.RTStructureSetStorage}


def hu_of(folder, series=None):
    volume = load_ct(folder, series=series)
    return to_file_axes(volume.array_zyx, volume.grid).T


def refusal_of(folder, series=None):
    with pytest.raises(ValueError) as refusal:
        load_ct(folder, series=series)
    assert "\n" not in str(refusal.value)
    return str(refusal.value).replace(str(folder), "FOLDER")


def test_a_series_is_listed_with_all_that_one_needs_to_choose(tmp_path):
    write_series(tmp_path / "a" / "b", every(ConvolutionKernel=["B30f", "3"]))
    other_series(tmp_path, 7, every(**REPORT))
    ct, report = find_series(tmp_path)
    assert (ct.name, ct.description, ct.kind, ct.kernel) == (SERIES, "Abdomen 3.0", "CT (CT Image)", "B30f 3")
    assert (ct.size, ct.against, ct.doubt) == ("5 slices of 3 x 1.25 x 0.75 mm (z, y, x)", None, None)
    assert (report.name, report.description, report.size) == (f"{SERIES}.7", "Dose report", "1 file (7_000.dcm)")
    assert report.against == f"{tmp_path / '7_000.dcm'} must be a CT, got SR (X-Ray Radiation Dose SR)"


def test_an_empty_folder_has_no_series(tmp_path):
    assert find_series(tmp_path) == []


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        (SCOUT, "Abdomen 3.0: CT (CT Image), a scout, 1 file (7_000.dcm)"),
        (REPORT, "Dose report: SR (X-Ray Radiation Dose SR), 1 file (7_000.dcm)"),
        (CAPTURE, "Abdomen 3.0: CT (Secondary Capture Image), 1 file (7_000.dcm)"),
        (CONTOURS, "Abdomen 3.0: RTSTRUCT (RT Structure Set), 1 file (7_000.dcm)"),
    ],
)
def test_what_is_no_ct_is_passed_over_by_name(tmp_path, elements, said):
    other_series(write_series(tmp_path), 7, every(**elements))
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    assert load_ct(tmp_path).notes == (f"passed over beside this series: {said}, {SERIES}.7",)


@pytest.mark.parametrize(
    ("elements", "what"), [(SCOUT, "a localizer (scout)"), (CONTOURS, "RTSTRUCT (RT Structure Set)")]
)
def test_what_lies_among_the_slices_of_a_series_is_passed_over_by_name(tmp_path, elements, what):
    other_series(write_series(tmp_path), 7, every(SeriesInstanceUID=SERIES, **elements))
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    assert load_ct(tmp_path).notes == (f"passed over among the slices: 7_000.dcm, {what}",)


def test_one_of_several_series_is_taken_by_its_uid(tmp_path):
    other_series(write_series(tmp_path), 7, lambda ds, k: store(ds, HU[k] + 1020), range(N))
    assert "got 2 of 2: Abdomen 3.0" in refusal_of(tmp_path)
    np.testing.assert_array_equal(hu_of(tmp_path, SERIES), HU)
    np.testing.assert_array_equal(hu_of(tmp_path, f"{SERIES}.7"), HU - 4)
    assert refusal_of(tmp_path, "1.2").startswith(
        "--series must name one series in FOLDER, got 1.2, which names 0 of 2"
    )


def test_a_series_is_named_in_a_folder_alone(tmp_path):
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(b"anything")
    with pytest.raises(ValueError, match="--series needs a folder"):
        load_ct(path, series=SERIES)


@pytest.mark.parametrize(
    ("change", "slices"),
    [
        (every(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), [2]),  # a single slice that lies otherwise
        (lambda ds, k: set_elements(ds, ImagePositionPatient=[3.0 * k, 5, 6], **SAGITTAL), [0, 1, 2]),
        (every(ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"]), [1, 2, 3]),
    ],
    ids=["a single slice", "sagittal", "a projection"],
)
def test_whole_axial_series_are_preferred(tmp_path, change, slices):
    other_series(write_series(tmp_path), 7, change, slices)
    assert find_series(tmp_path)[1].doubt is not None
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    assert hu_of(tmp_path, f"{SERIES}.7").shape[0] == len(slices)


def test_a_spoilt_series_is_not_replaced_by_a_doubtful_one(tmp_path):
    write_series(tmp_path, slices=[0, 1, 3, 4])
    other_series(tmp_path, 7, every(ImagePositionPatient=[0, 0, 100]), [2])
    assert "none missing" in refusal_of(tmp_path)


def test_a_spoilt_series_is_passed_over_with_its_fault(tmp_path):
    write_series(tmp_path / "a")
    other_series(tmp_path / "b", 7, slices=[0, 1, 3, 4])
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    assert "none missing" in load_ct(tmp_path).notes[0]


# A slice is never lost because it is damaged


@pytest.mark.parametrize("k", [0, N - 1])
@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({}, "one continues the other"),
        ({"SeriesInstanceUID": ""}, "must say what it is and where it belongs"),
        ({"ImagePositionPatient": None}, "must say what it is and where it belongs"),
        ({"Modality": None}, "must say what it is and where it belongs"),
        ({"SOPClassUID": "1.2.840.1.9"}, "must say what it is and where it belongs"),
        ({"SOPClassUID": None, "Modality": None}, "must say what it is"),
    ],
)
def test_a_slice_whose_header_lost_its_series_is_refused(tmp_path, elements, said, k):
    write_series(tmp_path, slices=[i for i in range(N) if i != k])
    other_series(tmp_path, 7, every(**elements), [k])
    assert said in refusal_of(tmp_path)
    assert f"7_{k:03}.dcm" in refusal_of(tmp_path)


def test_a_damaged_file_speaks_against_the_series_beside_it_alone(tmp_path):
    write_series(tmp_path / "a")
    other_series(tmp_path / "b", 7, slices=range(N))
    (tmp_path / "b" / "5.dcm").write_bytes(b"")
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    assert "FOLDER/b/5.dcm must be a complete DICOM file" in refusal_of(tmp_path, f"{SERIES}.7")
    (tmp_path / "c").mkdir()
    (tmp_path / "b" / "5.dcm").rename(tmp_path / "c" / "5.dcm")  # now it may belong to any
    assert "got 0 of 2" in refusal_of(tmp_path)
    assert "FOLDER/c/5.dcm must be a complete DICOM file" in refusal_of(tmp_path, SERIES)


# Several volumes in one series


@pytest.mark.parametrize(
    ("keyword", "values", "words"),
    [
        ("TemporalPositionIdentifier", (1, 2), "phase"),
        ("NominalPercentageOfCardiacPhase", (30, 75), "percent of the heart cycle"),
        ("AcquisitionNumber", (9, 10), "acquisition"),
        ("ConvolutionKernel", ("B30f", "B70f"), "kernel"),
    ],
)
def test_volumes_of_one_series_are_told_apart(tmp_path, keyword, values, words):
    write_series(tmp_path, every(**{keyword: values[0]}))
    late = every(**{keyword: values[1], "SeriesInstanceUID": SERIES})
    other_series(tmp_path, 7, lambda ds, k: (late(ds, k), store(ds, HU[k] + 1020)), range(1, N))
    first, second = find_series(tmp_path)
    assert (first.name, first.part) == (f"{SERIES}#1", f"{words} {values[0]}")
    assert (second.name, second.description) == (f"{SERIES}#2", f"Abdomen 3.0, {words} {values[1]}")
    np.testing.assert_array_equal(hu_of(tmp_path, f"{SERIES}#1"), HU)
    np.testing.assert_array_equal(hu_of(tmp_path, f"{SERIES}#2"), HU[1:] - 4)
    for series in (None, SERIES):
        assert "got " + ("2 of 2" if series is None else SERIES) in refusal_of(tmp_path, series)


def test_images_of_one_place_followed_in_time_are_no_volume(tmp_path):
    write_series(tmp_path / "a")
    for k in range(4):  # a contrast bolus watched at one place
        other_series(tmp_path / "b", 7, every(ImagePositionPatient=[-31, 42, 9], AcquisitionNumber=k), [k])
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    assert "every place must have one slice" in find_series(tmp_path)[1].against


def test_copies_of_a_whole_series_count_once(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "b")
    np.testing.assert_array_equal(hu_of(tmp_path), HU)


def test_nothing_of_the_patient_is_said(tmp_path, capfd):
    other_series(write_series(tmp_path), 7, every(**REPORT))
    other_series(tmp_path, 8, only(0, SeriesInstanceUID=""))
    ds = a_slice(3)
    ds.SeriesInstanceUID = f"{SERIES}.9"
    write(ds, tmp_path / "9.dcm")
    told = [str(s) + s.description + (s.against or "") for s in find_series(tmp_path)] + [refusal_of(tmp_path)]
    assert not any(word in text for text in told for word in ("Mustermann", "4711", "20200229"))
    assert capfd.readouterr() == ("", "")
