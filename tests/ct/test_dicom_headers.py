"""What is read of DICOM headers: which files count, how they are grouped, what is said of them."""

import warnings

import pytest
from dicoms import PATIENT, SERIES, a_slice, every, write, write_series
from pydicom import uid

from flare_lib.ct.dicom_headers import about_series, by_series, quiet, read_headers


def test_headers_hold_what_places_and_scales_a_slice_and_nothing_of_the_patient(tmp_path):
    (header,) = read_headers(write_series(tmp_path, slices=[3]))
    assert header.numbers("ImagePositionPatient", 3) == (-31.0, 42.0, 16.5)
    assert header.number("SliceThickness") == 5.0
    assert header.whole("Columns") == 7
    assert header.value("PatientName") is None
    assert PATIENT not in str(header.elements)
    assert header.syntax == uid.ExplicitVRLittleEndian
    assert header.path.read_bytes()[header.pixels_at :][:4] == b"\xe0\x7f\x10\0"
    assert (header.kind, header.suspect) == ("CT (CT Image)", "")


@pytest.mark.parametrize(
    ("change", "read", "said"),
    [
        ({"SliceThickness": None}, lambda h: h.number("SliceThickness"), "1 finite number as SliceThickness, got none"),
        ({"SliceThickness": 2.5}, lambda h: h.whole("SliceThickness"), "a whole number as SliceThickness, got 2.5"),
        (
            {"PixelSpacing": [1, 2, 3]},
            lambda h: h.numbers("PixelSpacing", 2),
            "2 finite numbers as PixelSpacing, got [",
        ),
    ],
)
def test_other_numbers_are_refused_by_name(tmp_path, change, read, said):
    (header,) = read_headers(write_series(tmp_path, every(**change), slices=[0]))
    with pytest.raises(ValueError) as refusal:
        read(header)
    assert str(refusal.value).startswith(f"{tmp_path / '000.dcm'} must hold {said}")


def test_an_empty_folder_has_no_headers(tmp_path):
    assert read_headers(tmp_path) == []
    assert by_series([]) == {}


def test_series_are_told_apart_by_their_uid_and_said_in_few_words(tmp_path):
    write_series(tmp_path)
    other = a_slice(1)
    other.SeriesInstanceUID, other.SeriesDescription = "", "Odd\nname" + "!" * 50
    write(other, tmp_path / "other.dcm")
    series = by_series(read_headers(tmp_path))
    assert {name: len(headers) for name, headers in series.items()} == {SERIES: 5, "": 1}
    assert about_series(SERIES, series[SERIES]) == f"Abdomen 3.0: CT (CT Image), 5 files, {SERIES}"
    assert about_series("", series[""]) == "Odd name: CT (CT Image), 1 file (other.dcm), no UID"


def test_warnings_are_kept_back_inside_and_only_there():
    with quiet():
        warnings.warn("of the patient", UserWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="after"):
        warnings.warn("after", UserWarning, stacklevel=1)
