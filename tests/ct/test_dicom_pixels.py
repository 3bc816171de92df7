"""The stored values of a slice, against what was stored."""

import tracemalloc
import zlib

import numpy as np
import pytest
from dicoms import COLUMNS, HU, ROWS, headers_in, store, write_series, written_as
from pydicom import uid

from flare_lib.ct.dicom_headers import open_dicom
from flare_lib.ct.dicom_pixels import read_frames, stored_values

SYNTAXES = (
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
)


def values_in(header):
    return stored_values(header, read_frames(header)[header.frame])


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_values_are_those_stored(tmp_path, syntax):
    (header,) = headers_in(write_series(tmp_path, written_as(syntax), slices=[1]))
    np.testing.assert_array_equal(values_in(header), HU[1].astype(int) + 1024)


@pytest.mark.parametrize(
    ("stored", "high", "signed", "written", "read"),
    [
        (16, 15, 0, 0xFFFE, 65534),
        (16, 15, 1, 0xFFFE, -2),
        (12, 11, 0, 0x0FFE, 4094),
        (12, 11, 1, 0x0FFE, -2),
        (12, 11, 1, 0xFFFE, -2),
        (12, 11, 1, 0x07FE, 2046),
        (12, 15, 0, 0xFFE0, 4094),
        (12, 15, 1, 0xFFE0, -2),
        (12, 13, 1, 0x3FF8, -2),
        (12, 13, 1, 0xFFF8, -2),
        (12, 11, 0, 0x1FFE, None),
        (12, 11, 1, 0x8FFE, None),
        (12, 15, 0, 0xFFE1, None),
    ],
)
def test_a_value_is_taken_from_its_bits_and_the_others_must_be_empty_or_its_sign(
    tmp_path, stored, high, signed, written, read
):
    def change(ds, k):
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = stored, high, signed
        store(ds, np.full((ROWS, COLUMNS), written))

    (header,) = headers_in(write_series(tmp_path, change, slices=[0]))
    if read is None:
        with pytest.raises(ValueError, match="got others set"):
            values_in(header)
    else:
        assert (values_in(header) == read).all()


def test_eight_bits_are_read(tmp_path):
    def change(ds, k):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        store(ds, np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS), "u1")

    (header,) = headers_in(write_series(tmp_path, change, slices=[0]))
    np.testing.assert_array_equal(values_in(header).ravel(), np.arange(ROWS * COLUMNS))


def test_a_small_deflated_file_that_unpacks_to_a_gigabyte_is_refused_in_little_memory(tmp_path):
    folder = write_series(tmp_path / "series", written_as(uid.DeflatedExplicitVRLittleEndian), slices=[1])
    [path] = folder.iterdir()
    (header,) = headers_in(folder)
    with open_dicom(path) as plain:
        start = plain.read(header.pixels_at)
    at = start.index(b"1.2.840.10008.1.2.1\0")
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(start[at + 22 :] + b"\xe0\x7f\x10\0OW\0\0" + (2**30).to_bytes(4, "little"))
    packed += packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(start[:at] + uid.DeflatedExplicitVRLittleEndian.encode() + packed + 1024 * block + packer.flush())
    tracemalloc.start()
    try:
        (header,) = headers_in(folder)
        assert tracemalloc.get_traced_memory()[1] < 2**28  # 64 MiB may be header
        tracemalloc.reset_peak()
        with pytest.raises(ValueError, match=r"must hold complete pixel data, got"):
            values_in(header)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
