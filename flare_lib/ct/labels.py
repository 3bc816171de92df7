"""The 13 organs of FLARE 2022: ids, names, colours, tolerances, and how other data sets number them.

One table, so that an organ has the same id and the same colour everywhere. The order is the challenge's official one
(the authors' own data set files swap the two kidneys; `left_right_problems` notices such swaps).
References: FLARE 2022 evaluation script (ids, tolerances); the data sets' own label lists (mappings).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Organ(NamedTuple):
    """One organ: FLARE id, name, abbreviation in figures, colour, and the surface tolerance of its NSD in mm."""

    id: int
    name: str
    abbreviation: str
    color: str
    tolerance_mm: float


# The colours stay distinct for colour-blind readers (red or green): any two organs are 12 apart in CIELAB, and two that
# touch are 20 apart (a test checks both).
ORGANS: tuple[Organ, ...] = (
    Organ(1, "liver", "Liv", "#914d04", 5.0),
    Organ(2, "right kidney", "RK", "#529cd3", 3.0),
    Organ(3, "spleen", "Spl", "#129e73", 3.0),
    Organ(4, "pancreas", "Pan", "#fff642", 5.0),
    Organ(5, "aorta", "Aor", "#e1292d", 2.0),
    Organ(6, "inferior vena cava", "IVC", "#3450ff", 2.0),
    Organ(7, "right adrenal gland", "RAG", "#ffffff", 2.0),
    Organ(8, "left adrenal gland", "LAG", "#f7a8ff", 2.0),
    Organ(9, "gallbladder", "Gall", "#9cff5d", 2.0),
    Organ(10, "esophagus", "Eso", "#13e5e2", 3.0),
    Organ(11, "stomach", "Sto", "#b765e7", 5.0),
    Organ(12, "duodenum", "Duo", "#fe9400", 7.0),
    Organ(13, "left kidney", "LK", "#116f9f", 3.0),
)
N_ORGANS = len(ORGANS)
N_CLASSES = N_ORGANS + 1  # the background is class 0
IGNORED = 255  # in labels to learn from: a voxel of which nobody knows what it shows
ORGAN_NAMES: dict[int, str] = {o.id: o.name for o in ORGANS}

# The ids that each data set gives to FLARE's organs 1..13, in FLARE's order. Several ids mean that it labels the organ
# in parts; an id for two FLARE organs at once (both kidneys in one label) cannot be mapped and is left out.
_IDS_IN: dict[str, tuple[int | None, ...]] = {
    "flare22": tuple(range(1, 14)),
    "amos22": (6, 2, 1, 10, 8, 9, 11, 12, 4, 5, 7, 13, 3),
    "btcv": (6, 2, 1, 11, 8, 9, 12, 13, 4, 5, 7, None, 3),
    "word": (1, 4, 2, 8, None, None, None, None, 6, 7, 5, 9, 3),
    "totalsegmentator": (5, 2, 1, 7, 52, 63, 8, 9, 4, 15, 6, 19, 3),
    "abdomenct-1k": (1, None, 3, 4, None, None, None, None, None, None, None, None, None),
}
DATA_SETS: tuple[str, ...] = tuple(_IDS_IN)


def organ(key: int | str) -> Organ:
    """Return the organ with this id (1..13), name or abbreviation (in any case); ValueError if there is none."""
    for candidate in ORGANS:
        if key == candidate.id:
            return candidate
        if isinstance(key, str) and key.lower() in (candidate.name.lower(), candidate.abbreviation.lower()):
            return candidate
    known = ", ".join(f"{o.id} {o.abbreviation}" for o in ORGANS)
    raise ValueError(f"an organ must be an id, name or abbreviation of FLARE 2022 ({known}), got {key!r}")


def ids_in(data_set: str) -> dict[int, int]:
    """Return {id in `data_set`: FLARE id} for the organs it labels separately; ValueError for an unknown data set."""
    if data_set not in _IDS_IN:
        raise ValueError(f"data_set must be one of {', '.join(DATA_SETS)}, got {data_set!r}")
    return {theirs: ours for ours, theirs in enumerate(_IDS_IN[data_set], start=1) if theirs is not None}


def to_flare(label_map: np.ndarray, data_set: str) -> np.ndarray:
    """Renumber another data set's label map (integers, any shape) to FLARE's ids, as uint8 of the same shape.

    Structures that FLARE does not label become background (0). An organ that the data set does not label, or only
    together with another (WORD's adrenals, AbdomenCT-1K's kidneys), stays empty. Raises TypeError for labels that are
    not integers and ValueError for negative ones.
    """
    check_unmasked(label_map, "a label map")
    label_map = np.asarray(label_map)
    if not np.issubdtype(label_map.dtype, np.integer):
        raise TypeError(f"a label map must hold integers, got {label_map.dtype}")
    if label_map.size and label_map.min() < 0:
        raise ValueError(f"labels must be 0 or more, got {label_map.min()}")
    mapping = ids_in(data_set)
    table = np.zeros(max(mapping) + 2, dtype=np.uint8)  # the last entry is for all that come after
    for theirs, ours in mapping.items():
        table[theirs] = ours
    return table[np.minimum(label_map, len(table) - 1)]


def are_flares(names: Mapping[int, str]) -> bool:
    """Return whether labels {id: name}, without the background, are FLARE's 13 organs, by name or abbreviation."""
    if set(names) != {o.id for o in ORGANS}:
        return False
    return all(
        names[o.id].lower().replace("_", " ") in (o.name, o.abbreviation.lower(), o.name.removesuffix(" gland"))
        for o in ORGANS
    )


