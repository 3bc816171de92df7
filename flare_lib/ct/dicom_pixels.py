"""The stored values of DICOM slices: plain, deflated, run-length or JPEG; complete, and within their bits.

Given a damaged stream, a decoder may fill in what is missing, run for minutes or crash the process, so a stream's size
and end are checked before it is decoded.
References: DICOM PS3.5, 8 (pixel data) and A (transfer syntaxes); ISO 10918-1, 14495-1, 15444-1 and -15 (JPEG, -LS,
2000 and its high-throughput form).
"""

import struct
from typing import Any, NamedTuple

import numpy as np

from flare_lib.ct.dicom_headers import Header, open_dicom
from flare_lib.ct.dicom_padding import darken_padding
from flare_lib.ct.rescale import stack_slices

_BIG_ENDIAN, _RLE = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", _BIG_ENDIAN)  # deflated ones too: see `open_dicom`
_JPEG = {
    **{f"1.2.840.10008.1.2.4.{n}": "jpeg8_decode" for n in (50, 51, 57, 70)},
    **{f"1.2.840.10008.1.2.4.{n}": "jpegls_decode" for n in (80, 81)},
    **{f"1.2.840.10008.1.2.4.{n}": "jpeg2k_decode" for n in (90, 91, 201, 202, 203)},  # from 201 on: high-throughput
}
_JP2, _CODESTREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"  # how a JPEG 2000 file and its image begin
_BESIDE_PIXELS = 16  # bytes: the element's tag, type and length, and its padding
_SYNTAXES = (*_PLAIN, _RLE, *_JPEG)
_DECODED_BY = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)


class _Layout(NamedTuple):
    """How a slice's values are stored: each in `stored` of its `allocated` bits, above the `shift` lowest."""

    rows: int
    columns: int
    allocated: int
    stored: int
    shift: int
    signed: bool


def hu_of(header: Header, frame: memoryview) -> np.ndarray:
    """Return a slice in HU (rows, columns): int16 if that loses nothing, float32 otherwise; its padding is dark."""
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    stored = darken_padding(stored_values(header, frame), header, slope, intercept)
    return stack_slices(
        [stored], lambda dtype: np.empty((*stored.shape, 1), dtype), (slope, intercept), (np.int16, np.float32), header
    )[..., 0]


def read_frames(header: Header) -> list[memoryview]:
    """Return the pixel data of every frame of a slice's file, as it is stored: one frame if it is not multi-frame.

    Raises ValueError, naming the file, for pixel data that is missing, truncated or too long, in an unsupported
    transfer syntax, or of a layout that no CT has.
    """
    file = header.file
    if file.syntax not in _SYNTAXES:
        from pydicom.uid import UID

        raise ValueError(f"{file} must be plain, RLE, JPEG, JPEG-LS or JPEG 2000, got {UID(file.syntax).name}")
    layout = _layout(header)
    n_frames = 1 if header.parent is None else file.whole("NumberOfFrames")
    n_bytes = n_frames * layout.rows * layout.columns * layout.allocated // 8
    try:
        data = _read_pixel_data(file, n_bytes)
        if file.syntax not in _PLAIN:
            return _encapsulated(data, n_frames)
        if len(data) not in (n_bytes, n_bytes + n_bytes % 2):
            raise ValueError(f"{len(data)} bytes where there must be {n_bytes}")
        each = n_bytes // n_frames
        return [memoryview(data)[i * each : (i + 1) * each] for i in range(n_frames)]
    except Exception as error:  # a damaged stream can fail anywhere in the parser
        raise _incomplete(file, error) from error


def stored_values(header: Header, frame: memoryview) -> np.ndarray:
    """Return the stored values of a slice, integers (rows, columns), before slope and intercept are applied.

    `frame`: its pixel data. Raises ValueError, naming the file, for pixel data that is damaged, of the wrong size, or
    that uses more bits than `BitsStored` says.
    """
    layout = _layout(header)
    try:
        if header.syntax in _PLAIN:
            raw = np.frombuffer(frame, f"{'>' if header.syntax == _BIG_ENDIAN else '<'}u{layout.allocated // 8}")
        elif header.syntax == _RLE:
            raw = _run_length(header, bytes(frame))
        else:
            raw = _jpeg(header.syntax, bytes(frame), layout.rows, layout.columns)
        raw = raw.reshape(layout.rows, layout.columns)
    except Exception as error:  # a damaged stream can fail anywhere in the decoder
        raise _incomplete(header, error) from error
    values = _within_bits(raw, layout)
    if values is None:
        raise ValueError(
            f"{header} must use only the {layout.stored} bits per value that it states, got others set (an overlay, or "
            "a wrong header?)"
        )
    return values


