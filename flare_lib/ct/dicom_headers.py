"""What one DICOM file says about itself: the elements that place and scale an image, and nothing of the patient.

Of patient and study only hashes are kept, which tell two apart.

A file lies in a folder or in a .zip archive, whose members are `zipfile.Path`: the two are read alike.
Reference: DICOM PS3.10 (files), PS3.3 (what is in them).
"""

import io
import logging
import math
import os
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from zipfile import Path as MemberPath

if TYPE_CHECKING:
    from pydicom import Dataset

FilePath = Path | MemberPath

DICOM_SUFFIXES = {".dcm", ".ima", ".dicom"}
_LONGEST_TEXT = 64  # what the standard allows
_DICOMDIR = "1.2.840.10008.1.3.10"
_DEFLATED, _NOT_DEFLATED = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"  # of one length
_TRANSFER_SYNTAX = 0x00020010
_MOST_HEADER_BYTES = 64 * 2**20
_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesDescription"),
    *("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("GantryDetectorTilt", "ConvolutionKernel", "KVP", "NumberOfFrames"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber"),
    *("TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase", "TriggerTime"),
    *("AcquisitionNumber", "AcquisitionTime"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
)
_WHO = ("PatientID", "PatientName", "StudyInstanceUID")


@dataclass(frozen=True, eq=False)
class Header:
    """A DICOM file's header: only the elements that place and scale an image, or say what it is.

    `syntax` is the UID of its transfer syntax, plain for a deflated file (see `open_dicom`); `pixels_at` is where its
    pixel data starts, in bytes from the start of the file. A frame of a multi-frame file has a header of its own
    (`dicom_frames`): `frame` is its number from 0, and `parent` the file's header. `shows`: patient, name and study as
    hashes, 0 for what is not said. `str()` names the file, and the frame.
    """

    path: FilePath
    elements: "Dataset"
    syntax: str
    pixels_at: int
    frame: int = 0
    parent: "Header | None" = None
    shows: tuple[int, ...] = (0, 0, 0)

    def __str__(self) -> str:
        return f"{self.path}{'' if self.parent is None else f', frame {self.frame + 1}'}"

    @property
    def file(self) -> "Header":
        """The header of the file that this is, or that this is a frame of."""
        return self.parent or self

    def value(self, keyword: str, elements: "Dataset | None" = None) -> object:
        """Return an element's value, or None if it is missing or empty; ValueError if it cannot be read."""
        try:
            value = (self.elements if elements is None else elements).get(keyword)
        except Exception as error:  # a damaged value can make the parser raise anything, with any text
            raise ValueError(f"{self} must hold a readable {keyword}, got a damaged one") from error
        return None if value is None or value == "" or value == [] else value

    def code(self, keyword: str) -> str:
        """Return a code in capitals, as the standard has it and not every writer does; "" if it is missing."""
        return str(self.value(keyword) or "").strip().upper()

    def codes(self, keyword: str) -> set[str]:
        """Return all of an element's codes, each as `code` gives one; none if it is missing."""
        value: Any = self.value(keyword) or ()
        several = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
        return {str(code).strip().upper() for code in several}

    def numbers(self, keyword: str, n: int) -> tuple[float, ...]:
        """Return `n` finite numbers; ValueError if the value is anything else or missing."""
        value: Any = self.value(keyword)
        try:
            numbers = tuple(map(float, value if n > 1 else [value]))
        except (TypeError, ValueError):
            numbers = ()
        if len(numbers) != n or not all(map(math.isfinite, numbers)):
            got = "none" if value is None else f"{value}"[:60]
            raise ValueError(f"{self} must hold {n} finite number{'s' * (n > 1)} as {keyword}, got {got}{self.suspect}")
        return numbers

    def number(self, keyword: str) -> float:
        """Return one finite number; ValueError if the value is anything else or missing."""
        return self.numbers(keyword, 1)[0]

    def whole(self, keyword: str) -> int:
        """Return one whole number; ValueError if the value is anything else or missing."""
        number = self.number(keyword)
        if number != int(number):
            raise ValueError(f"{self} must hold a whole number as {keyword}, got {number:g}")
        return int(number)

    @property
    def n_frames(self) -> int:
        """How many images the file says it holds; 1 if it does not say."""
        try:
            return max(1, self.whole("NumberOfFrames"))
        except ValueError:
            return 1

    @property
    def kind(self) -> str:
        """What the file is, in words: its modality and, if it states one, its class."""
        sop_class = self.value("SOPClassUID")
        name = f"{getattr(sop_class, 'name', sop_class)}".removesuffix(" Storage")
        modality = plain_text(self.value("Modality"), "no modality")
        return f"{modality} ({plain_text(name, 'no class')})" if sop_class else modality

    @property
    def suspect(self) -> str:
        """A remark to add to an error if the file is unlikely to be a CT slice; empty if it may be one."""
        return "" if "CT Image" in self.kind or "(" not in self.kind else f" (it is {self.kind})"


