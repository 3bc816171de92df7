"""People to paint: real anatomy from TotalSegmentator's public label maps, each with several bodies around it.

Two layouts can be read: the data set's own (`s0001/segmentations/liver.nii.gz`, one mask per structure), and one label
map per person (`*.nii.gz`) beside a JSON file {"1": "spleen", ...} that names its ids.
The data set: TotalSegmentator v2, CC BY 4.0.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flare_lib.ct.files import load_label_map
from flare_lib.ct.volume import Volume, grid_difference
from flare_lib.synthetic.bodies import complete_body
from flare_lib.synthetic.structures import Structures

_MOST_MASKS = 255  # beside the background, in a label map of bytes


def load_subject(path: str | Path) -> Structures:
    """Read one person: a case folder with `segmentations/*.nii.gz`, or a label map with one `*names*.json` beside it.

    Returns Structures on the canonical grid (ZYX), 0 = "nothing". Raises FileNotFoundError if masks or names are
    missing, ValueError if the masks' grids differ or the file of names holds anything else.
    """
    path = Path(path)
    if path.is_dir():
        names = sorted(file.name.removesuffix(".nii.gz") for file in (path / "segmentations").glob("*.nii.gz"))
        joined = join_masks(path / "segmentations", names)
        return Structures(joined.array_zyx, dict(enumerate(("nothing", *names))), joined.spacing_zyx_mm)
    names_files = sorted(path.parent.glob("*names*.json"))
    if len(names_files) != 1:
        raise FileNotFoundError(f"one *names*.json must lie beside {path.name}, got {len(names_files)}")
    of_ids = _read_names(names_files[0])
    volume = load_label_map(path)
    return Structures(volume.array_zyx, {0: "nothing"} | of_ids, volume.spacing_zyx_mm)


def _read_names(path: Path) -> dict[int, str]:
    """Return {id: name} of a JSON file {"1": "spleen", ...}; ValueError for one that holds anything else."""
    try:
        return {int(i): str(name) for i, name in json.loads(path.read_text(encoding="utf-8-sig")).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f'{path} must hold names as JSON, {{"1": "spleen", ...}}, got: {error}') from error


def join_masks(folder: Path, names: Sequence[str]) -> Volume:
    """Join masks NAME.nii.gz into one label map, uint8: 1 for the first name, and so on; later names win.

    A name without a file is left out. Raises FileNotFoundError if no name has one, ValueError if grids differ or for
    more than 255 names, which is all that a byte can tell apart.
    """
    if len(names) > _MOST_MASKS:
        raise ValueError(f"at most {_MOST_MASKS} masks can be joined, got {len(names)} in {folder}")
    joined: Volume | None = None
    for i, name in enumerate(names, start=1):
        path = folder / f"{name}.nii.gz"
        if not path.is_file():
            continue
        mask = load_label_map(path)
        if joined is None:
            joined = mask.with_array(np.zeros(mask.shape_zyx, np.uint8))
        if differs := grid_difference(mask, joined):
            raise ValueError(f"all masks in {folder} must lie on one grid, got {path.name} with {differs}")
        joined.array_zyx[mask.array_zyx > 0] = i
    if joined is None:
        raise FileNotFoundError(f"{folder} must hold masks such as liver.nii.gz, got none")
    return joined


def find_subjects(folder: str | Path) -> list[Path]:
    """List the people in a folder: case folders with `segmentations`, and label maps named `*totalseg117*.nii.gz`.

    Raises FileNotFoundError if there are none.
    """
    folder = Path(folder)
    found = sorted(p.parent for p in folder.glob("*/segmentations")) + sorted(folder.glob("*totalseg117*.nii.gz"))
    if not found:
        raise FileNotFoundError(f"{folder} must hold */segmentations or *totalseg117*.nii.gz, got neither")
    return found


def embody(person: Structures, n_bodies: int, *, seed: int) -> list[Structures]:
    """Return the same organs in `n_bodies` bodies, from thin to stout, each with walls, fat and skin of its own."""
    return [complete_body(person, np.random.default_rng([seed, k])) for k in range(n_bodies)]