def _layout(header: Header) -> _Layout:
    """Return how a slice's values are stored; ValueError for a layout that no CT has."""
    names = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")
    rows, columns, allocated, stored, high, signed, samples = (header.whole(name) for name in names)
    if samples != 1 or rows < 1 or columns < 1:
        raise ValueError(f"{header} must hold one grey value per pixel, got {samples}, {rows} x {columns} pixels")
    shift = high + 1 - stored
    if allocated not in (8, 16, 32) or not 1 <= stored <= high + 1 <= allocated or signed not in (0, 1):
        raise ValueError(
            f"{header} must hold integers of 8, 16 or 32 bits, got {stored} bits up to bit {high} of {allocated}"
        )
    if (shift and header.syntax not in _PLAIN) or (allocated == 8 and header.syntax == _BIG_ENDIAN):
        raise ValueError(f"{header} must hold values that begin at the lowest bit, got {stored} bits up to bit {high}")
    return _Layout(rows, columns, allocated, stored, shift, signed == 1)


def _incomplete(header: Header, error: Exception) -> ValueError:
    return ValueError(f"{header} must hold complete pixel data, got: {' '.join(str(error).split())[:160]}")


def _read_pixel_data(header: Header, n_bytes: int) -> bytes:
    """Return the value of the pixel data element, without reading the header before it again.

    `n_bytes`: how many there should be; of a deflated file that holds more, hardly more than these are unpacked.
    """
    from pydicom.filereader import read_dataset

    with open_dicom(header.path, header.pixels_at + _BESIDE_PIXELS + n_bytes) as file:
        file.seek(header.pixels_at)
        is_implicit_vr, is_little_endian = map(bool, header.elements.original_encoding)
        elements = read_dataset(file, is_implicit_vr, is_little_endian, specific_tags=[0x7FE00010])
    if "PixelData" not in elements:
        raise ValueError("none")
    return elements["PixelData"].value or b""


def _encapsulated(data: bytes, n_frames: int) -> list[memoryview]:
    from pydicom.encaps import generate_frames

    frames = [memoryview(frame) for frame in generate_frames(data, number_of_frames=n_frames)]
    if len(frames) != n_frames:
        raise ValueError(f"{len(frames)} compressed frames where there must be {n_frames}")
    return frames


def _run_length(header: Header, stream: bytes) -> np.ndarray:
    from pydicom import Dataset
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    elements = Dataset()
    for keyword in _DECODED_BY:
        setattr(elements, keyword, header.value(keyword))
    elements.PixelData = encapsulate([stream])
    # Any: pydicom's types lack correct_unused_bits
    how: Any = {"raw": True, "decoding_plugin": "pydicom", "correct_unused_bits": False}
    array, _ = get_decoder(_RLE).as_array(elements, **how)
    return array.view(array.dtype.str.replace("i", "u"))


def _jpeg(syntax: str, stream: bytes, rows: int, columns: int) -> np.ndarray:
    import imagecodecs

    stream = stream.rstrip(b"\0")
    if stream.startswith(_JP2):  # a file within the file, which the standard does not allow and other readers read
        stream = stream[stream.index(_CODESTREAM) :]
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
    if not stream.startswith(_CODESTREAM):
        raise ValueError("a compressed stream with a damaged header")
    right, bottom, left, top = struct.unpack_from(">4I", stream, 8)
    return bottom - top, right - left


def _within_bits(raw: np.ndarray, layout: _Layout) -> np.ndarray | None:
    """Return the values in the bits of unsigned integers that the layout says are stored; None if another is in use.

    The bits above a value may be 0 or repeat its sign.
    """
    bits, stored, shift, signed = 8 * raw.dtype.itemsize, layout.stored, layout.shift, layout.signed
    if stored >= bits:
        return raw.view(raw.dtype.str.replace("u", "i")) if signed and stored == bits else raw
    wide = raw.astype(np.int64)
    values = (wide >> shift) & ((1 << stored) - 1)
    if signed:
        values -= (values & (1 << (stored - 1))) << 1
    bare, extended = (values & ((1 << stored) - 1)) << shift, (values << shift) & ((1 << bits) - 1)
    return values if np.logical_or(wide == bare, wide == extended).all() else None
