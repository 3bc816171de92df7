"""What the DICOM files in a folder say about themselves. Every file is accounted for; nothing tells of the patient.

What makes a file DICOM is its content, not its name. A file that is named like DICOM but holds none (damaged, empty,
packed, not yet downloaded) is refused by name: it may be a slice that would go missing. All other files are skipped.
Reference: DICOM PS3.10 (files), PS3.3 (what is in them).
"""

import io
import logging
import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

_SUFFIXES = {".dcm", ".ima", ".dicom"}
_LONGEST_DESCRIPTION = 64  # what the standard allows
_DICOMDIR = "1.2.840.10008.1.3.10"
_TAGS = (
    *("SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesDescription", "FrameOfReferenceUID"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "NumberOfFrames"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
)


@dataclass(frozen=True, eq=False)
class Header:
    """A DICOM file's header: only the elements that place and scale an image, or say what it is.

    `syntax` is the UID of its transfer syntax; `pixels_at` is where its pixel data starts, in bytes from the start of
    the file.
    """

    path: Path
    elements: "Dataset"
    syntax: str
    pixels_at: int

    def value(self, keyword: str, elements: "Dataset | None" = None) -> object:
        """Return an element's value, or None if it is missing or empty; ValueError if it cannot be read."""
        try:
            value = (self.elements if elements is None else elements).get(keyword)
        except Exception as error:  # a damaged value can make the parser raise anything, with any text
            raise ValueError(f"{self.path} must hold a readable {keyword}, got a damaged one") from error
        return None if value is None or value == "" or value == [] else value

    def numbers(self, keyword: str, n: int) -> tuple[float, ...]:
        """Return `n` finite numbers; ValueError if the value is anything else or missing."""
        value: Any = self.value(keyword)
        try:
            numbers = tuple(map(float, value if n > 1 else [value]))
        except (TypeError, ValueError):
            numbers = ()
        if len(numbers) != n or not all(map(math.isfinite, numbers)):
            got = "none" if value is None else f"{value}"[:60]
            raise ValueError(
                f"{self.path} must hold {n} finite number{'s' * (n > 1)} as {keyword}, got {got}{self.suspect}"
            )
        return numbers

    def number(self, keyword: str) -> float:
        """Return one finite number; ValueError if the value is anything else or missing."""
        return self.numbers(keyword, 1)[0]

    def whole(self, keyword: str) -> int:
        """Return one whole number; ValueError if the value is anything else or missing."""
        number = self.number(keyword)
        if number != int(number):
            raise ValueError(f"{self.path} must hold a whole number as {keyword}, got {number:g}")
        return int(number)

    @property
    def is_index(self) -> bool:
        """Whether the file is an index of other files (a DICOMDIR, whatever its name)."""
        return self.value("MediaStorageSOPClassUID", self.elements.file_meta) == _DICOMDIR

    @property
    def kind(self) -> str:
        """What the file is, in words: its modality and, if it states one, its class."""
        sop_class = self.value("SOPClassUID")
        name = f"{getattr(sop_class, 'name', sop_class)}".removesuffix(" Storage")
        return f"{self.value('Modality') or 'no modality'}{f' ({name})' if sop_class else ''}"

    @property
    def suspect(self) -> str:
        """A remark to add to an error if the file is unlikely to be a CT slice; empty if it may be one."""
        return "" if "CT Image" in self.kind or "(" not in self.kind else f" (it is {self.kind})"


def read_headers(folder: Path) -> list[Header]:
    """Return the headers of all DICOM files directly in a folder, sorted by name; empty if there are none.

    Skips a DICOMDIR and files that are not DICOM. Raises ValueError, naming the file, for one that is named like DICOM
    (with one of `_SUFFIXES`, or like the DICOM files beside it) but cannot be read as DICOM.
    """
    found, others = [], []
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(f"{folder} must be a folder that can be read, got: {error.strerror or error}") from error
    for path in paths:
        if path.is_dir() or path.name.upper() == "DICOMDIR":
            continue
        header = _read_header(path)
        if header is None:
            others.append(path)
        elif not header.is_index:
            found.append(header)
    names = _SUFFIXES.union(*(_suffixes(header.path) or {""} for header in found))
    for path in others:
        if _is_called_like_one(path, names):
            raise ValueError(f"{path} must be a complete DICOM file, as its name says, got {_contents(path)}")
    return found


def by_series(headers: list[Header]) -> dict[str, list[Header]]:
    """Return {series UID: headers}; files that name no series form one of their own, with an empty UID."""
    series = defaultdict(list)
    for header in headers:
        series[str(header.value("SeriesInstanceUID") or "")].append(header)
    return dict(series)


def about_series(uid: str, headers: list[Header]) -> str:
    """Describe a series in a few words: its description, the kind and number of its files, and its UID."""
    description = str(headers[0].value("SeriesDescription") or "no description")
    if len(description) > _LONGEST_DESCRIPTION:  # it holds what followed it in the file: perhaps a name
        description = "a damaged description"
    description = re.sub(r"[^\w .,:+/()-]+", " ", description).strip()
    kinds = " and ".join(sorted({header.kind for header in headers}))
    files = f"1 file ({headers[0].path.name})" if len(headers) == 1 else f"{len(headers)} files"
    return f"{description}: {kinds}, {files}, {uid or 'no UID'}"


class WithinFile(io.BufferedReader):
    """A file opened for reading that never sets memory aside for more than it holds.

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
    """Silence pydicom's warnings: what they would report is checked here, and their text may name the patient."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _read_header(path: Path) -> Header | None:
    """Return a file's header, or None if it is not DICOM; ValueError if it is DICOM but cannot be read."""
    if not path.is_file():  # a link that leads nowhere, a pipe
        return None
    from pydicom import dcmread  # imported here so that loading NIfTI does not wait for it

    try:
        with WithinFile(path) as file:
            start = file.read(132)
            marked = start[128:] == b"DICM"
            if not marked and not _may_begin_without_mark(path, start):
                return None
            file.seek(0)
            elements = dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
            known = marked or "SOPClassUID" in elements or "Modality" in elements
            syntax = str(elements.file_meta.get("TransferSyntaxUID") or _guessed_syntax(elements))
            return Header(path, elements, syntax, file.tell()) if known else None
    except OSError as error:
        raise ValueError(f"{path} must be a file that can be read, got: {error.strerror or error}") from error
    except Exception as error:  # a damaged header can fail anywhere in the parser
        raise ValueError(f"{path} must be a complete DICOM file, got a damaged header") from error


def _may_begin_without_mark(path: Path, start: bytes) -> bool:
    """Return whether a file without the DICM mark may still be (older) DICOM: its first element is of group 2 or 8."""
    called = not _suffixes(path) or _suffixes(path) & _SUFFIXES
    return bool(called) and start[:2] in (b"\x02\0", b"\x08\0", b"\0\x08") and len(start) > 8


def _guessed_syntax(elements: "Dataset") -> str:
    """Guess the transfer syntax of a file that does not name one, from the way its elements are encoded."""
    from pydicom import uid

    implicit, little = elements.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _suffixes(path: Path) -> set[str]:
    """Return a name's suffixes that contain a letter, in lower case: `IM.0007` has none, `7.dcm.gz` has two."""
    return {suffix.lower() for suffix in path.suffixes if re.match(r"\.[^\W\d]\w*$", suffix)}


def _is_called_like_one(path: Path, names: set[str]) -> bool:
    """Return whether a file that is not DICOM is named like one.

    `names`: the suffixes of DICOM files, including "" if some have none; in that case only text files (a README) may
    have no suffix either.
    """
    if path.name.startswith("._"):  # macOS leaves these beside files
        return False
    if suffixes := _suffixes(path):
        return not suffixes.isdisjoint(names)
    return "" in names and not path.name.startswith(".") and not _is_text(path)


def _is_text(path: Path) -> bool:
    start = path.read_bytes()[:4096] if path.is_file() else b""
    return bool(start) and b"\0" not in start and start.isascii()


def _contents(path: Path) -> str:
    if not path.is_file():
        return "a link that leads nowhere, or no file"
    return "an empty file" if path.stat().st_size == 0 else f"{path.stat().st_size} bytes of something else"
