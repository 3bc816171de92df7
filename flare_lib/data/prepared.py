"""Cases prepared for training, once, on disk: cropped, windowed and at the net's spacing (paper 2.1).

    CT -> foreground, or the organs and 40 mm around them -> window -> spacing -> image.npy, labels.npy, case.json

Images are stored in HU (as float16, which is off by at most an eighth of a HU within the paper's window) and normalised
when a patch is read, so the mean and SD of all cases need no second pass: each case stores its own `Moments`, which add
up. The files are memory-mapped, so thousands of cases take no memory. Labels may be `IGNORED` where nothing is to be
learnt: such voxels are no organ, for the box, for the places that patches are centred on, and for a case to have one.

A cohort's folder is named after the recipe that made it, so that a changed recipe never reads another one's cases; a
case whose source files have changed is prepared again. A case appears complete or not at all, and existing cases are
not prepared again: if a preparation is stopped, the next one continues from there.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flare_lib.ct.files import load_ct
from flare_lib.ct.labels import as_label_map, without_ignored
from flare_lib.ct.moments import Moments
from flare_lib.ct.preprocess import Preprocessing, find_foreground
from flare_lib.ct.resample import resample_nearest, resample_volume
from flare_lib.ct.roi import Box, bounding_box, crop, crop_volume
from flare_lib.ct.volume import Volume, grid_difference
from flare_lib.data.cohort import Case, load_labels
from flare_lib.machine.atomic_write import atomic_folder, atomic_write
from flare_lib.machine.counted import some_of
from flare_lib.machine.failures import Failure, reason_of
from flare_lib.machine.fingerprint import stamp_of
from flare_lib.machine.processes import Pool
from flare_lib.machine.progress import Progress
from flare_lib.machine.runner import run_in_order

AROUND = ("foreground", "organs")
_FORMAT = 3  # of the files: increase it when they change
_PLACES = 500  # voxels of each organ that are stored, so that a patch can be centred on one without a search


@dataclass(frozen=True)
class PreparedCase:
    """One case in the form a net is trained on.

    `image_hu` float16 (Z, Y, X), within the window, memory-mapped; `labels` uint8 of the same shape, 0 to 13 or
    `IGNORED`, or None; `class_locations` {organ id: some of its voxels, int (n, 3), ZYX}; `moments` of its grey values
    in HU, for individual normalisation; `content`: a hash of the whole CT's grey values as they were read, which are
    the same under any name and in any format that leads to the same values on the same canonical grid; empty for a case
    that was not read.

    Pickled, as for processes that are not forked, a case on disk is the place of its files and not all that they hold.
    """

    name: str
    image_hu: np.ndarray
    labels: np.ndarray | None
    class_locations: dict[int, np.ndarray]
    moments: Moments
    content: str = ""

    def __reduce__(self) -> tuple:
        """Return what makes this case in another process; one that lies on disk is mapped there anew."""
        if isinstance(self.image_hu, np.memmap) and self.image_hu.filename:
            return _load, (Path(self.image_hu.filename).parent,)
        return PreparedCase, tuple(getattr(self, field.name) for field in fields(self))


def moments_of(cases: Sequence[PreparedCase]) -> Moments:
    """Return mean and SD in HU over all voxels of all cases, for the fine stage's normalisation (paper 2.1, 4.5).

    Raises ValueError for no cases.
    """
    if not cases:
        raise ValueError("mean and SD must be taken over at least one case, got none")
    return sum((case.moments for case in cases), Moments())


def prepare_cases(
    cases: Sequence[Case],
    folder: str | Path,
    preprocessing: Preprocessing,
    *,
    around: str = "foreground",
    margin_mm: float = 40.0,
    pass_over_empty: bool = False,
    pool: Pool | None = None,
    progress: Progress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> list[PreparedCase]:
    """Prepare the cases that `folder` does not hold yet, and return all of them in order.

    `around`: "foreground" (the paper's coarse data set) or "organs", the box around the labels widened by `margin_mm`
    (its fine one). Spacing and window come from `preprocessing`; its mean and SD are not used. The work is done in a
    `pool`, or in this process; `progress(done, total)` is called; `on_note` is called with a note if a prepared case
    was damaged and is prepared again.

    A label map without any organ is an error, or, with `pass_over_empty` (a net may find nothing), a case that is left
    out of what is returned and named in a note.

    A case that cannot be prepared does not hold up the others; at the end, ValueError names each one and says why: no
    labels where they are needed, an empty label map, labels that are neither 0 to 13 nor `IGNORED` or lie off the CT's
    grid, files that do not load, no room on the disk.
    """
    if around not in AROUND:
        raise ValueError(f"around must be one of {', '.join(AROUND)}, got {around!r}")
    if twice := [name for name, n in Counter(case.name for case in cases).items() if n > 1]:
        raise ValueError(f"every case must have a name of its own, got {twice[0]} twice")
    folder = _folder_of_recipe(Path(folder), preprocessing, around, margin_mm)
    missing = [case for case in cases if _load_if_there(case, folder, on_note) is None]
    done = len(cases) - len(missing)
    if progress:
        progress(done, len(cases))
    make = partial(
        _prepare,
        folder=folder,
        preprocessing=preprocessing,
        around=around,
        margin_mm=margin_mm,
        pass_over_empty=pass_over_empty,
    )
    count = (lambda n, _: progress(done + n, len(cases))) if progress else None
    outcomes = run_in_order(make, missing, pool, progress=count)
    failed = [
        f"case {case.name}: {outcome.reason}"
        for case, outcome in zip(missing, outcomes, strict=True)
        if isinstance(outcome, Failure)
    ]
    if failed:
        raise ValueError(some_of(failed, "; "))
    empty = [case.name for case, there in zip(missing, outcomes, strict=True) if there is False]
    if empty and on_note:
        on_note(
            f"{len(empty)} of {len(cases)} cases have no organ in their labels and are passed over: {some_of(empty)}"
        )
    return [_load(folder / case.name) for case in cases if case.name not in empty]


def _folder_of_recipe(folder: Path, preprocessing: Preprocessing, around: str, margin_mm: float) -> Path:
    """Return the folder in `folder` that is named after what decides how cases are prepared, made if need be."""
    recipe = {"format": _FORMAT, "spacing_zyx_mm": preprocessing.spacing_zyx_mm, "window_hu": preprocessing.window_hu}
    recipe |= {"around": around, "margin_mm": margin_mm if around == "organs" else None}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    (folder / key).mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / key / "recipe.json") as unfinished:
        unfinished.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    return folder / key


def _prepare(
    case: Case,
    *,
    folder: Path,
    preprocessing: Preprocessing,
    around: str,
    margin_mm: float,
    pass_over_empty: bool,
) -> bool:
    """Prepare one case, whole or not at all; return whether it was, and not passed over as one without an organ."""
    ct, labels_volume = _load_pair(case)
    if labels_volume is not None and not without_ignored(labels_volume.array_zyx).any():
        if pass_over_empty:
            return False
        raise ValueError("the label map must hold an organ, got only background")
    image, labels = _crop_and_resample(ct, labels_volume, preprocessing, around, margin_mm)
    card = {"sources": _sources(case), "moments": asdict(Moments.of(image)), "content": _content_of(ct)}
    with atomic_folder(folder / case.name) as unfinished:  # replaces a case made from files that have changed since
        _save(unfinished / "image.npy", image.astype(np.float16))
        if labels is not None:
            _save(unfinished / "labels.npy", labels)
            _save(unfinished / "class_locations.npy", _class_locations(labels, np.random.default_rng(labels.size)))
        (unfinished / "case.json").write_text(json.dumps(card) + "\n", encoding="utf-8")
    return True


def _save(path: Path, array: np.ndarray) -> None:
    whole = io.BytesIO()  # numpy reports a full disk as "1200 requested and 400 written"
    np.save(whole, array)
    path.write_bytes(whole.getvalue())  # getbuffer would be a view, which an error holds while its buffer is closed


def _load_pair(case: Case) -> tuple[Volume, Volume | None]:
    """Return a case's CT and its labels on the same grid, or None."""
    ct = load_ct(case.ct_path)
    if case.label_path is None:
        return ct, None
    labels = load_labels(case)
    if differs := grid_difference(labels, ct):
        raise ValueError(f"labels must lie on the CT's grid, got {differs}")
    as_label_map(without_ignored(labels.array_zyx), "the label map")
    return ct, labels


def _crop_and_resample(
    ct: Volume, labels: Volume | None, preprocessing: Preprocessing, around: str, margin_mm: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return image (float32 HU) and labels (uint8, or None) on the training grid."""
    if around == "organs":
        if labels is None:
            raise ValueError("a case cropped around its organs must have labels, got only a CT")
        organs = bounding_box(without_ignored(labels.array_zyx)) or Box((0, 0, 0), ct.shape_zyx)
        box = organs.widen(margin_mm, ct.spacing_zyx_mm, ct.shape_zyx)
    else:
        box = find_foreground(ct.array_zyx)
    spacing, window = preprocessing.spacing_zyx_mm, preprocessing.window_hu
    image = resample_volume(crop_volume(ct, box), spacing, window_hu=window).array_zyx
    if labels is None:
        return image, None
    return image, resample_nearest(crop(labels.array_zyx, box), image.shape)


def _class_locations(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return rows (organ, z, y, x): up to `_PLACES` voxels of every organ, drawn at random, int16."""
    rows, labels = [], without_ignored(labels)
    for organ in np.unique(labels[labels > 0]):
        where = np.argwhere(labels == organ)
        some = where[rng.permutation(len(where))[:_PLACES]]
        rows.append(np.column_stack([np.full(len(some), organ), some]))
    return np.concatenate(rows).astype(np.int16) if rows else np.zeros((0, 4), np.int16)


def _sources(case: Case) -> list[str]:
    """Return what changes with a case's files, or with those in a folder of slices or masks."""
    return [stamp_of(path) for path in (case.ct_path, case.label_path) if path is not None]


def _content_of(ct: Volume) -> str:
    """Return a hash of a CT's grey values, whatever file they came from: loading leaves them in one dtype and order."""
    digest = hashlib.sha256(f"{ct.shape_zyx} {ct.array_zyx.dtype}".encode())
    digest.update(np.ascontiguousarray(ct.array_zyx).data)
    return digest.hexdigest()


def _load_if_there(case: Case, folder: Path, on_note: Callable[[str], None] | None) -> PreparedCase | None:
    """Return a case that was prepared from the files as they are now; None if it must be prepared (again)."""
    try:
        sources = _sources(case)
    except OSError:
        return None  # the CT is gone: preparing it will say so
    made = folder / case.name
    try:
        return _load(made) if made.is_dir() and _card(made)["sources"] == sources else None
    except (OSError, ValueError, TypeError, LookupError, EOFError) as error:  # the ways in which a file can be damaged
        if on_note:
            on_note(f"{made} is damaged and prepared again ({reason_of(error)})")
        return None


def _card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "case.json").read_text(encoding="utf-8"))


def _load(folder: Path) -> PreparedCase:
    """Return a prepared case."""
    labels, class_locations = None, {}
    if (folder / "labels.npy").is_file():
        labels = np.load(folder / "labels.npy", mmap_mode="r")
        rows = np.load(folder / "class_locations.npy").astype(int)
        class_locations = {int(organ): rows[rows[:, 0] == organ, 1:] for organ in np.unique(rows[:, 0])}
    image = np.load(folder / "image.npy", mmap_mode="r")
    card = _card(folder)
    return PreparedCase(folder.name, image, labels, class_locations, Moments(**card["moments"]), card["content"])
