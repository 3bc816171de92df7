"""What in a folder is a CT or a label map, NIfTI or DICOM, and what its case is called."""

import os
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from pathlib import Path

from flare_lib.ct.dicom_folder import ZIP_SUFFIX
from flare_lib.ct.dicom_headers import FilePath, Header, MemberPath, is_index, read_header
from flare_lib.ct.nifti_file import SUFFIXES
from flare_lib.machine.counted import some_of

_ENDING = r"(\.nii|\.zip|\.dcm)?(\.gz)?$"  # of a CT's or a label map's name, upper or lower case
_CHANNEL = "_0000"
# what images are called in other formats, and NIfTI files that are packed otherwise or not all there yet
_NOT_READ = re.compile(
    r"\.(nrrd|nhdr|mha|mhd|hdr|img|mgh|mgz|mnc|tar(\.\w+)?|tgz|7z|rar)$|\.nii(\.gz)?\.\w+$", re.IGNORECASE
)
# what is called like them and holds no image: notes on a NIfTI file, its checksum, and archives of a net's weights
_NO_IMAGE = re.compile(
    r"\.nii(\.gz)?\.(json|txt|csv|tsv|xml|ya?ml|log|md5|sha\d+)$"
    r"|(model|checkpoint|weights|\.pth?)[^.]*\.(tar(\.\w+)?|tgz|7z|rar)$",
    re.IGNORECASE,
)
# names of files that are not even opened
_NEVER_DICOM = (*SUFFIXES, ZIP_SUFFIX, ".csv", ".tsv", ".json", ".png", ".txt")


def case_name(path: Path) -> str:
    """Return the name of a case: that of its file or folder, without format and channel number.

    nnU-Net and FLARE 2022 end the names of CTs in `_0000`. Where cases are counted from there (`case_0000`,
    `case_0001`), the number is part of the name. For many paths see `case_namer`.
    """
    return case_namer()(path)


def case_namer(labelled: Collection[str] = ()) -> Callable[[Path], str]:
    """Return `case_name` for many paths: it lists every folder once, when it first needs to.

    `labelled`: the cases of which there are labels. If it holds one of `case_0000` and `case`, that is the name,
    whatever lies in the folder.
    """
    counted_from = cache(_counted_from)

    def name_of(path: Path) -> str:
        name = _without_format(path.name)
        case = name.removesuffix(_CHANNEL)
        if case == name or (name in labelled) != (case in labelled):
            return case if case in labelled else name
        return name if name == counted_from(path.parent) else case

    return name_of


def _counted_from(folder: Path) -> str | None:
    """Return the name from which the cases in a folder are counted, if its only `_0000` is the first number of many."""
    try:
        names = {_without_format(name) for name in os.listdir(folder) if not name.startswith(".")}
    except OSError:  # not there, or not to be read: a list may name files of another computer
        return None
    first = [name for name in names if name.endswith(_CHANNEL)]
    if len(first) != 1:
        return None
    numbered = re.compile(re.escape(first[0].removesuffix(_CHANNEL)) + r"_\d{4}", re.ASCII)
    return first[0] if sum(numbered.fullmatch(name) is not None for name in names) > 1 else None


def _without_format(name: str) -> str:
    return re.sub(_ENDING, "", name, flags=re.IGNORECASE)


def find_images(folder: str | os.PathLike) -> dict[str, Path]:
    """Return {case name: path} for a folder's .nii and .nii.gz files, sorted by name; empty if there are none.

    They may be label maps: a `_0000` is part of the name. Hidden files are skipped: a killed process may have left one.
    Raises ValueError if two files have the same case name.
    """
    paths = (path for path in sorted(Path(folder).glob("[!.]*")) if path.name.lower().endswith(SUFFIXES))
    return _by_case(paths, lambda path: _without_format(path.name))


def tell_not_read(folder: str | os.PathLike, on_note: Callable[[str], None] | None) -> None:
    """Call `on_note` with a note of the files in a folder that may be images but are not read, judging by their names.

    These are other formats (.nrrd, .mha, .hdr and .img), archives other than .zip, and NIfTI files that are not packed
    by gzip, are still on their way or only a cloud's placeholder (`a.nii.xz`, `a.nii.gz.part`, `.a.nii.gz.icloud`),
    unless the file itself is there. DICOM files are not among them, whatever they are called.
    """
    names = {path.name for path in Path(folder).glob("*") if not path.is_dir()}
    passed = [
        name
        for name in sorted(names)
        if _NOT_READ.search(name)
        and not _NO_IMAGE.search(name)
        and not name.lower().endswith((*SUFFIXES, ZIP_SUFFIX))
        and (not name.startswith(".") or name.endswith(".icloud"))
        and name.rpartition(".")[0].lstrip(".") not in names
        and not any(_dicom_among([Path(folder, name)]))
    ]
    if passed and on_note:
        on_note(f"{folder} holds what may be images in a form that is not read; passed over: {some_of(passed)}")


def find_cts(folder: str | os.PathLike, labelled: Collection[str] = ()) -> dict[str, Path]:
    """Return {case name: path} for everything in a folder that `load_ct` reads, sorted by name; empty if there is none.

    That is NIfTI files, .zip files and folders that hold DICOM, at any depth: one CT each. See `case_name`, and
    `case_namer` for `labelled`.
    Raises ValueError for two of one case name, and for slices of DICOM that lie in the folder itself.
    """
    folder = Path(folder)
    if holds_dicom(folder):
        raise ValueError(f"{folder} must hold a folder or .zip of DICOM for each CT, got DICOM files side by side")
    paths = sorted(folder.glob("[!.]*"))
    cts = (path for path in paths if path.name.lower().endswith(SUFFIXES) or holds_dicom(path, deep=True))
    return _by_case(cts, case_namer(labelled))


def _by_case(paths: Iterable[Path], name_of: Callable[[Path], str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        name = name_of(path)
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
