"""A case's scores by the rules of FLARE 2022: Dice (DSC) and normalised surface Dice (NSD) of every organ.

Every rule in the challenge's script that textbooks do not have is a switch in `Rules`. `OFFICIAL` sets them all as the
challenge did, so that numbers can be compared with published ones; `CLEAN` turns them all off.

1. Aorta, vena cava and esophagus extend beyond the field of view, so they are scored only between the reference's first
   and last slice. The script's upper bound is exclusive: the last slice is dropped, and of an organ in a single slice
   nothing is left; its scores are then NaN. Slices are counted along the file's third axis, whatever that is in the
   patient: in a file stored head to feet the lowest slice is dropped, in a sagittal one the bounds are left and right.
2. An organ with a DSC below 0.2 gets an NSD of 0.
3. An organ missing from both label maps scores 1 and 1, one missing from only one of them 0 and 0.
4. Scores are rounded to 4 decimal places.

Reference: the evaluation script of FLARE 2022; tolerances in `ct.labels`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from flare_lib.ct.labels import N_ORGANS, ORGANS, Organ, as_label_map, numbering_problems
from flare_lib.ct.volume import FileGrid, triple
from flare_lib.evaluation.surface import surface_distances

LONG_ORGANS = (5, 6, 10)  # aorta, inferior vena cava, esophagus
_Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Rules:
    """Which of the challenge's rules apply.

    `long_organs_within`: "reference" scores organs 5, 6 and 10 between the reference's lowest and highest axial slice;
    "reference, last slice dropped" does what the script does, along the file's third axis; "everywhere" treats them
    like all other organs. `lowest_dice_for_nsd`: below this DSC the NSD is 0. `decimals`: round to this many places;
    None for no rounding.
    """

    long_organs_within: str = "everywhere"
    lowest_dice_for_nsd: float = 0.0
    decimals: int | None = None

    def __post_init__(self) -> None:
        known = ("everywhere", "reference", "reference, last slice dropped")
        if self.long_organs_within not in known:
            raise ValueError(f"long_organs_within must be one of {known}, got {self.long_organs_within!r}")


OFFICIAL = Rules("reference, last slice dropped", 0.2, 4)
CLEAN = Rules()


@dataclass(frozen=True)
class Scores:
    """The scores of a case: DSC and NSD of each organ, float64 (13,), organ 1 first; NaN if nothing was scored.

    `notes`: what casts doubt on them.
    """

    dice: np.ndarray
    nsd: np.ndarray
    notes: tuple[str, ...] = ()


def flare_scores(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_zyx_mm: Sequence[float],
    *,
    rules: Rules = OFFICIAL,
    file_grid: FileGrid | None = None,
) -> Scores:
    """Score a label map against its reference.

    `prediction`, `reference`: integers 0..13, (Z, Y, X), of the same shape; `spacing_zyx_mm`: the reference's.
    `file_grid`: that of the reference's file (`Volume.grid`), whose third axis the official rules follow; without one,
    that axis is assumed to run from feet to head. Raises TypeError for labels that are not integers, ValueError for
    other labels, shapes that differ or are not three-dimensional, or a spacing that is not 3 positive numbers.
    """
    prediction, reference = as_label_map(prediction, "prediction"), as_label_map(reference, "reference")
    if prediction.shape != reference.shape or reference.ndim != 3:
        raise ValueError(
            f"prediction and reference must be (Z, Y, X) of one shape, got {prediction.shape} and {reference.shape}"
        )
    third_axis = (0, 1) if file_grid is None else file_grid.third_axis_zyx
    found = [ndimage.find_objects(label_map, max_label=N_ORGANS) for label_map in (prediction, reference)]
    pairs = [
        _score(organ, prediction, reference, of_prediction, of_reference, spacing_zyx_mm, rules, third_axis)
        for organ, of_prediction, of_reference in zip(ORGANS, *found, strict=True)
    ]
    scores = np.array(pairs, float).T
    dice, nsd = scores if rules.decimals is None else scores.round(rules.decimals)
    return Scores(dice, nsd, tuple(numbering_problems(prediction, reference)))


def _score(
    organ: Organ,
    prediction: np.ndarray,
    reference: np.ndarray,
    of_prediction: _Slices | None,
    of_reference: _Slices | None,
    spacing_zyx_mm: Sequence[float],
    rules: Rules,
    third_axis: tuple[int, int],
) -> tuple[float, float]:
    """Return DSC and NSD of one organ, given the boxes that hold its voxels; a box is None if there are no voxels."""
    if of_reference is None:
        return (1.0, 1.0) if of_prediction is None else (0.0, 0.0)
    box = of_reference if of_prediction is None else _union(of_prediction, of_reference)
    if organ.id in LONG_ORGANS and rules.long_organs_within == "reference":
        box = (of_reference[0], *box[1:])
    elif organ.id in LONG_ORGANS and rules.long_organs_within == "reference, last slice dropped":
        axis, direction = third_axis
        slices = of_reference[axis]
        kept = slice(slices.start, slices.stop - 1) if direction > 0 else slice(slices.start + 1, slices.stop)
        box = triple((*box[:axis], kept, *box[axis + 1 :]))
    found, true = prediction[box] == organ.id, reference[box] == organ.id
    voxels = np.count_nonzero(found) + np.count_nonzero(true)
    if voxels == 0:
        return float("nan"), float("nan")
    dice = 2 * np.count_nonzero(found & true) / voxels
    if dice < rules.lowest_dice_for_nsd:
        return dice, 0.0
    distances = surface_distances(found, true, spacing_zyx_mm, within_mm=organ.tolerance_mm)
    return dice, distances.surface_dice(organ.tolerance_mm)


def _union(a: _Slices, b: _Slices) -> _Slices:
    return triple(slice(min(x.start, y.start), max(x.stop, y.stop)) for x, y in zip(a, b, strict=True))
