"""The CTs of an archive: what folders, lists, patterns and files lead to, NIfTI and DICOM mixed, each with a name.

    FOLDER         every NIfTI file and .zip in it, every folder in it that holds DICOM at any depth (one patient each),
                   other folders in it likewise; a data set with labels (`data.cohort`) gives its CTs
    LIST.csv       one CT a row: a column `ct`, relative to the list's own folder, and perhaps a column `name`; in
                   UTF-8 or as Excel saves Unicode text, its columns parted by comma, semicolon or tab
    'CTS/*.nii.gz' what matches; ** for any number of folders
    anything else  one CT, as `ct.files.load_ct` reads it

Of a data set with labels, whatever lies beside the folders of its CTs and labels is passed over (`imagesTs`, which can
be given by itself). A folder with DICOM files in it and NIfTI files in or below it is taken for what most of its files
are: one CT in DICOM, or a folder of NIfTI files where somebody left a slice. What is passed over is told by name.
Hidden files are passed over, and so are labels that a run of ours has left with its manifest among the CTs. A folder
that can be reached in two ways, through a link, is entered once.
"""

import codecs
import csv
import io
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from flare_lib.ct.files import find_dicom, holds_dicom
from flare_lib.ct.nifti_file import SUFFIXES
from flare_lib.data.cohort import FOLDERS, Case, ct_with_masks, find_cases
from flare_lib.machine.counted import some_of
from flare_lib.machine.manifest import MANIFEST, read_manifest

_ENDING = r"(_0000)?(\.nii|\.zip|\.dcm)?(\.gz)?$"  # of a CT's name: channel number and format, upper or lower case
_CT_SUFFIXES = (*SUFFIXES, ".zip")


@dataclass
class _Search:
    """One search through folders: whom to tell what is passed over, the folders entered, the links still to follow."""

    tell: Callable[[str], None]
    entered: set[str] = field(default_factory=set)
    links: deque[tuple[Path, str]] = field(default_factory=deque)  # with what names below them begin with


def case_name(path: Path) -> str:
    """Return a CT's name: its file's or folder's, without channel number and format."""
    return re.sub(_ENDING, "", path.name, flags=re.IGNORECASE)


def check_case_name(name: str) -> None:
    """Raise ValueError unless a name can be that of a file in a folder: files are named after their case."""
    if not name or Path(name).name != name or {"\\", ":"} & set(name) or name.startswith("."):
        raise ValueError(f"a CT's name must be a file's name, without folders, got {name!r}")


def list_cts(inputs: Sequence[str | os.PathLike], *, on_note: Callable[[str], None] | None = None) -> list[Case]:
    """Return the CTs that all inputs lead to, in their order, each with a name of its own.

    A CT in a subfolder is named after both, joined by "_". `on_note` is called with a note for every folder in which
    files that may be CTs are passed over. Raises FileNotFoundError for an input that does not exist or leads to no CT,
    ValueError for two CTs of the same name, a name that leads to another folder, or a list that cannot be read as one:
    without a column `ct`, with a row that has no CT or more cells than columns, or in another encoding.
    """
    cases = [case for given in inputs for case in _cts_of(Path(given), on_note or (lambda note: None))]
    named: dict[str, Path] = {}
    for case in cases:
        check_case_name(case.name)
        if named.setdefault(case.name.lower(), case.ct_path) != case.ct_path:  # on some disks, "A" and "a" are one file
            raise ValueError(
                f"every CT must have a name of its own, got {case.name} for {named[case.name.lower()]} and "
                f"{case.ct_path} (a list, .csv, can name them)"
            )
    return list({case.name: case for case in cases}.values())


def _cts_of(given: Path, tell: Callable[[str], None]) -> list[Case]:
    if given.suffix.lower() == ".csv" and given.is_file():
        return _listed(given)
    if given.is_dir() and not _is_one_ct(given, tell):
        if not (found := list(_in_folder(given, tell))):
            raise FileNotFoundError(f"{given} must hold CTs, NIfTI or DICOM, got none")
        return found
    if os.path.lexists(given):
        return [Case(case_name(given.absolute()), given)]
    if not (matches := _matches(given)):
        raise FileNotFoundError(f"every input must exist, got {given}")
    return [case for match in matches for case in _cts_of(match, tell)]


def _is_one_ct(folder: Path, tell: Callable[[str], None]) -> bool:
    """Return whether the files of a folder are the slices of a CT, telling of what else lies there."""
    if not holds_dicom(folder):
        return False
    if not (niftis := _niftis_below(folder)):
        return True
    slices = find_dicom(folder)
    # a CT has dozens of slices, but a multi-frame one is a single file, and so is a stray slice
    is_one = (len(slices), _n_bytes(slices)) >= (len(niftis), _n_bytes(niftis))
    taken, passed = ("the slices of one CT", niftis) if is_one else ("a folder of NIfTI files", slices)
    tell(f"{folder} is taken for {taken}; passed over: {some_of([str(path.relative_to(folder)) for path in passed])}")
    return is_one


def _niftis_below(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("[!.]*") if path.name.lower().endswith(SUFFIXES))
    labels = {parent: _labels_of_a_run(parent) for parent in {path.parent for path in found}}
    return [path for path in found if path.name not in labels[path.parent]]


