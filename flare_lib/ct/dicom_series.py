"""The DICOM series in a folder: what each is, and what rules it out as the CT to load.

A series is all files with one SeriesInstanceUID, or slices that each have one of their own and lie as one CT. Scouts,
reports and contours among its slices are passed over, and named. A series that holds several volumes is split
(`dicom_volumes`), and one that shows several people or studies by these; the volumes are called UID#1, UID#2, ... If
the slices of those people interlace, they are one CT, whose anonymiser drew new names as it went; if they merely
continue one another, UID alone names all of them. A slice is never left out because it is damaged: a file that cannot
be read, or that fits nowhere, rules out the series beside it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flare_lib.ct.dicom_folder import Listed, Unread, folder_of, read_files
from flare_lib.ct.dicom_frames import ENHANCED_CT, check_parts, frames_of
from flare_lib.ct.dicom_headers import Header, plain_text, quiet
from flare_lib.ct.dicom_stack import (
    CT_CLASSES,
    CT_IMAGE,
    Stack,
    check_is_ct_slice,
    is_localizer,
    is_stack,
    place_slices,
)
from flare_lib.ct.dicom_volumes import by_person, by_volume
from flare_lib.machine.counted import counted, some_of

_OF_SEVERAL = "one series UID for several patients or studies: if it is one, its headers must be made to agree"
_NAMED = 3  # how many files of a kind are named in a note
_BY_NO_CHANCE = 5  # so many images do not lie evenly above one another unless they are one CT
_PROJECTIONS = {"MIP", "MINIP", "MPR", "CPR", "VRT", "CSA MPR", "PROJECTION IMAGE", "REFORMATTED"}


@dataclass(frozen=True, eq=False)
class Series:
    """One series, or one volume of a series that holds several.

    `name`: its UID, with #1, #2 ... for a volume. `slices`: its images, unsorted; `stack`: the same in order, or None
    if they do not form one. `against`: why it is not a CT that can be loaded, in one line, or None. `doubt`: why
    another series is preferred to it, or None. `part`: what sets a volume apart from the others of its series.
    `beside`: what lies among its slices and was passed over.
    """

    name: str
    slices: tuple[Header, ...]
    stack: Stack | None = None
    against: str | None = None
    doubt: str | None = None
    part: str = ""
    beside: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """Its description, in plain letters, and the part of the series that it is."""
        text = plain_text(self.slices[0].value("SeriesDescription"), "no description")
        return f"{text}, {self.part}" if self.part else text

    @property
    def kind(self) -> str:
        """Its modality and class."""
        kinds = " and ".join(sorted({header.kind for header in self.slices}))
        return f"{kinds}, a scout" if all(map(is_localizer, self.slices)) else kinds

    @property
    def kernel(self) -> str:
        """The convolution kernel, in plain letters; empty if none is stated."""
        kernel: Any = self.slices[0].value("ConvolutionKernel")
        return (
            "" if kernel is None else plain_text(kernel if isinstance(kernel, str) else " ".join(kernel), "no kernel")
        )

    @property
    def size(self) -> str:
        """How much there is: slices and their spacing for a stack, otherwise images or files."""
        files = {str(header.path): header.path.name for header in self.slices}
        within = f" ({', '.join(files.values())})" if len(files) == 1 else ""
        if self.stack is None:
            return f"{counted(len(files), 'file')}{within}"
        spacing = " x ".join(f"{mm:.4g}" for mm in self.stack.spacing_zyx_mm)
        n = len(self.stack.slices)
        return f"{counted(n, 'slice')} of {spacing} mm (z, y, x){within}"

    def __str__(self) -> str:
        return f"{self.description}: {self.kind}, {self.size}, {self.name or 'no UID'}"


def find_series(path: Path) -> list[Series]:
    """Return all series below a folder or in a .zip archive, sorted by UID; empty if there are none.

    Pixels are read only where two slices lie in the same place. Raises ValueError if the folder cannot be read, or if
    it holds damaged files and no series.
    """
    with quiet():
        return _find_series(path)


def _find_series(path: Path) -> list[Series]:
    files = read_files(path)
    unread = list(files.unread)
    by_uid = _by_uid(files.headers, unread)
    groups = _together(by_uid, path)
    folders = {folder_of(header) for headers in groups.values() for header in headers}
    if not groups and unread:
        raise ValueError(unread[0].reason)
    found = []
    for uid, headers in sorted(groups.items()):
        inside = {folder_of(header) for header in headers}
        damage = [reason for folder, reason in unread if folder in inside or folder not in folders]
        damage += _missing(headers, files.listed, by_uid.keys())
        skipped = [file.name for file in files.skipped if str(file.parent) in inside or str(file.parent) not in folders]
        found += _series(path, uid, headers, damage, skipped)
    return found


def _by_uid(headers: Iterable[Header], unread: list[Unread]) -> dict[str, list[Header]]:
    """Return {series UID: headers}; files that name no series form one of their own, with an empty UID.

    A file that does not say what it is counts as damaged, and so does a CT slice that is alone in its series and has no
    position: it may belong to any series beside it.
    """
    groups = defaultdict(list)
    for header in headers:
        try:
            uid = str(header.value("SeriesInstanceUID") or "")
            if header.value("SOPClassUID") is None and not header.code("Modality"):
                raise ValueError(f"{header} must say what it is, got neither a class nor a modality")
            groups[uid].append(header)
        except ValueError as error:
            unread.append(Unread(folder_of(header), str(error)))
    for uid, group in list(groups.items()):
        if len(group) == 1 and len(groups) > 1 and _is_lost(group[0], uid):
            reason = f"{group[0]} must say what it is and where it belongs, got a header that does not"
            unread.append(Unread(folder_of(group[0]), reason))
            del groups[uid]
    return dict(groups)


def _together(groups: dict[str, list[Header]], path: Path) -> dict[str, list[Header]]:
    """Return {series UID: headers} with one CT, by its lowest UID, in place of series of one slice that lie as a CT.

    Some writers draw a new series for every file. Beside a CT of several slices, single ones stay what they are.
    """
    n_slices = {uid: _n_slices(headers) for uid, headers in groups.items()}
    alone = [uid for uid, n in n_slices.items() if n == 1]
    slices = [header for uid in alone for header in groups[uid]]
    if len(alone) < _BY_NO_CHANCE or max(n_slices.values()) > 1 or not is_stack(slices, path):
        return groups
    return {uid: headers for uid, headers in groups.items() if uid not in alone} | {min(alone): slices}


def _n_slices(headers: list[Header]) -> int:
    """Return how many CT slices files hold: copies count once, and each frame of a multi-frame CT."""
    n_frames = {
        str(header.value("SOPInstanceUID") or header): header.n_frames
        for header in headers
        if _is_slice(header) or (header.value("SOPClassUID") in ENHANCED_CT and not is_localizer(header))
    }
    return sum(n_frames.values())


def _is_slice(header: Header) -> bool:
    try:
        check_is_ct_slice(header)
    except ValueError:
        return False
    return True


def _is_lost(header: Header, uid: str) -> bool:
    """Return whether a file may be a slice of any series: its header is unsound about what it is, or where it lies."""
    sop_class, modality = str(header.value("SOPClassUID") or ""), header.code("Modality")
    stored_as = header.value("MediaStorageSOPClassUID", getattr(header.elements, "file_meta", None))
    if not uid or not sop_class or not modality or (stored_as in CT_CLASSES and sop_class != stored_as):
        return True
    if modality == "CT" and "." in header.kind:  # a class that pydicom has no name for
        return True
    if sop_class != CT_IMAGE or is_localizer(header):
        return False
    try:
        check_is_ct_slice(header)
        header.numbers("ImagePositionPatient", 3)
        header.numbers("ImageOrientationPatient", 6)
        header.numbers("PixelSpacing", 2)
    except ValueError:
        return True
    return False


def _missing(headers: list[Header], listed: list[Listed], found: Set[str]) -> list[str]:
    """Name an image that a DICOMDIR lists for this series and that was not found.

    `found`: the series of all files. If these slices each name one of their own, a listed series without any file may
    be that of another such slice, unless it is of another study. Whatever else a disc holds may have been left there:
    scouts, reports, other CTs. A file that lies where one is listed is that one: its UID may have been drawn anew.
    """
    there = {name for header in headers for name in (str(header.value("SOPInstanceUID")), str(header.path))}
    classes = {"", CT_IMAGE, *(str(header.value("SOPClassUID")) for header in headers if not _is_no_ct(header))}
    uids = {str(header.value("SeriesInstanceUID") or "") for header in headers}
    studies = {header.shows[2] for header in headers}  # 0 is one that is not known

    def may_be_of_these(image: Listed) -> bool:
        if image.series in uids or len(uids) == 1 or image.series in found:
            return image.series in uids
        return len(studies) > 1 or image.study in studies or 0 in (image.study, *studies)

    wanted = (image for image in listed if image.sop_class in classes and not image.is_scout and may_be_of_these(image))
    gone = [image.file for image in wanted if there.isdisjoint((image.uid, image.file))]
    return [f"all files that a DICOMDIR lists for a series must be there, got none for {gone[0]}"] if gone else []


def _series(path: Path, uid: str, headers: list[Header], damage: list[str], skipped: list[str]) -> list[Series]:
    """Return the volumes of one series; `damage` rules out each of them, `skipped` names archives beside them."""
    try:
        check_parts(headers)
        slices, beside = _apart([frame for header in headers for frame in frames_of(header)])
        people = by_person(slices)
        whose = {f"patient or study {i} of {len(people)}": group for i, group in enumerate(people, start=1)}
        parts = whose if len(people) > 1 else by_volume(slices, path)
    except ValueError as error:
        return [Series(uid, tuple(headers), against=damage[0] if damage else str(error))]
    notes = tuple(f"passed over among the slices: {what}" for what in _what(beside))
    if skipped:
        notes += (f"passed over beside the slices: {some_of(skipped, most=_NAMED)} (of archives, only .zip is read)",)
    if len({str(header.value("SeriesInstanceUID")) for header in slices}) > 1:
        notes += ("every slice names a series of its own; they lie as those of one CT",)
    if len(people) > 1 and is_stack(slices, path):
        # two CTs never lie interlaced like this; one that ends where another begins is for the user to say
        interlaced = all(len(group) > 1 for group in people) and not all(is_stack(group, path) for group in people)
        parts = {"": slices} if interlaced else {**parts, "": slices}
    together = (f"the slices name {len(people)} patients or studies, and lie as those of one CT",) * (len(people) > 1)
    found = []
    for i, (part, headers_of_part) in enumerate(parts.items()):
        name = f"{uid}#{i + 1}" if part else uid
        stack, against = None, damage[0] if damage else None
        try:
            stack = place_slices(headers_of_part, path)
        except ValueError as error:
            against = against or (f"{error} ({_OF_SEVERAL})" if len(people) > 1 else str(error))
        doubt = _OF_SEVERAL if len(people) > 1 and len(parts) > 1 else _doubt(stack) if stack else None
        found.append(
            Series(name, tuple(headers_of_part), stack, against, doubt, part, notes if part else notes + together)
        )
    return found


def _apart(images: list[Header]) -> tuple[list[Header], list[Header]]:
    """Return a series' slices, and what is certainly not a slice, because two elements agree that it is none.

    A report, contours and the like have neither the class nor the modality of a CT; a scout calls itself one, and is
    not parallel to the slices. A series without any slices is returned whole.
    """
    slices = [image for image in images if not is_localizer(image) and not _is_no_ct(image)]
    beside = [image for image in images if _is_no_ct(image) or (is_localizer(image) and not _lies_as(image, slices))]
    if not slices:
        return images, []
    return [image for image in images if image not in beside], beside


def _is_no_ct(header: Header) -> bool:
    sop_class = str(header.value("SOPClassUID") or "")
    unknown = "." in header.kind  # pydicom has no name for the class, only its UID: it may be a damaged one
    return sop_class not in CT_CLASSES and header.code("Modality") not in ("", "CT") and not unknown


def _lies_as(image: Header, slices: list[Header]) -> bool:
    """Return whether an image is parallel to slices, as far as both say how they lie."""
    name = "ImageOrientationPatient"
    if not slices or image.value(name) is None or slices[0].value(name) is None:
        return False
    return np.allclose(image.numbers(name, 6), slices[0].numbers(name, 6), atol=1e-3)


def _what(images: list[Header]) -> Iterator[str]:
    """Yield what images are, one line a kind: the names of their files, the first ones of many."""
    named = defaultdict(list)
    for header in images:
        named["a localizer (scout)" if is_localizer(header) else header.kind].append(header.path.name)
    for kind, names in named.items():
        yield f"{some_of(names, most=_NAMED)}, {kind}"


def _doubt(stack: Stack) -> str | None:
    if len(stack.slices) == 1:
        return "a single slice"
    if not stack.is_axial:
        return "not axial"
    return "a reformation or a projection" if _PROJECTIONS & stack.slices[0].codes("ImageType") else None