def read_header(path: FilePath) -> Header | None:
    """Return a file's header, or None if it is not DICOM; ValueError if it is DICOM but cannot be read."""
    if not path.is_file():  # a link that leads nowhere, a pipe
        return None
    from pydicom import dcmread  # imported here so that loading NIfTI does not wait for it

    try:
        start = start_of(path, 132)
        marked = start[128:] == b"DICM"
        if not marked and not _may_begin_without_mark(path, start):
            return None
        with open_dicom(path) as file:
            elements = dcmread(file, stop_before_pixels=True, force=True, specific_tags=[*_TAGS, *_WHO])
            known = marked or "SOPClassUID" in elements or "Modality" in elements
            syntax = str(elements.file_meta.get("TransferSyntaxUID") or _guessed_syntax(elements))
            pixels_at = file.tell()
            shows = tuple(taken_out(elements, keyword) for keyword in _WHO)
            return Header(path, elements, syntax, pixels_at, shows=shows) if known else None
    except OSError as error:
        raise ValueError(f"{path} must be a file that can be read, got: {error.strerror or error}") from error
    except NotImplementedError as error:  # Windows packs large archives by Deflate64
        raise ValueError(f"{path} must be packed by deflate, as most .zip archives are, got: {error}") from error
    except Exception as error:  # a damaged header can fail anywhere in the parser
        raise ValueError(f"{path} must be a complete DICOM file, got a damaged header") from error


def is_index(path: FilePath, header: Header | None = None) -> bool:
    """Return whether a file is an index of others: a DICOMDIR by its class, or by its name, as a damaged one is."""
    if path.name.upper() == "DICOMDIR":
        return True
    return header is not None and header.value("MediaStorageSOPClassUID", header.elements.file_meta) == _DICOMDIR


def taken_out(elements: "Dataset", keyword: str) -> int:
    """Take what names a patient or a study out of a header; return a hash of its bytes, 0 for none."""
    if keyword not in elements:
        return 0
    written = elements.get_item(keyword).value  # not read as letters: they need not be those the header promises
    delattr(elements, keyword)
    text = written if isinstance(written, bytes) else str(written or "").encode()
    text = text.strip(b" \0^=").upper()  # one name may be written in several ways
    return hash(text) if text else 0


def plain_text(value: object, missing: str) -> str:
    """Return a text element in plain letters, to be shown; `missing` if there is none.

    A text longer than the standard allows is not shown: it holds whatever followed it in the file, perhaps a name.
    """
    text = str(value or missing)
    if len(text) > _LONGEST_TEXT:
        text = f"a damaged {missing.removeprefix('no ')}"
    return re.sub(r"[^\w .,:+/()-]+", " ", text).strip()


def suffixes_of(path: FilePath) -> set[str]:
    """Return a name's suffixes that contain a letter, in lower case: `IM.0007` has none, `7.dcm.gz` has two."""
    return {suffix.lower() for suffix in Path(path.name).suffixes if re.match(r"\.[^\W\d]\w*$", suffix)}


def open_dicom(path: FilePath, up_to: int = _MOST_HEADER_BYTES) -> BinaryIO:
    """Open a file for reading, with no more memory than its own size; a member of an archive is unpacked and checked.

    A member is unpacked as a whole, because Python checks its checksum only at its end. A file in the deflated transfer
    syntax is opened as the plain file that it unpacks to, with a plain transfer syntax in its header: at most its first
    `up_to` bytes, because a few bytes may unpack to gigabytes. Raises whatever a damaged file makes the parser raise.
    """
    from pydicom.filereader import read_dataset

    file = WithinFile(path) if isinstance(path, Path) else io.BytesIO(path.read_bytes())
    try:
        file.seek(132 if file.read(132).endswith(b"DICM") else 0)
        about = read_dataset(
            file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2, specific_tags=[_TRANSFER_SYNTAX]
        )
        begins, syntax = file.tell(), about.get("TransferSyntaxUID")
        file.seek(0)
        if syntax != _DEFLATED.decode():
            return file
        start = file.read(begins).replace(_DEFLATED, _NOT_DEFLATED)
        rest = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), max(1, up_to - begins))
    except BaseException:
        file.close()
        raise
    file.close()
    return io.BytesIO(start + rest)


class WithinFile(io.BufferedReader):
    """A file opened for reading that never allocates more memory than its own size.

    A damaged length may ask for gigabytes, which Python would allocate before reading the few bytes that there are.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("rb", buffering=0))
        self._n_bytes = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        """Read `size` bytes, or those that are left if there are fewer; None or a negative number: all of them."""
        left = max(0, self._n_bytes - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom's and highdicom's warnings: what they report is checked here, and may name the patient."""
    loggers = {logger: logger.level for logger in map(logging.getLogger, ("pydicom", "highdicom"))}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


def start_of(path: FilePath, n_bytes: int) -> bytes:
    """Return the first bytes of a file, fewer if it is shorter; of a member of an archive no more is unpacked."""
    with WithinFile(path) if isinstance(path, Path) else cast(BinaryIO, path.open("rb")) as file:
        return file.read(n_bytes)


def _may_begin_without_mark(path: FilePath, start: bytes) -> bool:
    """Return whether a file without the DICM mark may still be (older) DICOM: its first element is of group 2 or 8."""
    called = not suffixes_of(path) or suffixes_of(path) & DICOM_SUFFIXES
    return bool(called) and start[:2] in (b"\x02\0", b"\x08\0", b"\0\x08") and len(start) > 8


def _guessed_syntax(elements: "Dataset") -> str:
    """Guess the transfer syntax of a file that does not name one, from the way its elements are encoded."""
    from pydicom import uid

    implicit, little = elements.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