def _labels_of_a_run(folder: Path) -> set[str]:
    """Return the names of the label maps that runs of ours have made in a folder, as its manifest says."""
    if not (manifest := folder / MANIFEST).is_file():
        return set()
    made = read_manifest(manifest, lambda entry: entry.get("state") == "done" and "input_sha256" in entry).values()
    return {entry["output"] for entry in made if isinstance(entry.get("output"), str)}


def _n_bytes(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def _matches(pattern: Path) -> list[Path]:
    """Return what a pattern leads to, sorted; a hidden file or folder only where the pattern names it."""
    start, named = Path(pattern.anchor), set(pattern.parts)
    if not (parts := pattern.parts[bool(pattern.anchor) :]):
        return []
    try:
        found = list(start.glob(os.path.join(*parts)))  # its ** enters no links, which may lead in circles
    except ValueError as error:
        raise ValueError(f"in a pattern, ** must stand alone between slashes, got {pattern}") from error
    return sorted(path for path in found if all(part in named or not part.startswith(".") for part in path.parts))


def _listed(path: Path) -> list[Case]:
    text = _text_of(path)
    first = next((line for line in text.splitlines() if not _says_nothing([line])), "")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), skipinitialspace=True)
    try:
        columns = [name.strip().lower() for name in next((row for row in rows if not _says_nothing(row)), [])]
        if columns.count("ct") != 1 or columns.count("name") > 1:
            raise ValueError(
                f"{path} must have one column ct, and at most one name, got {', '.join(columns) or 'none'}"
            )
        cases = []
        for cells in rows:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
                raise ValueError(
                    f"{path} must have {len(columns)} columns, got {len(cells)} in line {rows.line_num} "
                    "(a cell that contains a comma must be quoted)"
                )
            row = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
            if not row.get("ct"):
                raise ValueError(f"{path} must name a CT in every row, got none in line {rows.line_num}")
            ct = _listed_file(path.parent, row["ct"])
            # a missing file fails later, as a case, even if it was written on another system
            cases.append(Case(row.get("name") or case_name(Path(PureWindowsPath(ct.name).name)), ct))
    except csv.Error as error:
        raise ValueError(f"{path} must be a list, .csv, got: {error} in line {rows.line_num}") from error
    if not cases:
        raise FileNotFoundError(f"{path} must list CTs, got none")
    return cases


def _says_nothing(cells: list[str]) -> bool:
    """Return whether a row above the columns' names is empty, or `sep=;`, which tells Excel what parts cells."""
    return not any(cell.strip() for cell in cells) or cells[0].strip().lower().startswith("sep=")


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        n_line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path} must be text in UTF-8, got another encoding in line {n_line}") from error
    if "\0" in text:
        raise ValueError(f"{path} must be text, got a NUL character")
    return text


def _listed_file(folder: Path, written: str) -> Path:
    """Return the file that a list means, even if the list was written on Windows and is read elsewhere."""
    path = folder / written
    if not os.path.lexists(path) and os.path.lexists(other := folder / PureWindowsPath(written).as_posix()):
        return other
    return path


def _in_folder(folder: Path, tell: Callable[[str], None]) -> Iterator[Case]:
    """Yield the CTs in a folder that is not itself one.

    Every folder is entered once, links to folders after all others: a new link changes no CT's name.
    """
    search = _Search(tell, {os.path.realpath(folder)})
    if layout := next((pair for pair in FOLDERS if (folder / pair[0]).is_dir()), None):
        yield from (case for case in find_cases(folder) if case.ct_path.exists())
        beside = [path.relative_to(folder) for path in _niftis_below(folder)]
        known = [name.lower() for name in layout]  # on some disks, "Images" and "images" are one folder
        if passed := [str(path) for path in beside if path.parts[0].lower() not in known]:
            tell(f"{folder} is taken for a data set, its CTs in {layout[0]}; passed over: {some_of(passed)}")
        return
    yield from _below(folder, "", search)
    while search.links:
        yield from _at(*search.links.popleft(), search)


def _below(folder: Path, before: str, search: _Search) -> Iterator[Case]:
    """Yield the CTs in a folder's folders; `before`: what their names begin with. Links to folders are put aside."""
    labels = _labels_of_a_run(folder)
    for path in sorted(path for path in folder.glob("[!.]*") if path.name not in labels):
        if path.is_symlink() and path.is_dir():
            search.links.append((path, before))
        else:
            yield from _at(path, before, search)


def _at(path: Path, before: str, search: _Search) -> Iterator[Case]:
    """Yield the CT that a file or folder is, or those below it; nothing for a folder that has been entered."""
    if not path.is_dir():
        if path.name.lower().endswith(_CT_SUFFIXES):
            yield Case(before + case_name(path), path)
        return
    if (real := os.path.realpath(path)) in search.entered:
        return
    search.entered.add(real)
    if _is_one_ct(path, search.tell):
        yield Case(before + path.name, path)
    elif ct := ct_with_masks(path):  # a patient of TotalSegmentator's data set
        yield Case(before + path.name, ct)
    elif not any(file.name.lower().endswith(SUFFIXES) for file in path.rglob("[!.]*")) and holds_dicom(path, deep=True):
        yield Case(before + path.name, path)
    else:
        yield from _below(path, f"{before}{path.name}_", search)
