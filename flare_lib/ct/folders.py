"""What in a folder is a CT or a label map, NIfTI or DICOM, and what its case is called."""

import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from flare_lib.ct.dicom_folder import ZIP_SUFFIX
from flare_lib.ct.dicom_headers import FilePath, Header, MemberPath, is_index, read_header
from flare_lib.ct.nifti_file import SUFFIXES

_ENDING = r"(\.nii|\.zip|\.dcm)?(\.gz)?$"  # of a CT's or a label map's name, upper or lower case
_CHANNEL = "_0000"
_NEVER_DICOM = (*SUFFIXES, ZIP_SUFFIX, ".csv", ".json", ".png", ".txt")  # names of files that are not even opened


def case_name(path: Path, *, has_channel: bool = True) -> str:
    """Return the name of a case: that of its file or folder, without format and channel number (if it has one).

    nnU-Net and FLARE 2022 end the names of CTs in `_0000`. Where cases are counted from there (`case_0000`,
    `case_0001`), the number is part of the name.
    """
    name = re.sub(_ENDING, "", path.name, flags=re.IGNORECASE)
    return name.removesuffix(_CHANNEL) if has_channel and not _counts_cases(path, name) else name


def _counts_cases(path: Path, name: str) -> bool:
    """Return whether `_0000` is the first number of many, not one channel of each: the only one in its folder."""
    stem = name.removesuffix(_CHANNEL)
    if stem == name or not os.path.lexists(path.with_name(path.name.replace(name, f"{stem}_0001", 1))):
        return False
    others = (case_name(Path(other), has_channel=False) for other in os.listdir(path.parent))
    return sum(other.endswith(_CHANNEL) for other in others) == 1


def find_images(folder: str | os.PathLike) -> dict[str, Path]:
    """Return {case name: path} for a folder's .nii and .nii.gz files, sorted by name; empty if there are none.

    They may be label maps: a `_0000` is part of the name. Hidden files are skipped: a killed process may have left one.
    Raises ValueError if two files have the same case name.
    """
    paths = (path for path in sorted(Path(folder).glob("[!.]*")) if path.name.lower().endswith(SUFFIXES))
    return _by_case(paths, has_channel=False)


def find_cts(folder: str | os.PathLike) -> dict[str, Path]:
    """Return {case name: path} for everything in a folder that `load_ct` reads, sorted by name; empty if there is none.

    That is NIfTI files, .zip files and folders that hold DICOM, at any depth: one CT each. See `case_name`.
    Raises ValueError for two of one case name, and for slices of DICOM that lie in the folder itself.
    """
    folder = Path(folder)
    if holds_dicom(folder):
        raise ValueError(f"{folder} must hold a folder or .zip of DICOM for each CT, got DICOM files side by side")
    paths = sorted(folder.glob("[!.]*"))
    return _by_case(
        (p for p in paths if p.name.lower().endswith(SUFFIXES) or holds_dicom(p, deep=True)), has_channel=True
    )


def _by_case(paths: Iterable[Path], *, has_channel: bool) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        name = case_name(path, has_channel=has_channel)
        if name in found:
            raise ValueError(
                f"every case must have one CT or label map in {path.parent}, got {found[name].name} and {path.name}"
            )
        found[name] = path
    return found


def holds_dicom(path: Path, *, deep: bool = False) -> bool:
    """Return whether a folder or a .zip holds a DICOM file, even a damaged one; if `deep`, also in folders below it.

    False for any other file. An archive that cannot be opened counts: it may hold a CT; `load_ct` says what is wrong.
    """
    if path.is_dir():
        return any(_dicom_among(path.rglob("[!.]*") if deep else path.glob("[!.]*")))
    if not (path.name.lower().endswith(ZIP_SUFFIX) and path.is_file()):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(_dicom_among(MemberPath(archive, name) for name in archive.namelist()))
    except (OSError, ValueError, zipfile.BadZipFile):
        return True


def find_dicom(folder: Path) -> dict[Path, int]:
    """Return {file: how many images it holds} for the DICOM files in and below a folder, sorted; {} for none.

    Damaged files are among them, of one image each; indexes are not.
    """
    found = {}
    for file, header in _dicom_among(sorted(folder.rglob("[!.]*"))):
        if isinstance(file, Path) and not is_index(file, header):
            found[file] = header.n_frames if header else 1
    return found


def _dicom_among(files: Iterable[FilePath]) -> Iterator[tuple[FilePath, Header | None]]:
    """Yield the DICOM files among these, with their headers; None for a damaged one."""
    for file in files:
        if not file.name.lower().endswith(_NEVER_DICOM) and file.is_file():
            try:
                if (header := read_header(file)) is not None:
                    yield file, header
            except (ValueError, OSError):
                yield file, None
