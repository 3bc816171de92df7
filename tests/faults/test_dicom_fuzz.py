"""DICOM slices damaged at random: refused in one line, or read with every slice in its place, in little memory."""

import tracemalloc

import damaged_dicom  # of benchmarks/
import fuzz  # of benchmarks/
import pytest

from flare_lib.ct.dicom_headers import WithinFile
from flare_lib.ct.files import load_ct


@pytest.mark.slow("loads 70 series")
def test_damaged_slices_are_refused_in_one_line_or_read_whole():
    found = fuzz.fuzz(fuzz.MODES["dicom"], n=70, seed=1)  # mutations 10, 28, 49 and 64 declare gigabytes
    assert found.nothing, found
    assert 30 < found.refused < 70
    assert found.most_extra_mib < 8


def test_sound_slices_are_read_as_they_are(tmp_path):
    for data in damaged_dicom.sound_slices():
        volume = load_ct(damaged_dicom.put_series(tmp_path, data))
        assert damaged_dicom.as_pydicom_reads(data, volume) is None
        assert volume.spacing_zyx_mm == (24.0, 9.0, 8.5)


def test_an_element_that_declares_gigabytes_costs_no_more_than_its_file(tmp_path):
    slice_ = damaged_dicom.sound_slices()[0]
    at = slice_.index(b"Abdomen") - 2  # an explicit LO: its length is in the two bytes before its text
    assert slice_[at : at + 2] == b"\x08\x00"
    long = slice_[: at - 2] + b"UN\0\0" + (2**32 - 16).to_bytes(4, "little") + slice_[at + 2 :]
    folder = damaged_dicom.put_series(tmp_path, long)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"3\.dcm must say what it is and where it belongs") as told:
            load_ct(folder)
        assert "Nobody" not in str(told.value)  # the patient's name follows the element, which now holds it
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("size", "read"), [(3, b"cde"), (2**40, b"cdef"), (-1, b"cdef"), (None, b"cdef"), (0, b"")])
def test_a_file_is_read_up_to_its_end(tmp_path, size, read):
    (tmp_path / "file").write_bytes(b"abcdef")
    with WithinFile(tmp_path / "file") as file:
        file.seek(2)
        assert file.read(size) == read
        file.seek(9)
        assert file.read(size) == b""
