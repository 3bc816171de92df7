"""A cohort: the CTs in a folder, with and without labels, checked, and split for training.

These layouts can be read (see data/README.md):

    images/NAME_0000.nii.gz    labels/NAME.nii.gz      FLARE 2022, and any plain pair of folders; _0000 may be missing
    imagesTr/NAME_0000.nii.gz  labelsTr/NAME.nii.gz    nnU-Net's raw data
    NAME/ct.nii.gz             NAME/segmentations/     TotalSegmentator, one mask per structure
    NAME_0000.nii.gz                                   CTs only, like FLARE 2022's unlabelled ones

In each of them a CT may also be DICOM: a folder NAME or a NAME.zip in place of the NIfTI file, or slices in a patient's
folder NAME beside segmentations/. A CT without a label map is fine: it is an unlabelled case.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flare_lib.ct.files import load_ct, load_label_map
from flare_lib.ct.folders import find_cts, find_images, holds_dicom, tell_not_read
from flare_lib.ct.hu import SANE_LIVER_HU, hu_doubts
from flare_lib.ct.labels import IGNORED, N_ORGANS, left_right_problems, organ, without_ignored
from flare_lib.ct.nifti_file import SUFFIXES, is_label_map
from flare_lib.ct.volume import Volume, grid_difference
from flare_lib.machine.counted import some_of
from flare_lib.machine.failures import Failure
from flare_lib.machine.processes import Pool
from flare_lib.machine.progress import Progress
from flare_lib.machine.runner import run_in_order
from flare_lib.synthetic.structures import ORGAN_STRUCTURES
from flare_lib.synthetic.subjects import join_masks

FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))  # of CTs and their labels; the first that is there counts
SANE_SPACING_MM = (0.2, 10.0)


@dataclass(frozen=True)
class Case:
    """One patient: a name, where the CT is (see `load_ct`), and its labels: a file, a folder of masks, or None."""

    name: str
    ct_path: Path
    label_path: Path | None = None


def find_cases(folder: str | Path, *, on_note: Callable[[str], None] | None = None) -> list[Case]:
    """Return the cases in a folder with one of the layouts above, sorted by name.

    If cases may be counted from `NAME_0000`, the labels' names decide whether the number is part of a CT's. Label maps
    among the CTs and images that are not read are passed over, and `on_note` is called with a note of them.
    A label map without a CT is a case too: `check_case` says what is wrong with it. A folder of DICOM slices is one
    case. Raises FileNotFoundError for a folder without cases, ValueError for two CTs or label maps with the same case
    name and for DICOM slices that lie beside NIfTI files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"a cohort must be a folder that exists, got {folder}")
    for images, labels in FOLDERS:
        if (folder / images).is_dir():
            label_maps = find_images(folder / labels)
            cts = find_cts(folder / images, label_maps)
            searched = [folder / images, folder / labels]
            break
    else:
        label_maps = {path.parent.name: path for path in folder.glob("*/segmentations")}
        cts = _in_folder(folder)
        taken = {path for ct in cts.values() for path in (ct, ct.parent)}
        others = [path for path in sorted(folder.glob("[!.]*")) if path.is_dir() and path not in taken]
        searched = [folder, *others] if folder not in cts.values() else []  # a CT's slices may be called anything
    for part in searched:
        tell_not_read(part, on_note)
    passed = label_maps_among([ct for name, ct in cts.items() if name not in label_maps], on_note)
    cts = {name: ct for name, ct in cts.items() if ct not in passed}
    if not cts:
        raise FileNotFoundError(
            f"{folder} must hold CTs, NIfTI or DICOM, as images/ + labels/, imagesTr/ + labelsTr/, NAME/ct.nii.gz or "
            "directly, got none"
        )
    anywhere = next(iter(cts.values())).parent
    return [
        Case(name, cts.get(name, anywhere / f"{name}_0000.nii.gz"), label_maps.get(name))
        for name in sorted({*cts, *label_maps})
    ]


def label_maps_among(cts: Sequence[Path], on_note: Callable[[str], None] | None = None) -> list[Path]:
    """Return what among the CTs of a folder is a label map (`is_label_map`), calling `on_note` with a note of them."""
    found = [path for path in cts if path.name.lower().endswith(SUFFIXES) and is_label_map(path)]
    if found and on_note:
        names = some_of([path.name for path in found])
        on_note(f"{found[0].parent} holds label maps among its CTs; passed over: {names}")
    return found


def ct_with_masks(folder: Path) -> Path | None:
    """Return the CT of a folder in TotalSegmentator's layout, ct.nii.gz or ct.nii; None if there is none.

    Raises ValueError for a folder with both: nothing says which of them its masks belong to.
    """
    found = [path for name in ("ct.nii.gz", "ct.nii") if os.path.lexists(path := folder / name)]
    if len(found) > 1:
        raise ValueError(f"every case must have one CT, got both {found[0].name} and {found[1].name} in {folder}")
    return found[0] if found else None


