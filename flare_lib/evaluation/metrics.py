"""How good a segmentation is: the overlap of every organ with a reference (Dice).

Reference: FLARE 2022 evaluation script, for the empty cases.
"""

import numpy as np

from flare_lib.ct.labels import N_CLASSES, N_ORGANS


def dice_scores(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the Dice score of each organ, 2 |P and R| / (|P| + |R|), over all voxels of two label maps.

    `prediction`, `reference`: integers 0..13 of one shape with at least one axis. Returns float64 (13,), organ 1 first:
    1 where both label maps lack the organ, 0 where only one does. Raises TypeError for labels that are not integers,
    ValueError for other labels and for shapes that differ. Source: paper 3.1, FLARE 2022 evaluation script; its other
    rules are in `flare_rules`.
    """
    counts = _joint_histogram(check_label_map("prediction", prediction), check_label_map("reference", reference))
    both = np.diagonal(counts)[1:]
    either = counts.sum(axis=1)[1:] + counts.sum(axis=0)[1:]
    return np.where(either > 0, 2 * both / np.maximum(either, 1), 1.0)


def _joint_histogram(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return how many voxels have label p in the prediction and r in the reference: int64 (14, 14), [p, r]."""
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction and reference must have one shape, got {prediction.shape} and {reference.shape}")
    counts = np.zeros(N_CLASSES**2, np.int64)
    for p, r in zip(prediction, reference, strict=True):  # slice by slice: bincount makes 8 bytes of every voxel
        pairs = p.astype(np.uint8) * np.uint8(N_CLASSES) + r.astype(np.uint8)  # at most 195
        counts += np.bincount(pairs.ravel(), minlength=N_CLASSES**2)
    return counts.reshape(N_CLASSES, N_CLASSES)


def check_label_map(name: str, label_map: np.ndarray) -> np.ndarray:
    """Return a label map as an array; TypeError, ValueError unless it holds integers 0..13 along at least one axis."""
    label_map = np.asarray(label_map)
    if not np.issubdtype(label_map.dtype, np.integer):
        raise TypeError(f"{name} must hold integers, got {label_map.dtype}")
    if label_map.ndim == 0:
        raise ValueError(f"{name} must have at least one axis, got a single number")
    lowest, highest = label_map.min(initial=0), label_map.max(initial=0)
    if lowest < 0 or highest > N_ORGANS:
        raise ValueError(f"the labels of {name} must be 0 to {N_ORGANS}, got {lowest} to {highest}")
    return label_map
