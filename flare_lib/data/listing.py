"""The CTs of an archive: what folders, lists, patterns and files lead to, NIfTI and DICOM mixed, each with a name.

    FOLDER         every NIfTI file and .zip in it, every folder in it that holds DICOM at any depth (one patient each),
                   other folders in it likewise; a data set with labels (`data.cohort`) gives its CTs
    LIST.csv       one CT a row: a column `ct`, relative to the list's own folder, and perhaps a column `name`
    'CTS/*.nii.gz' what matches; ** for any number of folders
    anything else  one CT, as `ct.files.load_ct` reads it

Hidden files are passed over.
"""

import csv
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from flare_lib.ct.dicom_headers import read_header
from flare_lib.ct.nifti_file import SUFFIXES
from flare_lib.data.cohort import Case, find_cases

_ENDING = r"(_0000)?(\.nii|\.zip|\.dcm)?(\.gz)?$"  # of a CT's name: channel number and format, upper or lower case
_CT_SUFFIXES = (*SUFFIXES, ".zip")


def case_name(path: Path) -> str:
    """Return a CT's name: its file's or folder's, without channel number and format."""
    return re.sub(_ENDING, "", path.name, flags=re.IGNORECASE)


def check_case_name(name: str) -> None:
    """Raise ValueError unless a name can be that of a file in a folder: files are called after their case."""
    if Path(name).name != name or {"\\", ":"} & set(name) or name.startswith("."):
        raise ValueError(f"a CT's name must be one of a file, without folders, got {name}")


def list_cts(inputs: Sequence[str | os.PathLike]) -> list[Case]:
    """Return the CTs that all inputs lead to, in their order, each with a name of its own.

    A CT in a folder's folder has both names, joined by "_". Raises FileNotFoundError for an input that is not there or
    leads to no CT, ValueError for two CTs of the same name, a name that leads to another folder, or a list without
    a column `ct`.
    """
    cases = [case for given in inputs for case in _cts_of(Path(given))]
    named: dict[str, Path] = {}
    for case in cases:
        check_case_name(case.name)
        if named.setdefault(case.name.lower(), case.ct_path) != case.ct_path:  # some disks know no capitals
            raise ValueError(
                f"every CT must have a name of its own, got {case.name} for {named[case.name.lower()]} and "
                f"{case.ct_path} (a list, .csv, can name them)"
            )
    return list({case.name: case for case in cases}.values())


def _cts_of(given: Path) -> list[Case]:
    if given.suffix.lower() == ".csv" and given.is_file():
        return _listed(given)
    if given.is_dir() and not _has_dicom(given, deep=False):
        if not (found := list(_in_folder(given))):
            raise FileNotFoundError(f"{given} must hold CTs, NIfTI or DICOM, got none")
        return found
    if os.path.lexists(given):
        return [Case(case_name(given.absolute()), given)]
    if not (matches := sorted(glob.glob(str(given), recursive=True))):
        raise FileNotFoundError(f"every input must exist, got {given}")
    return [case for match in matches for case in _cts_of(Path(match))]


def _listed(path: Path) -> list[Case]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if "ct" not in (rows.fieldnames or ()):
            raise ValueError(f"{path} must have a column ct, got {', '.join(rows.fieldnames or ()) or 'none'}")
        cts = [(row.get("name"), path.parent / row["ct"]) for row in rows if row["ct"]]
    if not cts:
        raise FileNotFoundError(f"{path} must list CTs, got none")
    return [Case(name or case_name(ct), ct) for name, ct in cts]  # one that is not there fails by itself, later


def _in_folder(folder: Path, before: str = "") -> Iterator[Case]:
    """Yield the CTs in a folder that is not itself one; `before`: what their names begin with."""
    if not before and any((folder / name).is_dir() for name in ("images", "imagesTr")):
        yield from (Case(before + case.name, case.ct_path) for case in find_cases(folder) if case.ct_path.exists())
        return
    for path in sorted(folder.glob("[!.]*")):
        if path.is_dir():
            if _has_dicom(path, deep=False):  # whatever NIfTI lies beside it
                yield Case(before + path.name, path)
            elif with_masks := sorted(path.glob("ct.nii*")):  # a patient of TotalSegmentator's data set
                yield Case(before + path.name, with_masks[0])
            elif any(file.name.lower().endswith(SUFFIXES) for file in path.rglob("[!.]*")):
                yield from _in_folder(path, f"{before}{path.name}_")
            elif _has_dicom(path, deep=True):
                yield Case(before + path.name, path)
            else:
                yield from _in_folder(path, f"{before}{path.name}_")
        elif path.name.lower().endswith(_CT_SUFFIXES):
            yield Case(before + case_name(path), path)


def _has_dicom(folder: Path, *, deep: bool) -> bool:
    """Return whether a folder, or one below it, holds a DICOM file, be it damaged."""
    for file in folder.rglob("[!.]*") if deep else folder.glob("[!.]*"):
        if file.is_file() and not file.name.lower().endswith((*_CT_SUFFIXES, ".csv", ".json", ".png", ".txt")):
            try:
                if read_header(file) is not None:
                    return True
            except (ValueError, OSError):
                return True
    return False
