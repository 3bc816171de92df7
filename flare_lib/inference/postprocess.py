"""Cleaning up a label map, so that nothing lies far from the great vessels and no organ has stray pieces or is a speck.

A net sometimes mistakes something large and far away for an organ (the bladder or the uterus for a kidney or the
liver), and often something small. The large mistake is removed because it is far away, the small one because it is not
the largest piece.

The second rule assumes that an organ is found in one piece. Where an organ is thin, or narrow as a stomach is where it
contracts, a net that misses a few voxels breaks it in two, and the rule throws away half of a pancreas or a stomach
that was right. So pieces of such organs may stay that are not much smaller than the largest one (`min_share`); the
paper's rule is `min_share=1`.

The largest piece can be a mistake as well, say in a CT of the neck. So where a scan shows an organ whole, so little of
it that not even a newborn's is as small is removed, too (`without_specks`).

Paper 2.4; the threshold of 170 mm is that of the authors' engine; the share and the last rule are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flare_lib.ct.border import cut_labels
from flare_lib.ct.labels import N_CLASSES, ORGANS, as_label_map, label_counts, organ
from flare_lib.ct.roi import Box, bounding_box, crop, paste
from flare_lib.ct.volume import Volume, check_spacing
from flare_lib.inference.components import erase, find_components

MAX_DISTANCE_MM = 170.0
MIN_SHARE = 0.2  # of the pipeline; chosen on CTs painted over a person who was held out (benchmarks/README.md)
ORGANS_IN_PIECES = tuple(organ(name) for name in ("pancreas", "inferior vena cava", "esophagus", "stomach", "duodenum"))
# In g, a newborn has a liver of 130, kidneys of 25 together, a spleen of 9.5, and a stomach whose wall weighs 7
# (ICRP Publication 89, 2002).
LEAST_ML = 5.0
NEVER_SPECKS = tuple(organ(name) for name in ("liver", "right kidney", "spleen", "stomach", "left kidney"))
_AORTA, _VENA_CAVA, _LIVER = (organ(name) for name in ("aorta", "inferior vena cava", "liver"))


class ReferencePoint(NamedTuple):
    """Where distances start: voxel index (z, y, x) times spacing, float64 in mm, and the organs it comes from."""

    point_zyx_mm: np.ndarray
    source: str


@dataclass(frozen=True)
class Report:
    """What `postprocess` removed: {organ name: mL} for each rule, without organs that lost nothing.

    `reference` names the organs that distances were measured from; None if there were none.
    """

    far_components_ml: dict[str, float]
    smaller_components_ml: dict[str, float]
    reference: str | None

    def summary(self) -> str:
        """Return the report as one line."""
        far = f"far from {self.reference}" if self.reference else "far away (nothing to measure from)"
        parts = ((far, self.far_components_ml), ("smaller pieces", self.smaller_components_ml))
        return "; ".join(f"{name}: {_listed(removed)}" for name, removed in parts)


def postprocess(
    label_map_zyx: np.ndarray,
    spacing_zyx_mm: Sequence[float],
    *,
    max_distance_mm: float = MAX_DISTANCE_MM,
    min_share: float = 1.0,
) -> tuple[np.ndarray, Report]:
    """Remove what lies far from the great vessels, then keep the largest component of every organ (paper 2.4).

    `max_distance_mm` is that of `remove_far_components`, `min_share` that of `keep_largest_components`. Returns the
    cleaned label map (a new uint8 array of the same shape) and a report; raises the same errors as the two. The order
    matters: this way, a bladder taken for a kidney is gone before pieces are compared; the other way round, a bladder
    larger than the kidney would win, and then be removed as well.
    """
    label_map_zyx = _checked(label_map_zyx)
    check_spacing(spacing_zyx_mm)
    check_rules(max_distance_mm, min_share)
    reference = reference_point(label_map_zyx, spacing_zyx_mm)
    near, far = _remove_far(label_map_zyx, spacing_zyx_mm, max_distance_mm, reference)
    cleaned, smaller = _keep_largest(near, min_share)
    report = Report(
        _in_ml(far, spacing_zyx_mm), _in_ml(smaller, spacing_zyx_mm), None if reference is None else reference.source
    )
    return cleaned, report


def check_rules(max_distance_mm: float = MAX_DISTANCE_MM, min_share: float = 1.0) -> None:
    """Raise ValueError unless a distance is above 0 mm (infinity is allowed) and a share above 0 and at most 1."""
    if not max_distance_mm > 0:
        raise ValueError(f"max_distance_mm must be positive, got {max_distance_mm}")
    if not 0 < min_share <= 1:
        raise ValueError(f"min_share must be above 0 and at most 1, got {min_share}")


def keep_largest_components(label_map_zyx: np.ndarray, min_share: float = 1.0) -> np.ndarray:
    """Keep the largest connected component of every organ and turn the rest into background (paper 2.4).

    `label_map_zyx`: integers 0..13 (Z, Y, X). Voxels are connected by a face, an edge or a corner (26 neighbours).
    Among components of equal size, the one whose first voxel comes first in z, then y, then x is kept. With a
    `min_share` below 1, components of the `ORGANS_IN_PIECES` stay too if they have at least that share of the largest
    one's voxels. Returns a new uint8 array. Raises TypeError for labels that are not integers, ValueError for other
    labels or axes, or for a share outside (0, 1].
    """
    check_rules(min_share=min_share)
    return _keep_largest(_checked(label_map_zyx), min_share)[0]


def remove_far_components(
    label_map_zyx: np.ndarray, spacing_zyx_mm: Sequence[float], max_distance_mm: float = MAX_DISTANCE_MM
) -> np.ndarray:
    """Remove connected regions whose centroid is farther than `max_distance_mm` from the `reference_point` (paper 2.4).

    A region is a 26-connected component of the union of all organs, so a distant part of an organ is removed only if no
    organ connects it to the rest. Without a reference point nothing is removed. `label_map_zyx`: integers 0..13
    (Z, Y, X). Returns a new uint8 array. Raises TypeError for labels that are not integers, ValueError for other
    labels or axes, or for a spacing or distance that is not positive.
    """
    label_map_zyx = _checked(label_map_zyx)
    check_rules(max_distance_mm)
    reference = reference_point(label_map_zyx, spacing_zyx_mm)
    return _remove_far(label_map_zyx, spacing_zyx_mm, max_distance_mm, reference)[0]


def without_specks(
    label_map_zyx: np.ndarray, ct: Volume, *, box: Box | None = None
) -> tuple[np.ndarray, dict[str, float]]:
    """Remove each of `NEVER_SPECKS` of which there is less than `LEAST_ML`, unless the scan's border cuts it.

    `label_map_zyx`: integers 0..13 (Z, Y, X), of the CT's shape. `box`: where all labels lie, if that is known; no
    other voxels are counted. Returns a label map, the same one if nothing is removed, and what was: {organ name: mL}.
    Raises the errors of `as_label_map`.
    """
    label_map_zyx = as_label_map(label_map_zyx, "label_map_zyx", shape=ct.shape_zyx)
    counts = label_counts(label_map_zyx if box is None else crop(label_map_zyx, box))
    small = [organ for organ in NEVER_SPECKS if 0 < counts[organ.id] * ct.voxel_ml < LEAST_ML]
    cut = cut_labels(label_map_zyx, ct.array_zyx) if small else ()
    specks = [organ for organ in small if organ.id not in cut]
    if specks:
        label_map_zyx = np.where(np.isin(label_map_zyx, [organ.id for organ in specks]), 0, label_map_zyx)
    return label_map_zyx, {organ.name: float(counts[organ.id] * ct.voxel_ml) for organ in specks}


def reference_point(label_map_zyx: np.ndarray, spacing_zyx_mm: Sequence[float]) -> ReferencePoint | None:
    """Return the point midway between the centroids of the aorta and the inferior vena cava (paper 2.4).

    Only the largest component of each counts. If either vessel is missing, the point is the centroid of the liver's
    largest component (as in the authors' engine); without a liver, None. Raises the errors of `remove_far_components`.
    """
    label_map_zyx = _checked(label_map_zyx)
    check_spacing(spacing_zyx_mm)
    for organs in ((_AORTA, _VENA_CAVA), (_LIVER,)):
        centroids = [_centroid_of_largest(label_map_zyx == o.id) for o in organs]
        found = [c for c in centroids if c is not None]
        if len(found) == len(organs):
            point = np.mean(found, axis=0) * spacing_zyx_mm
            return ReferencePoint(point, " and ".join(o.name for o in organs))
    return None


def region_distances(label_map_zyx: np.ndarray, spacing_zyx_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return what the distance rule is based on: connected regions and the distance of their centroids (paper 2.4).

    Regions as in `remove_far_components`: `ids` uint32 (Z, Y, X), 0 for background; `distances_mm` float64, one per id,
    from the `reference_point`; the background's is 0, and without a reference point all are 0. Raises the errors of
    `remove_far_components`.
    """
    label_map_zyx = _checked(label_map_zyx)
    reference = reference_point(label_map_zyx, spacing_zyx_mm)
    if reference is None:
        ids = find_components((label_map_zyx > 0).view(np.uint8)).ids
        return ids, np.zeros(int(ids.max(initial=0)) + 1)
    box, ids, distances_mm = _regions(label_map_zyx, spacing_zyx_mm, reference)
    return paste(ids, box, label_map_zyx.shape), distances_mm


def _keep_largest(label_map_zyx: np.ndarray, min_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the label map with the components that stay, and how many voxels of each label were removed."""
    box = bounding_box(label_map_zyx)
    if box is None:
        return _nothing_removed(label_map_zyx)
    inside = crop(label_map_zyx, box).copy()
    components = find_components(inside)
    largest = components.largest()
    kept = np.zeros(len(components.sizes), bool)
    kept[largest] = True
    if min_share < 1:
        largest_size = np.zeros(N_CLASSES, np.int64)
        largest_size[components.labels[largest]] = components.sizes[largest]
        large = components.sizes >= min_share * largest_size[components.labels]
        kept |= large & np.isin(components.labels, [o.id for o in ORGANS_IN_PIECES])
    removed = erase(inside, components.ids, kept)
    return paste(inside, box, label_map_zyx.shape), removed


def _remove_far(
    label_map_zyx: np.ndarray,
    spacing_zyx_mm: Sequence[float],
    max_distance_mm: float,
    reference: ReferencePoint | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the label map without distant regions, and how many voxels of each label were removed."""
    if reference is None:
        return _nothing_removed(label_map_zyx)
    box, ids, distances_mm = _regions(label_map_zyx, spacing_zyx_mm, reference)
    inside = crop(label_map_zyx, box).copy()
    removed = erase(inside, ids, distances_mm <= max_distance_mm)
    return paste(inside, box, label_map_zyx.shape), removed


def _regions(
    label_map_zyx: np.ndarray, spacing_zyx_mm: Sequence[float], reference: ReferencePoint
) -> tuple[Box, np.ndarray, np.ndarray]:
    """Return the box of all organs, the ids of the regions in it, and the distance of each, 0 for the background."""
    # never the whole map in fact: the reference point came from an organ, so there is a box
    box = bounding_box(label_map_zyx) or Box((0, 0, 0), label_map_zyx.shape)
    regions = find_components((crop(label_map_zyx, box) > 0).view(np.uint8))
    centroids_zyx_mm = (regions.centroids_zyx + box.start_zyx) * spacing_zyx_mm
    distances_mm = np.linalg.norm(centroids_zyx_mm - reference.point_zyx_mm, axis=1)
    distances_mm[0] = 0.0
    return box, regions.ids, distances_mm


def _nothing_removed(label_map_zyx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a copy of the label map, and 0 voxels removed for every label."""
    return label_map_zyx.copy(), np.zeros(N_CLASSES, np.int64)


def _centroid_of_largest(mask_zyx: np.ndarray) -> np.ndarray | None:
    """Return the centroid, in voxels, of the largest component of a mask; None for an empty mask."""
    box = bounding_box(mask_zyx)
    if box is None:
        return None
    components = find_components(np.ascontiguousarray(crop(mask_zyx, box)).view(np.uint8))
    return components.centroids_zyx[components.largest()[0]] + box.start_zyx


def _checked(label_map_zyx: np.ndarray) -> np.ndarray:
    """Return a label map as C-contiguous uint8, the same array if it already is; raise if it is not a label map."""
    label_map_zyx = as_label_map(label_map_zyx, "label_map_zyx")
    if label_map_zyx.ndim != 3:
        raise ValueError(f"label_map_zyx must have 3 axes, got shape {label_map_zyx.shape}")
    return np.ascontiguousarray(label_map_zyx, dtype=np.uint8)


def _listed(removed_ml: dict[str, float]) -> str:
    most_first = sorted(removed_ml.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{name} {ml:.1f}" for name, ml in most_first)
    return f"{sum(removed_ml.values()):.1f} mL ({listed})" if listed else "none"


def _in_ml(voxels: np.ndarray, spacing_zyx_mm: Sequence[float]) -> dict[str, float]:
    """Convert voxel counts per label to {organ name: mL}, without organs that have none."""
    voxel_ml = float(np.prod(spacing_zyx_mm)) / 1000
    return {o.name: int(voxels[o.id]) * voxel_ml for o in ORGANS if voxels[o.id]}