def _in_folder(folder: Path) -> dict[str, Path]:
    """Return {name: CT} for a folder without images/: patients' folders, the slices of one CT, or CTs side by side."""
    folders = sorted(path for path in folder.glob("[!.]*") if path.is_dir())
    patients = {path.name: ct for path in folders if (ct := ct_with_masks(path))}
    if patients:
        return patients | {p.name: p for p in folders if p.name not in patients and holds_dicom(p, deep=True)}
    if not find_images(folder) and holds_dicom(folder):
        return {os.path.basename(os.path.realpath(folder)): folder}
    return find_cts(folder)


def load_labels(case: Case) -> Volume:
    """Load a case's labels, 0 to 13, joining its masks if they come as masks.

    Raises ValueError for a case without labels, and the errors of `load_label_map` and `join_masks`.
    """
    if case.label_path is None:
        raise ValueError(f"{case.name} must have labels, got only a CT")
    if not case.label_path.is_dir():
        return load_label_map(case.label_path)
    return join_masks(case.label_path, ORGAN_STRUCTURES)


def check_case(case: Case) -> list[str]:
    """Return everything that is wrong or doubtful about a case, one sentence each; nothing for a sound one.

    The CT must load, with a spacing between 0.2 and 10 mm and grey values that look like HU. Labels, if there are any,
    must lie on its grid, be 0 to 13 (or `IGNORED`) and show an organ, have left and right organs on the correct sides
    (which they are not if kidney labels are swapped or the file is mirrored), and have a liver with a liver's grey
    values.
    """
    problems, ct, labels = [], None, None
    try:
        ct = load_ct(case.ct_path)
    except (ValueError, OSError) as error:
        problems.append(str(error))
    if ct is not None and not all(SANE_SPACING_MM[0] <= s <= SANE_SPACING_MM[1] for s in ct.spacing_zyx_mm):
        low, high = SANE_SPACING_MM
        problems.append(f"the spacing must lie between {low:g} and {high:g} mm, got {_numbers(ct.spacing_zyx_mm)}")
    if ct is not None:
        problems.extend(hu_doubts(ct.array_zyx))
    if case.label_path is None:
        return problems
    try:
        labels = load_labels(case)
    except (ValueError, OSError) as error:
        return [*problems, str(error)]
    if ct is not None and (differs := grid_difference(labels, ct)):
        problems.append(f"labels must lie on the CT's grid, got {differs}")
    elif ct is not None and (liver_hu := ct.array_zyx[labels.array_zyx == organ("liver").id]).size:
        low, high = SANE_LIVER_HU
        if not low <= (median := np.median(liver_hu)) <= high:
            problems.append(f"the liver's median must lie between {low:g} and {high:g} HU, got {median:g}")
    present = np.flatnonzero(np.bincount(without_ignored(labels.array_zyx).ravel()))
    if present.max() > N_ORGANS:
        unknown = _numbers(present[present > N_ORGANS].tolist())
        problems.append(f"labels must be 0 to {N_ORGANS}, or {IGNORED} where nothing is to be learnt, got {unknown}")
    if not present.max():
        problems.append("the label map must hold an organ, got only background")
    return problems + left_right_problems(labels.array_zyx)


def check_cases(
    cases: Sequence[Case], progress: Progress | None = None, *, pool: Pool | None = None
) -> dict[str, list[str]]:
    """Check all cases, in a `pool` or this process; return {name: problems} for those that have any (`check_case`)."""
    problems = {}
    for case, outcome in zip(cases, run_in_order(check_case, cases, pool, progress=progress), strict=True):
        if found := [outcome.reason] if isinstance(outcome, Failure) else outcome:
            problems[case.name] = found
    return problems


def _numbers(numbers: Sequence[float]) -> str:
    return ", ".join(f"{n:g}" for n in numbers)


def split_cases(cases: Sequence[Case], n_validation: int, *, seed: int = 0) -> tuple[list[Case], list[Case]]:
    """Split the labelled cases into (training, validation), drawn with `seed` from the sorted names.

    The paper uses 40 and 10 of FLARE 2022's 50. Raises ValueError if no case is left to train on.
    """
    labelled = sorted((case for case in cases if case.label_path is not None), key=lambda case: case.name)
    if not 0 <= n_validation < len(labelled):
        raise ValueError(
            f"n_validation must leave at least one of {len(labelled)} labelled cases to train on, got {n_validation}"
        )
    held_out = set(np.random.default_rng(seed).permutation(len(labelled))[:n_validation].tolist())
    training = [case for k, case in enumerate(labelled) if k not in held_out]
    return training, [case for k, case in enumerate(labelled) if k in held_out]
