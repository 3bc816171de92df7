"""How far two surfaces are apart, and the share of them that is near enough: the normalised surface Dice (NSD).

As google-deepmind/surface-distance defines it, by which FLARE scores: a mask's surface runs between voxels, through
every cell of 2 x 2 x 2 voxels that is neither all inside nor all outside; a cell weighs as much as the surface in it
has mm² (`surfels`), and its distance is the one to the nearest cell of the other surface, centre to centre.

Fast, because a cell that is in both surfaces is 0 mm away, and all others look for a neighbour no farther than is asked
(a k-d tree instead of a distance transform of the whole box).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from flare_lib.ct.volume import check_spacing
from flare_lib.evaluation.surfels import surfel_areas


@dataclass(frozen=True)
class SurfaceDistances:
    """Both surfaces, cell by cell: distances to the other one in mm and areas in mm², float64 (n,) and (m,).

    A distance is inf where the other mask is empty, or farther away than was looked.
    """

    prediction_mm: np.ndarray
    reference_mm: np.ndarray
    prediction_mm2: np.ndarray
    reference_mm2: np.ndarray

    def surface_dice(self, tolerance_mm: float) -> float:
        """Return the share of both surfaces' area that lies within the tolerance; NaN when both masks are empty."""
        near = self.prediction_mm2[self.prediction_mm <= tolerance_mm].sum()
        near += self.reference_mm2[self.reference_mm <= tolerance_mm].sum()
        area = self.prediction_mm2.sum() + self.reference_mm2.sum()
        return float(near / area) if area > 0 else float("nan")

    def hausdorff_mm(self, percent: float = 95.0) -> float:
        """Return the distance within which `percent` of each surface's area lies, the larger of the two.

        inf when one mask is empty, NaN when both are. Raises ValueError for a percentage outside 0 to 100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"percent must be 0 to 100, got {percent}")
        sides = ((self.prediction_mm, self.prediction_mm2), (self.reference_mm, self.reference_mm2))
        if not any(len(mm) for mm, _ in sides):
            return float("nan")
        return max(_percentile(mm, mm2, percent) if len(mm) else float("inf") for mm, mm2 in sides)


def _percentile(mm: np.ndarray, mm2: np.ndarray, percent: float) -> float:
    """Return the smallest distance within which that share of the area lies."""
    order = np.argsort(mm, kind="stable")
    share = np.cumsum(mm2[order]) / mm2.sum()
    return float(mm[order][min(np.searchsorted(share, percent / 100), len(mm) - 1)])


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_zyx_mm: Sequence[float], *, within_mm: float = np.inf
) -> SurfaceDistances:
    """Return the distances between the surfaces of two masks, bool (Z, Y, X) of one shape.

    `within_mm`: how far to look; what is farther away gets inf, and the less far, the faster. What lies outside the
    array counts as outside the mask. Raises ValueError for arrays that are not masks of one shape, a spacing that is
    not 3 positive numbers, and a negative `within_mm`.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    for name, mask in (("prediction", prediction), ("reference", reference)):
        if mask.dtype != bool or mask.ndim != 3:
            raise ValueError(f"{name} must be a mask, bool (Z, Y, X), got {mask.dtype} {mask.shape}")
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction and reference must have one shape, got {prediction.shape} and {reference.shape}")
    if not within_mm >= 0:
        raise ValueError(f"within_mm must be 0 or more, got {within_mm}")
    spacing = tuple(float(s) for s in spacing_zyx_mm)
    check_spacing(spacing)
    areas = surfel_areas(spacing)
    box = _box_of(prediction | reference)
    codes = [_codes(mask[box]) for mask in (prediction, reference)]
    cells = [(code > 0) & (code < 255) for code in codes]
    there = [np.argwhere(cell) for cell in cells]
    return SurfaceDistances(
        *(_distances(there[k], cells[1 - k], there[1 - k], spacing, within_mm) for k in (0, 1)),
        *(areas[codes[k][cells[k]]] for k in (0, 1)),
    )


def _box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the box around a mask's voxels; an empty one for an empty mask."""
    box = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0))
    return tuple(box)


def _codes(mask: np.ndarray) -> np.ndarray:
    """Return the code of each cell of 2 x 2 x 2 voxels, those half outside the array too: uint8, one larger an axis."""
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([n + 1 for n in mask.shape], np.uint8)
    nz, ny, nx = codes.shape
    for bit, (z, y, x) in zip(range(7, -1, -1), np.ndindex(2, 2, 2), strict=True):
        codes |= padded[z : z + nz, y : y + ny, x : x + nx] << np.uint8(bit)
    return codes


def _distances(
    from_cells: np.ndarray,
    to_mask: np.ndarray,
    to_cells: np.ndarray,
    spacing_zyx_mm: Sequence[float],
    within_mm: float,
) -> np.ndarray:
    """Return how far each cell (n, 3) is from the nearest of the others (m, 3), which are also given as a mask."""
    distances = np.full(len(from_cells), np.inf)
    if len(to_cells) == 0 or len(from_cells) == 0:
        return distances
    shared = to_mask[tuple(from_cells.T)]
    distances[shared] = 0.0
    others = np.flatnonzero(~shared)
    scale = np.asarray(spacing_zyx_mm)
    bound = within_mm * (1 + 1e-9) + 1e-9  # the tree looks for less than its bound
    _, nearest = cKDTree(to_cells * scale).query(from_cells[others] * scale, distance_upper_bound=bound)
    found = nearest < len(to_cells)
    steps = from_cells[others[found]] - to_cells[nearest[found]]
    # from whole steps, so that 2 steps of 2.5 mm are within 5 mm, whatever the tree's coordinates were rounded to
    distances[others[found]] = np.sqrt(((steps * scale) ** 2).sum(axis=1))
    distances[distances > within_mm] = np.inf
    return distances