def as_label_map(
    label_map: np.ndarray,
    name: str = "label_map",
    *,
    shape: tuple[int, ...] | None = None,
    n_classes: int = N_CLASSES,
) -> np.ndarray:
    """Check that something holds labels and return it as an array: integers 0..13, at least one axis.

    Any integer type; an array is not copied, and an empty one is accepted. If `shape` is given, the array must have it.
    `n_classes`: of a label set other than FLARE's, the background included. Raises TypeError for labels that are not
    integers, ValueError for other labels and shapes, or for masked voxels; the message calls the array `name`.
    """
    check_unmasked(label_map, name)
    given, label_map = type(label_map).__name__, np.asarray(label_map)
    if not np.issubdtype(label_map.dtype, np.integer):
        got = label_map.dtype if label_map.dtype.kind in "bfc" else given
        raise TypeError(f"{name} must hold integers, got {got}")
    if label_map.ndim == 0:
        raise ValueError(f"{name} must have at least one axis, got a single number")
    if shape is not None and label_map.shape != tuple(shape):
        raise ValueError(f"{name} must have the CT's shape {tuple(shape)}, got {label_map.shape}")
    lowest, highest = label_map.min(initial=0), label_map.max(initial=0)
    if lowest < 0 or highest >= n_classes:
        raise ValueError(f"the labels of {name} must be 0 to {n_classes - 1}, got {lowest} to {highest}")
    return label_map


def check_unmasked(array: object, name: str) -> None:
    """Raise ValueError for a masked array with voxels that do not count: here every voxel does."""
    if isinstance(array, np.ma.MaskedArray) and (masked := np.ma.count_masked(array)):
        raise ValueError(f"{name} must have a value in every voxel, got {masked} masked ones (fill them first)")


def without_ignored(label_map: np.ndarray) -> np.ndarray:
    """Return labels (any shape) with background in place of `IGNORED`; the array itself if nothing is ignored."""
    ignored = label_map == IGNORED
    return np.where(ignored, label_map.dtype.type(0), label_map) if ignored.any() else label_map


def label_counts(label_map: np.ndarray, n_classes: int = N_CLASSES) -> np.ndarray:
    """Count the voxels of each label: int64 (n_classes,), background first. Raises the errors of `as_label_map`."""
    counts = np.zeros(n_classes, np.int64)
    for part in as_label_map(label_map, n_classes=n_classes):  # slice by slice: bincount needs 8 bytes per voxel
        counts += np.bincount(part.ravel(), minlength=n_classes)
    return counts


