"""How good a segmentation is: each organ's overlap with a reference (Dice), and how much of it lies in a box.

Reference: FLARE 2022 evaluation script, for the empty cases.
"""

import numpy as np

from flare_lib.ct.labels import N_CLASSES, joint_histogram, label_counts
from flare_lib.ct.roi import Box, crop


def dice_scores(prediction: np.ndarray, reference: np.ndarray, n_classes: int = N_CLASSES) -> np.ndarray:
    """Return the Dice score of each organ, 2 |P and R| / (|P| + |R|), over all voxels of two label maps.

    `prediction`, `reference`: integers 0..13, same shape, at least one axis. Returns float64 (13,), organ 1 first: 1 if
    both label maps lack the organ, 0 if only one does. `n_classes`: of a label set other than FLARE's, background
    included; there are then n_classes - 1 scores. Raises TypeError for labels that are not integers, ValueError for
    other labels or shapes that differ. Source: paper 3.1, FLARE 2022 evaluation script; its other rules are in
    `flare_rules`.
    """
    counts = joint_histogram(prediction, reference, n_classes)
    both = np.diagonal(counts)[1:]
    either = counts.sum(axis=1)[1:] + counts.sum(axis=0)[1:]
    return np.where(either > 0, 2 * both / np.maximum(either, 1), 1.0)


def shares_inside(label_map_zyx: np.ndarray, box: Box, *, totals: np.ndarray | None = None) -> np.ndarray:
    """Return the share of each organ's voxels that lies in the box: float64 (13,), organ 1 first, NaN for missing ones.

    `label_map_zyx`: integers 0..13 (Z, Y, X); `totals`: its `label_counts`, if already known. Raises the errors of
    `label_counts`, and ValueError for a box that reaches outside.
    """
    everywhere = (label_counts(label_map_zyx) if totals is None else totals)[1:]
    inside = label_counts(crop(label_map_zyx, box))[1:]
    return np.where(everywhere > 0, inside / np.maximum(everywhere, 1), np.nan)
