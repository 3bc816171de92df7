"""Every DICOM file below a folder or in a .zip archive: its header, or the reason why it cannot be read.

What makes a file DICOM is its content, not its name. A file that is named like DICOM but is not (damaged, empty,
packed, not yet downloaded) may be a slice that would go missing, so it is kept with a reason and rules out the series
beside it. All other files are skipped; archives are named. An index (DICOMDIR) says which files there should be.
Reference: DICOM PS3.10 (files and media), PS3.3, F (directory records).
"""

import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from flare_lib.ct.dicom_headers import (
    DICOM_SUFFIXES,
    FilePath,
    Header,
    MemberPath,
    is_index,
    open_dicom,
    read_header,
    start_of,
    suffixes_of,
    taken_out,
)

ZIP_SUFFIX = ".zip"
# archives of other kinds, by their names
_NOT_READ = re.compile(r"(?<!\.nii)\.(tar(\.\w+)?|t[bgx]z2?|7z|rar|gz|bz2|xz|zst|iso)$", re.IGNORECASE)
_MOST_BYTES, _MOST_PER_BYTE = 64 * 2**20, 200  # of a member: one that is larger and packed tighter is not a CT


class Unread(NamedTuple):
    """A file that may be a slice and cannot be read: the folder it lies in, and why, in one line that names it."""

    folder: str
    reason: str


class Listed(NamedTuple):
    """An image that an index lists: its study's hash, its series' UID, its own and its class's, whether it is a scout.

    `file` is where it should be.
    """

    study: int
    series: str
    uid: str
    sop_class: str
    is_scout: bool
    file: str


@dataclass(frozen=True)
class DicomFiles:
    """What was found: `headers` sorted by folder and name; `unread`; what indexes say that there should be.

    `skipped`: archives that may hold DICOM, of other kinds than .zip.
    """

    headers: list[Header] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    skipped: list[FilePath] = field(default_factory=list)
    listed: list[Listed] = field(default_factory=list)


def may_hold_dicom(path: Path) -> bool:
    """Return whether a path is a folder or, by its name, an archive, a DICOM file or a DICOMDIR."""
    named = path.suffix.lower() in {ZIP_SUFFIX, *DICOM_SUFFIXES} or is_index(path)
    return os.path.isdir(path) or (named and os.path.isfile(path))  # unlike Path's, never an error for a long name


def read_files(path: Path) -> DicomFiles:
    """Read the headers of all DICOM files below a folder or in a .zip, or that of a single file.

    Folders and archives within are entered, also through links; a DICOMDIR stands for the folder that it lies in.
    Raises ValueError if the folder or the archive itself cannot be read.
    """
    found = DicomFiles()
    if path.suffix.lower() in DICOM_SUFFIXES and path.is_file():
        list(_read_entries(path.parent, [path], found))
        return found
    todo: list[FilePath] = [_open_zip(path) if path.suffix.lower() == ZIP_SUFFIX and path.is_file() else path]
    if is_index(path) and path.is_file():
        todo = [path.parent]
    entered: set[str] = set()
    while todo:
        folder = todo.pop()
        if isinstance(folder, Path) and (real := os.path.realpath(folder)) not in entered:
            entered.add(real)
        elif isinstance(folder, Path):  # a link back to where we came from
            continue
        try:
            entries: list[FilePath] = sorted(folder.iterdir(), key=lambda entry: entry.name)
        except OSError as error:
            reason = f"{folder} must be a folder that can be read, got: {error.strerror or error}"
            if folder == path:
                raise ValueError(reason) from error
            found.unread.append(Unread(str(folder), reason))
            continue
        todo += reversed(list(_read_entries(folder, entries, found)))
    return found


def folder_of(header: Header) -> str:
    """Return the folder that a file lies in."""
    return str(header.path.parent)


def _read_entries(folder: FilePath, entries: list[FilePath], found: DicomFiles) -> Iterator[FilePath]:
    """Add the files of one folder to what was found; yield the folders and archives in it."""
    headers, others = [], []
    for entry in entries:
        try:
            if entry.is_dir():
                yield entry
            elif Path(entry.name).suffix.lower() == ZIP_SUFFIX and entry.is_file():
                yield _open_zip(entry)
            elif is_index(entry):
                _add_listed(entry, found.listed)
            elif (header := read_header(entry)) is None:
                others.append(entry)
            elif is_index(entry, header):
                _add_listed(entry, found.listed)
            else:
                headers.append(header)
        except ValueError as error:
            found.unread.append(Unread(str(folder), str(error)))
        except OSError as error:
            found.unread.append(Unread(str(folder), f"{entry} must be a file that can be read, got: {error.strerror}"))
    names = DICOM_SUFFIXES.union(*(suffixes_of(header.path) or {""} for header in headers))
    for path in others:
        try:
            if _is_called_like_one(path, names):
                reason = f"{path} must be a complete DICOM file, as its name says, got {_contents(path)}"
                found.unread.append(Unread(str(folder), reason))
            elif _NOT_READ.search(path.name) and not path.name.startswith("."):
                found.skipped.append(path)
        except Exception:  # a damaged archive fails where its member is read
            found.unread.append(Unread(str(folder), f"{path} must be a file that can be read, got a damaged one"))
    found.headers.extend(headers)