def present_organs(*label_maps: np.ndarray | None) -> list[int]:
    """Return the ids of the organs that at least one of several label maps holds; None stands for a map of nothing.

    Raises the errors of `as_label_map`.
    """
    counted = [label_counts(labels) for labels in label_maps if labels is not None]
    return [organ.id for organ in ORGANS if any(counts[organ.id] for counts in counted)]


def joint_histogram(prediction: np.ndarray, reference: np.ndarray, n_classes: int = N_CLASSES) -> np.ndarray:
    """Count the voxels with label p in the prediction and r in the reference: int64 (n_classes, n_classes), [p, r].

    Raises the errors of `as_label_map`, and ValueError if the two label maps differ in shape.
    """
    prediction = as_label_map(prediction, "prediction", n_classes=n_classes)
    reference = as_label_map(reference, "reference", n_classes=n_classes)
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction and reference must have one shape, got {prediction.shape} and {reference.shape}")
    small = np.min_scalar_type(n_classes**2 - 1).type  # uint8 for FLARE's 14: at most 195
    counts = np.zeros(n_classes**2, np.int64)
    for p, r in zip(prediction, reference, strict=True):
        pairs = p.astype(small) * small(n_classes) + r.astype(small)
        counts += np.bincount(pairs.ravel(), minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def numbering_problems(prediction: np.ndarray, reference: np.ndarray) -> list[str]:
    """Say which organs of a label map lie where its reference has another one, at a DSC above 0.5; empty if none do.

    Both may be right and numbered differently: other data sets have other numbers (`to_flare`), and some files swap the
    kidneys. Raises the errors of `joint_histogram`.
    """
    together = joint_histogram(prediction, reference)
    there = 4 * together > together.sum(axis=1, keepdims=True) + together.sum(axis=0)
    pairs = [(ORGAN_NAMES[p], ORGAN_NAMES[r]) for p, r in np.argwhere(there).tolist() if p != r and p and r]
    return [
        f"the {name} lies where the reference has the {other}: is one of them numbered otherwise?"
        for name, other in pairs
    ]


# (an organ, an organ that must lie further to the patient's left)
_RIGHT_TO_LEFT = (
    ("liver", "spleen"),
    ("right kidney", "left kidney"),
    ("right adrenal gland", "left adrenal gland"),
)


def left_right_problems(label_map_zyx: np.ndarray) -> list[str]:
    """Say which paired organs lie on the wrong sides of a canonical label map (see `wrong_sides`); empty if none do."""
    return [
        f"the {right} must lie to the patient's right of the {left}, got x = {x_right:.1f} and {x_left:.1f}"
        for right, left, x_right, x_left in wrong_sides(label_map_zyx)
    ]


def wrong_sides(label_map_zyx: np.ndarray) -> list[tuple[str, str, float, float]]:
    """Return (right organ, left organ, x of each) for pairs that lie on the wrong sides of a label map (RAS+).

    In RAS+ the x index grows from the patient's left to the right, so the centroid of the liver must have a larger x
    than that of the spleen; likewise the right kidney and the left, the right adrenal gland and the left. A pair with
    a missing organ is not judged. Raises ValueError unless there are 3 axes.
    """
    label_map_zyx = np.asarray(label_map_zyx)
    if label_map_zyx.ndim != 3:
        raise ValueError(f"label_map_zyx must have 3 axes, got shape {label_map_zyx.shape}")
    found = []
    for right, left in _RIGHT_TO_LEFT:
        x_right, x_left = (_mean_x(label_map_zyx == organ(name).id) for name in (right, left))
        if x_right is not None and x_left is not None and x_right <= x_left:
            found.append((right, left, x_right, x_left))
    return found


def _mean_x(mask_zyx: np.ndarray) -> float | None:
    """Return the mean x index of a mask's voxels, or None for an empty mask."""
    counts = mask_zyx.sum(axis=(0, 1))
    return float(np.average(np.arange(counts.size), weights=counts)) if counts.any() else None
