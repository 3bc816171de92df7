"""The stored values of one DICOM slice: plain, deflated, run-length or JPEG; complete, and within their bits.

Given a damaged stream, a decoder may fill in what is missing, run for minutes or crash the process, so a stream's size
and end are checked before it is decoded.
References: DICOM PS3.5, 8 (pixel data) and A (transfer syntaxes); ISO 10918-1, 14495-1, 15444-1 (JPEG, -LS, 2000).
"""

import struct
from typing import Any

import numpy as np

from flare_lib.ct.dicom_headers import Header, WithinFile

_BIG_ENDIAN, _DEFLATED, _RLE = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", _BIG_ENDIAN, _DEFLATED)
_JPEG = {
    **{f"1.2.840.10008.1.2.4.{n}": "jpeg8_decode" for n in (50, 51, 57, 70)},
    **{f"1.2.840.10008.1.2.4.{n}": "jpegls_decode" for n in (80, 81)},
    **{f"1.2.840.10008.1.2.4.{n}": "jpeg2k_decode" for n in (90, 91)},
}
_SYNTAXES = (*_PLAIN, _RLE, *_JPEG)


def read_stored_values(header: Header) -> np.ndarray:
    """Return the stored values of a slice, integers (rows, columns), before slope and intercept are applied.

    Raises ValueError, naming the file, for pixel data that is missing, truncated, longer than the image, damaged, of
    the wrong size, in an unsupported transfer syntax, or that uses more bits than `BitsStored` says.
    """
    path = header.path
    if header.syntax not in _SYNTAXES:
        from pydicom.uid import UID

        raise ValueError(f"{path} must be plain, RLE, JPEG, JPEG-LS or JPEG 2000, got {UID(header.syntax).name}")
    names = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")
    rows, columns, allocated, stored, high, signed, samples = (header.whole(name) for name in names)
    if samples != 1 or rows < 1 or columns < 1:
        raise ValueError(f"{path} must hold one grey value a pixel, got {samples}, {rows} x {columns} pixels")
    plain = header.syntax in _PLAIN
    shift = high + 1 - stored
    if allocated not in (8, 16, 32) or not 1 <= stored <= high + 1 <= allocated or signed not in (0, 1):
        raise ValueError(
            f"{path} must hold integers of 8, 16 or 32 bits, got {stored} bits up to bit {high} of {allocated}"
        )
    if (shift and not plain) or (allocated == 8 and header.syntax == _BIG_ENDIAN):
        raise ValueError(f"{path} must hold values that begin at the lowest bit, got {stored} bits up to bit {high}")
    try:
        data = _read_pixel_data(header)
        if plain:
            raw = _plain(data, rows * columns, f"{'>' if header.syntax == _BIG_ENDIAN else '<'}u{allocated // 8}")
        else:
            raw = _run_length(header, data) if header.syntax == _RLE else _jpeg(header.syntax, data, rows, columns)
        raw = raw.reshape(rows, columns)
    except Exception as error:  # a damaged stream can fail anywhere in the decoder
        raise ValueError(f"{path} must hold complete pixel data, got: {' '.join(str(error).split())[:160]}") from error
    values = _within_bits(raw, stored, shift, signed == 1)
    if values is None:
        raise ValueError(
            f"{path} must use the {stored} bits a value that it says, got others set (an overlay, or a wrong header?)"
        )
    return values


def _read_pixel_data(header: Header) -> bytes:
    """Return the value of the pixel data element, without reading the header before it again."""
    from pydicom.dataset import Dataset
    from pydicom.filereader import dcmread, read_dataset

    with WithinFile(header.path) as file:
        if header.syntax == _DEFLATED:  # the pixels then have no position of their own in the file
            elements: Dataset = dcmread(file, specific_tags=["PixelData"])
        else:
            file.seek(header.pixels_at)
            is_implicit_vr, is_little_endian = map(bool, header.elements.original_encoding)
            elements = read_dataset(file, is_implicit_vr, is_little_endian, specific_tags=[0x7FE00010])
    if "PixelData" not in elements:
        raise ValueError("none")
    return elements["PixelData"].value or b""


def _plain(data: bytes, n: int, dtype: str) -> np.ndarray:
    expected = n * np.dtype(dtype).itemsize
    if len(data) not in (expected, expected + expected % 2):
        raise ValueError(f"{len(data)} bytes where there must be {expected}")
    return np.frombuffer(data, dtype, n)


def _run_length(header: Header, data: bytes) -> np.ndarray:
    from pydicom.pixels import get_decoder

    elements = header.elements.copy()
    elements.PixelData = data
    how: Any = {
        "raw": True,
        "decoding_plugin": "pydicom",
        "correct_unused_bits": False,
    }  # pydicom's types lack the last
    array, _ = get_decoder(_RLE).as_array(elements, **how)
    return array.view(array.dtype.str.replace("i", "u"))


def _jpeg(syntax: str, data: bytes, rows: int, columns: int) -> np.ndarray:
    import imagecodecs
    from pydicom.encaps import get_frame

    stream = get_frame(data, 0, number_of_frames=1).rstrip(b"\0")
    if not stream.endswith(b"\xff\xd9"):
        raise ValueError(f"a compressed stream of {len(stream)} bytes without its end")
    size = _size_2000(stream) if "2k" in _JPEG[syntax] else _size_jpeg(stream)
    if size != (rows, columns):
        raise ValueError(f"a compressed image of {size} pixels where there must be {(rows, columns)}")
    array = getattr(imagecodecs, _JPEG[syntax])(stream)
    return array.view(array.dtype.str.replace("i", "u"))


def _size_jpeg(stream: bytes) -> tuple[int, int]:
    """Return the rows and columns given in the frame header of a JPEG or JPEG-LS stream."""
    at = 2
    while True:
        mark, marker, length = struct.unpack_from(">BBH", stream, at)
        if mark != 0xFF:
            raise ValueError("a compressed stream with a damaged header")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return struct.unpack_from(">HH", stream, at + 5)
        at += 2 + length


def _size_2000(stream: bytes) -> tuple[int, int]:
    """Return the rows and columns given in the size segment of a JPEG 2000 stream with a single tile, as in CTs."""
    if not stream.startswith(b"\xff\x4f\xff\x51"):
        raise ValueError("a compressed stream with a damaged header")
    right, bottom, left, top = struct.unpack_from(">4I", stream, 8)
    return bottom - top, right - left


def _within_bits(raw: np.ndarray, stored: int, shift: int, signed: bool) -> np.ndarray | None:
    """Return the values in the `stored` bits above `shift` of unsigned integers; None if any other bit is in use.

    The bits above a value may be 0 or repeat its sign.
    """
    bits = 8 * raw.dtype.itemsize
    if stored >= bits:
        return raw.view(raw.dtype.str.replace("u", "i")) if signed and stored == bits else raw
    wide = raw.astype(np.int64)
    values = (wide >> shift) & ((1 << stored) - 1)
    if signed:
        values -= (values & (1 << (stored - 1))) << 1
    bare, extended = (values & ((1 << stored) - 1)) << shift, (values << shift) & ((1 << bits) - 1)
    return values if np.logical_or(wide == bare, wide == extended).all() else None
