"""The CTs of an archive: what folders, lists, patterns and files lead to, NIfTI and DICOM mixed, each with a name.

    FOLDER         every NIfTI file and .zip in it, every folder in it that holds DICOM at any depth (one patient each),
                   other folders in it likewise; a data set with labels (`data.cohort`) gives its CTs
    LIST.csv       one CT a row (`ct_list`); or .tsv
    'CTS/*.nii.gz' what matches; ** for any number of folders
    anything else  one CT, as `ct.files.load_ct` reads it

Of a data set with labels, whatever lies beside the folders of its CTs and labels is passed over (`imagesTs`, which can
be given by itself). A folder with DICOM files in it and NIfTI files in or below it is taken for what most of its files
are: one CT in DICOM, or a folder of NIfTI files where somebody left a slice. What is passed over is told by name.
Label maps among the CTs are passed over, too (`is_label_map`), and images that are not read. Hidden files are passed
over without a word, and so are labels that a run of ours has left with its manifest. A folder that can be reached in
two ways, through a link, is entered once.
"""

import os
import unicodedata
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from flare_lib.ct.folders import case_namer, find_dicom, holds_dicom, tell_not_read
from flare_lib.ct.nifti_file import SUFFIXES, is_label_map
from flare_lib.data.cohort import FOLDERS, Case, ct_with_masks, find_cases, label_maps_among
from flare_lib.data.ct_list import LIST_SUFFIXES, read_list
from flare_lib.machine.counted import some_of
from flare_lib.machine.manifest import MANIFEST, read_manifest

_CT_SUFFIXES = (*SUFFIXES, ".zip")


@dataclass
class _Search:
    """One search through folders: whom to tell what is passed over, what CTs' cases are called, where it is."""

    tell: Callable[[str], None]
    name_of: Callable[[Path], str]
    entered: set[str] = field(default_factory=set)
    links: deque[tuple[Path, str]] = field(default_factory=deque)  # still to follow; what names below them begin with


def check_case_name(case: Case) -> None:
    """Raise ValueError unless a case's name can be that of a file in a folder: files are named after their case."""
    name = case.name
    if not name or Path(name).name != name or {"\\", ":"} & set(name) or name.startswith("."):
        raise ValueError(
            f"a CT's name must be a file's name, without folders, got {name!r} for {case.ct_path} (a list, .csv, can "
            "name it)"
        )


def list_cts(
    inputs: Sequence[str | os.PathLike],
    *,
    labelled: Collection[str] = (),
    on_note: Callable[[str], None] | None = None,
) -> list[Case]:
    """Return the CTs that all inputs lead to, in their order, each with a name of its own.

    A CT in a subfolder is named after both, joined by "_". `labelled`: the cases of which there are labels, see
    `case_namer`. `on_note` is called with a note for every folder in which files that may be CTs are passed over.
    Raises FileNotFoundError for an input that does not exist or leads to no CT, ValueError for two CTs of the same name
    or a name that leads to another folder, and the errors of `read_list`.
    """
    tell, name_of = on_note or (lambda note: None), case_namer(labelled)
    cases = [case for given in inputs for case in _cts_of(Path(given), tell, name_of)]
    named: dict[str, Path] = {}
    for case in cases:
        check_case_name(case)
        # on some disks, "A" and "a" are one file, and so are "é" as one character and as two
        there = named.setdefault(unicodedata.normalize("NFC", case.name).lower(), case.ct_path)
        if os.path.realpath(there) != os.path.realpath(case.ct_path):
            raise ValueError(
                f"every CT must have a name of its own, got {case.name} for {there} and {case.ct_path} (a list, .csv, "
                "can name them)"
            )
    return list({case.name: case for case in cases}.values())


