"""Which of several series is taken, and what is passed over for it by name."""

import numpy as np
import pytest
from dicoms import HU, SERIES, N, every, other_series, set_elements, store, write_series
from series import CAPTURE, CONTOURS, REPORT, SAGITTAL, SCOUT, hu_of, refusal_of

from flare_lib.ct.dicom_series import find_series
from flare_lib.ct.files import load_ct


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
        (every(ImageType=["derived", "secondary", "axial", "mip"]), [1, 2, 3]),
    ],
    ids=["a single slice", "sagittal", "a projection", "in small letters"],
)
def test_whole_axial_series_are_preferred(tmp_path, change, slices):
    other_series(write_series(tmp_path), 7, change, slices)
    assert find_series(tmp_path)[1].doubt is not None
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    assert hu_of(tmp_path, f"{SERIES}.7").shape[0] == len(slices)


def test_a_spoilt_series_is_not_replaced_by_a_doubtful_one(tmp_path):
    write_series(tmp_path, slices=[0, 1, 3, 4])
    other_series(tmp_path, 7, every(ImagePositionPatient=[0, 0, 100]), [2])
    assert "are some missing?" in refusal_of(tmp_path)


def test_a_spoilt_series_is_passed_over_with_its_fault(tmp_path):
    write_series(tmp_path / "a")
    other_series(tmp_path / "b", 7, slices=[0, 1, 3, 4])
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    assert "are some missing?" in load_ct(tmp_path).notes[0]


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
