"""Persons to paint: real anatomy from TotalSegmentator's public label maps, each with several bodies around it.

Two layouts are read: the data set's own (`s0001/segmentations/liver.nii.gz`, one mask a structure) and one label map a
person (`*.nii.gz`) beside a JSON file {"1": "spleen", ...} that names its ids.
The data set: TotalSegmentator v2, CC BY 4.0.
"""

import json
from pathlib import Path

import numpy as np

from flare_lib.ct.files import load_label_map
from flare_lib.data.structures import Structures, complete_body


def load_person(path: str | Path) -> Structures:
    """Read one person: a case folder with `segmentations/*.nii.gz`, or a label map with one `*names*.json` beside it.

    Returns Structures on the canonical grid (ZYX), 0 = "nothing". Raises FileNotFoundError when masks or names are
    missing, ValueError when grids differ.
    """
    path = Path(path)
    if path.is_dir():
        return _from_masks(path)
    names_files = sorted(path.parent.glob("*names*.json"))
    if len(names_files) != 1:
        raise FileNotFoundError(f"one *names*.json must lie beside {path.name}, got {len(names_files)}")
    names = {int(i): name for i, name in json.loads(names_files[0].read_text(encoding="utf-8")).items()}
    volume = load_label_map(path)
    return Structures(volume.array_zyx.astype(np.uint8), {0: "nothing"} | names, volume.spacing_zyx_mm)


def _from_masks(folder: Path) -> Structures:
    """Join the masks of one case; where two overlap, the later name in the alphabet wins."""
    files = sorted((folder / "segmentations").glob("*.nii.gz"))
    if not files:
        raise FileNotFoundError(f"{folder} must hold segmentations/*.nii.gz, got none")
    array, spacing = None, None
    for i, file in enumerate(files, start=1):
        mask = load_label_map(file)
        if array is None:
            array, spacing = np.zeros(mask.shape_zyx, np.uint8), mask.spacing_zyx_mm
        if mask.shape_zyx != array.shape:
            raise ValueError(
                f"all masks of {folder.name} must have shape {array.shape}, got {mask.shape_zyx} for {file.name}"
            )
        array[mask.array_zyx > 0] = i
    names = {0: "nothing"} | {i: file.name.removesuffix(".nii.gz") for i, file in enumerate(files, start=1)}
    return Structures(array, names, spacing)


def find_persons(folder: str | Path) -> list[Path]:
    """List the persons in a folder: case folders with `segmentations`, and label maps named `*totalseg117*.nii.gz`."""
    folder = Path(folder)
    found = sorted(p.parent for p in folder.glob("*/segmentations")) + sorted(folder.glob("*totalseg117*.nii.gz"))
    if not found:
        raise FileNotFoundError(f"{folder} must hold */segmentations or *totalseg117*.nii.gz, got neither")
    return found


def embody(person: Structures, n_bodies: int, *, seed: int) -> list[Structures]:
    """Return the same organs in `n_bodies` bodies, from thin to stout: walls, fat and skin drawn anew each time."""
    return [complete_body(person, np.random.default_rng([seed, k])) for k in range(n_bodies)]
