"""What is read of one DICOM header, and what is said of it."""

import warnings

import pytest
from dicoms import PATIENT, every, headers_in, write_series
from pydicom import uid

from flare_lib.ct.dicom_headers import plain_text, quiet, read_header


def test_headers_hold_what_places_and_scales_a_slice_and_nothing_of_the_patient(tmp_path):
    (header,) = headers_in(write_series(tmp_path, slices=[3]))
    assert header.numbers("ImagePositionPatient", 3) == (-31.0, 42.0, 16.5)
    assert header.number("SliceThickness") == 5.0
    assert header.whole("Columns") == 7
    assert header.value("PatientName") is None
    assert not {"Mustermann", "4711"} & set(str(header.elements).replace("^", " ").replace("'", " ").split())
    assert 0 not in header.shows[:2]
    assert PATIENT not in str(header.elements)
    assert header.syntax == uid.ExplicitVRLittleEndian
    assert header.path.read_bytes()[header.pixels_at :][:4] == b"\xe0\x7f\x10\0"
    assert (header.kind, header.suspect) == ("CT (CT Image)", "")
    assert (str(header), header.file) == (str(tmp_path / "003.dcm"), header)


def test_a_name_in_other_letters_than_the_header_promises_is_not_read(tmp_path):
    folder = write_series(tmp_path, every(SpecificCharacterSet="ISO_IR 192"), slices=[0])
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes().replace(b"Mustermann", b"M\xfcsterman\xe4"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 not in read_header(path).shows[:2]


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
    (header,) = headers_in(write_series(tmp_path, every(**change), slices=[0]))
    with pytest.raises(ValueError) as refusal:
        read(header)
    assert str(refusal.value).startswith(f"{tmp_path / '000.dcm'} must hold {said}")


def test_what_is_no_dicom_has_no_header(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    assert read_header(tmp_path / "notes.txt") is None
    assert read_header(tmp_path / "nowhere") is None


def test_texts_are_shown_in_plain_letters_and_not_when_they_are_too_long():
    assert plain_text("Odd\nname" + "!" * 50, "no description") == "Odd name"
    assert plain_text(None, "no description") == "no description"
    assert plain_text("x" * 65, "no description") == "a damaged description"


def test_warnings_are_kept_back_inside_and_only_there():
    with quiet():
        warnings.warn("of the patient", UserWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="after"):
        warnings.warn("after", UserWarning, stacklevel=1)