def _open_zip(path: FilePath) -> MemberPath:
    """Return the root of an archive; ValueError, in one line, if its members cannot all be read."""
    if not isinstance(path, Path):
        raise ValueError(f"{path} must be unpacked first, got an archive within an archive")
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be a complete .zip archive, got: {error}") from error
    names = archive.namelist()
    if any(member.flag_bits & 1 for member in archive.infolist()):
        raise ValueError(f"{path} must be a .zip archive without a password, got one that needs it")
    for member in archive.infolist():
        if member.file_size > max(_MOST_BYTES, _MOST_PER_BYTE * member.compress_size):
            raise ValueError(
                f"{path} must be an archive of images, got {member.file_size:,} bytes packed into "
                f"{member.compress_size:,}"
            )
    if len(set(names)) != len(names):
        raise ValueError(f"{path} must hold every member once, got {len(names) - len(set(names))} twice")
    return MemberPath(archive)


def _add_listed(index: FilePath, listed: list[Listed]) -> None:
    """Add what an index lists; nothing if it cannot be read, since it is not a slice that would be missing."""
    try:
        listed.extend(_images_in(index))
    except Exception:  # a damaged index can fail anywhere in the parser
        return


def _images_in(index: FilePath) -> Iterator[Listed]:
    """Yield the images that an index lists; reports, presentation states and the like have records of other types."""
    from pydicom import dcmread

    with open_dicom(index) as file:
        elements = dcmread(file, specific_tags=["DirectoryRecordSequence"])
    records: dict[int, Any] = {record.seq_item_tell: record for record in elements.DirectoryRecordSequence}
    for study in _of_type("STUDY", records.values()):
        study_hash = taken_out(study, "StudyInstanceUID")
        for series in _of_type("SERIES", _below(study, records)):
            for image in _of_type("IMAGE", _below(series, records)):
                uid, parts = image.get("ReferencedSOPInstanceUIDInFile"), image.get("ReferencedFileID")
                if not (uid and parts):
                    continue
                sop_class = image.get("ReferencedSOPClassUIDInFile", "")
                is_scout = "LOCALIZER" in image.get("ImageType", ())
                path = Path(str(index)).parent.joinpath(*([parts] if isinstance(parts, str) else parts))
                yield Listed(study_hash, str(series.SeriesInstanceUID), str(uid), str(sop_class), is_scout, str(path))


def _of_type(kind: str, records: Iterable[Any]) -> Iterator[Any]:
    """Yield the records of a type that are in use: those of deleted files may be left as inactive ones."""
    return (record for record in records if record.DirectoryRecordType == kind and record.get("RecordInUseFlag") != 0)


def _below(record: Any, records: dict[int, Any]) -> Iterator[Any]:
    """Yield the records one level below another in an index: {offset: record} is a tree."""
    at, seen = record.OffsetOfReferencedLowerLevelDirectoryEntity, set()
    while at in records and at not in seen:
        seen.add(at)
        yield records[at]
        at = records[at].OffsetOfTheNextDirectoryRecord


def _is_called_like_one(path: FilePath, names: set[str]) -> bool:
    """Return whether a file that is not DICOM is named like one.

    `names`: the suffixes of DICOM files, including "" if some have none; in that case only text files (a README) may
    have no suffix either.
    """
    if path.name.startswith("._"):  # macOS leaves these beside files
        return False
    if suffixes := suffixes_of(path):
        return not suffixes.isdisjoint(names)
    return "" in names and not path.name.startswith(".") and not _is_text(path)


def _is_text(path: FilePath) -> bool:
    start = start_of(path, 4096) if path.is_file() else b""
    return bool(start) and b"\0" not in start and start.isascii()


def _contents(path: FilePath) -> str:
    if not path.is_file():
        return "a link that leads nowhere, or no file"
    n_bytes = path.stat().st_size if isinstance(path, Path) else path.root.getinfo(path.at).file_size
    return "an empty file" if n_bytes == 0 else f"{n_bytes} bytes of something else"
