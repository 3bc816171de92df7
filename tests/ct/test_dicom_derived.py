"""Files made of a CT: whose place they may take, and what highdicom's errors may not tell."""

import pytest
from dicoms import PATIENT, other_series, write_series

from flare_lib.ct.dicom_derived import check_replaceable, highdicoms_errors, whole_header
from flare_lib.ct.dicom_headers import read_header


def described(text):
    def change(ds, k):
        ds.SeriesDescription = text

    return change


def test_only_what_is_empty_absent_or_ours_may_be_replaced(tmp_path):
    folder = write_series(tmp_path / "ct")
    other_series(folder, 7)
    (tmp_path / "damaged.dcm").write_bytes((folder / "001.dcm").read_bytes()[:200])
    (tmp_path / "junk.dcm").write_bytes(b"no DICOM")
    (tmp_path / "link.dcm").symlink_to(folder / "000.dcm")
    for name in ("ct/000.dcm", "ct/7_000.dcm", "damaged.dcm", "junk.dcm", "link.dcm"):
        with pytest.raises(ValueError, match=f"{name.split('/')[-1]}") as error:
            check_replaceable(tmp_path / name)
        assert PATIENT not in str(error.value)
    ours = write_series(tmp_path / "ours", described("13 abdominal organs (flare-lib)"))
    (tmp_path / "empty.dcm").touch()
    for path in (ours / "000.dcm", tmp_path / "empty.dcm", tmp_path / "none.dcm", tmp_path / "no" / "none.dcm"):
        check_replaceable(path)


def test_what_must_be_there_is_asked_for_and_what_may_be_empty_is_added(tmp_path):
    def anonymous(ds, k):
        ds.StudyInstanceUID = "1.2.3"
        del ds.PatientName, ds.PatientID

    header = read_header(write_series(tmp_path / "a", anonymous) / "000.dcm")
    whole = whole_header(header)
    assert (str(whole.PatientName or ""), whole.StudyInstanceUID) == ("", "1.2.3")
    assert "PixelData" not in whole
    without = read_header(write_series(tmp_path / "b") / "000.dcm")
    with pytest.raises(ValueError, match=r"000\.dcm must have a StudyInstanceUID for DICOM to refer to it, got none"):
        whole_header(without)


def test_highdicoms_errors_do_not_quote_the_patient(tmp_path):
    header = read_header(write_series(tmp_path / "a") / "000.dcm")
    with (
        pytest.raises(
            ValueError, match=r"000\.dcm must have a header that a DICOM-SEG can refer to, .* \(KeyError\)$"
        ) as error,
        highdicoms_errors(header, "a DICOM-SEG"),
    ):
        raise KeyError(PATIENT)
    assert PATIENT not in str(error.value)
    assert error.value.__suppress_context__