def _cts_of(given: Path, tell: Callable[[str], None], name_of: Callable[[Path], str]) -> list[Case]:
    if given.suffix.lower() in LIST_SUFFIXES and given.is_file():
        return [Case(name or _name_in_list(ct.absolute(), name_of), ct) for name, ct in read_list(given)]
    if given.is_dir() and not _is_one_ct(given, tell):
        if not (found := list(_in_folder(given, _Search(tell, name_of)))):
            raise FileNotFoundError(f"{given} must hold CTs, NIfTI or DICOM, got none")
        return found
    if os.path.lexists(given):
        return [Case(name_of(given.absolute()), given)]
    if not (matches := _matches(given)):
        raise FileNotFoundError(f"every input must exist, got {given}")
    return [case for match in matches for case in _cts_of(match, tell, name_of)]


def _name_in_list(ct: Path, name_of: Callable[[Path], str]) -> str:
    """Return the name of a CT's case, "" for a drive or a root; it may be missing, or written on another system."""
    name = PureWindowsPath(ct.name).name
    return name_of(ct.with_name(name)) if name else ""


def _is_one_ct(folder: Path, tell: Callable[[str], None]) -> bool:
    """Return whether the files of a folder are the slices of a CT, telling of what else lies there."""
    if not holds_dicom(folder):
        return False
    if not (niftis := _niftis_below(folder)):
        return True
    slices = find_dicom(folder)
    cts = [path for path in niftis if not is_label_map(path)]
    # a CT has dozens of slices, in as many files or in one; a stray slice is one image
    is_one = (sum(slices.values()), _n_bytes(slices)) >= (len(cts), _n_bytes(cts))
    taken, passed = ("the slices of one CT", niftis) if is_one else ("a folder of NIfTI files", [*slices])
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


def _n_bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def _matches(pattern: Path) -> list[Path]:
    """Return what a pattern leads to, sorted: hidden files and folders only where it names them, and nothing twice.

    What lies in a folder that the pattern leads to as well is found in that folder.
    """
    start, named = Path(pattern.anchor), set(pattern.parts)
    if not (parts := pattern.parts[bool(pattern.anchor) :]):
        return []
    if any("**" in part and part != "**" for part in parts):  # from Python 3.13 on, it would be one *
        raise ValueError(f"in a pattern, ** must stand alone between slashes, got {pattern}")
    matches = start.glob(os.path.join(*parts))  # its ** enters no links, which may lead in circles
    found = {path for path in matches if all(part in named or not part.startswith(".") for part in path.parts)}
    return sorted(path for path in found if found.isdisjoint(path.parents))


def _in_folder(folder: Path, search: _Search) -> Iterator[Case]:
    """Yield the CTs in a folder that is not itself one.

    Every folder is entered once, links to folders after all others: a new link changes no CT's name.
    """
    search.entered.add(os.path.realpath(folder))
    if layout := next((pair for pair in FOLDERS if (folder / pair[0]).is_dir()), None):
        yield from (case for case in find_cases(folder, on_note=search.tell) if case.ct_path.exists())
        beside = [path.relative_to(folder) for path in _niftis_below(folder)]
        known = [name.lower() for name in layout]  # on some disks, "Images" and "images" are one folder
        if passed := [str(path) for path in beside if path.parts[0].lower() not in known]:
            search.tell(f"{folder} is taken for a data set, its CTs in {layout[0]}; passed over: {some_of(passed)}")
        return
    yield from _below(folder, "", search)
    while search.links:
        yield from _at(*search.links.popleft(), search)


def _below(folder: Path, before: str, search: _Search) -> Iterator[Case]:
    """Yield the CTs in a folder's folders; `before`: what their names begin with. Links to folders are put aside."""
    tell_not_read(folder, search.tell)
    made = _labels_of_a_run(folder)
    paths = sorted(path for path in folder.glob("[!.]*") if path.name not in made)
    for path in sorted({*paths} - {*label_maps_among(paths, search.tell)}):
        if path.is_symlink() and path.is_dir():
            search.links.append((path, before))
        else:
            yield from _at(path, before, search)


def _at(path: Path, before: str, search: _Search) -> Iterator[Case]:
    """Yield the CT that a file or folder is, or those below it; nothing for a folder that has been entered."""
    if not path.is_dir():
        if path.name.lower().endswith(_CT_SUFFIXES):
            yield Case(before + search.name_of(path), path)
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
