"""How far apart two surfaces are, and what share of them is close enough: the normalised surface Dice (NSD).

The definition is that of google-deepmind/surface-distance, which FLARE scores by: a mask's surface runs between voxels,
through every cell of 2 x 2 x 2 voxels that is neither all inside nor all outside. A cell's weight is the area of the
surface in it, in mm² (`surfels`), and its distance is that to the nearest cell of the other surface, centre to centre.

It is fast because no cell searches farther than it must: if only a few millimetres matter, as for scores, each cell
checks its surroundings, nearest places first; otherwise a k-d tree is searched. A distance transform would visit the
whole box.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from flare_lib.ct.labels import check_unmasked
from flare_lib.ct.roi import bounding_box
from flare_lib.ct.volume import check_spacing, triple
from flare_lib.evaluation.surfels import surfel_areas
from flare_lib.machine.compiled import njit

MOST_PLACES = 20_000  # to check around a cell; beyond this, a tree is faster


@dataclass(frozen=True)
class SurfaceDistances:
    """Both surfaces, cell by cell: distances to the other one in mm and areas in mm², float64 (n,) and (m,).

    A distance is inf if the other mask is empty, or farther away than was searched.
    """

    prediction_mm: np.ndarray
    reference_mm: np.ndarray
    prediction_mm2: np.ndarray
    reference_mm2: np.ndarray

    def surface_dice(self, tolerance_mm: float) -> float:
        """Return the share of both surfaces' area that lies within the tolerance; NaN if both masks are empty.

        Raises ValueError for a tolerance that is negative or NaN.
        """
        if not tolerance_mm >= 0:
            raise ValueError(f"tolerance_mm must be 0 or more, got {tolerance_mm}")
        near = self.prediction_mm2[self.prediction_mm <= tolerance_mm].sum()
        near += self.reference_mm2[self.reference_mm <= tolerance_mm].sum()
        area = self.prediction_mm2.sum() + self.reference_mm2.sum()
        return float(near / area) if area > 0 else float("nan")


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_zyx_mm: Sequence[float], *, within_mm: float = np.inf
) -> SurfaceDistances:
    """Return the distances between the surfaces of two masks, bool (Z, Y, X) of the same shape.

    `within_mm`: how far to search; whatever is farther away gets inf, and a shorter search is faster. Anything outside
    the array counts as outside the mask. Raises ValueError for arrays that are not masks of the same shape, a spacing
    that is not 3 positive numbers, or a negative `within_mm`.
    """
    check_unmasked(prediction, "prediction")
    check_unmasked(reference, "reference")
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    for name, mask in (("prediction", prediction), ("reference", reference)):
        if mask.dtype != bool or mask.ndim != 3:
            raise ValueError(f"{name} must be a mask, bool (Z, Y, X), got {mask.dtype} {mask.shape}")
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction and reference must have one shape, got {prediction.shape} and {reference.shape}")
    if not within_mm >= 0:
        raise ValueError(f"within_mm must be 0 or more, got {within_mm}")
    check_spacing(spacing_zyx_mm)
    spacing = triple(float(s) for s in spacing_zyx_mm)
    areas = surfel_areas(spacing)
    box = bounding_box(prediction | reference)
    inside = (slice(0, 0),) * 3 if box is None else box.slices
    codes = [_codes(mask[inside]) for mask in (prediction, reference)]
    cells = [(code > 0) & (code < 255) for code in codes]
    there = [np.argwhere(cell) for cell in cells]
    return SurfaceDistances(
        *(_distances(there[k], cells[1 - k], there[1 - k], spacing, within_mm) for k in (0, 1)),
        *(areas[codes[k][cells[k]]] for k in (0, 1)),
    )


def _codes(mask: np.ndarray) -> np.ndarray:
    """Return the code of each cell of 2 x 2 x 2 voxels, including those partly outside: uint8, one more per axis."""
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
    spacing_zyx_mm: tuple[float, ...],
    within_mm: float,
) -> np.ndarray:
    """Return the distance from each cell (n, 3) to the nearest of the others (m, 3), which are also given as a mask."""
    if len(to_cells) == 0 or len(from_cells) == 0:
        return np.full(len(from_cells), np.inf)
    if np.prod([2 * within_mm / s + 1 for s in spacing_zyx_mm]) > MOST_PLACES:
        return _nearest_in_tree(from_cells, to_cells, spacing_zyx_mm, within_mm)
    return _nearest_around(from_cells, to_mask, *_places_around(spacing_zyx_mm, within_mm))


def _nearest_in_tree(
    from_cells: np.ndarray, to_cells: np.ndarray, spacing_zyx_mm: tuple[float, ...], within_mm: float
) -> np.ndarray:
    """Return the distances found with a k-d tree, inf beyond `within_mm`."""
    distances = np.full(len(from_cells), np.inf)
    scale = np.asarray(spacing_zyx_mm)
    bound = within_mm * (1 + 1e-9) + 1e-9  # the tree only finds distances below its bound
    _, nearest = cKDTree(to_cells * scale).query(from_cells * scale, distance_upper_bound=bound)
    found = nearest < len(to_cells)
    # computed from whole steps, so that 2 steps of 2.5 mm are within 5 mm however the tree's coordinates were rounded
    distances[found] = _lengths(from_cells[found] - to_cells[nearest[found]], spacing_zyx_mm)
    distances[distances > within_mm] = np.inf
    return distances


def _lengths(steps: np.ndarray, spacing_zyx_mm: tuple[float, ...]) -> np.ndarray:
    return np.sqrt(((steps * np.asarray(spacing_zyx_mm)) ** 2).sum(axis=1))


@functools.lru_cache(maxsize=32)
def _places_around(spacing_zyx_mm: tuple[float, ...], within_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps to all cells within a distance, int64 (k, 3), nearest first, with their lengths in mm, (k,)."""
    reach = [int(within_mm / s + 1e-9) for s in spacing_zyx_mm]
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    far = _lengths(steps, spacing_zyx_mm)
    order = np.argsort(far, kind="stable")[: np.count_nonzero(far <= within_mm)]
    return steps[order], far[order]


@njit(nogil=True)
def _nearest_around(from_cells, to_mask, steps, far):
    """Return, for each cell, the length of the first step that ends on the mask; inf if none does."""
    depth, height, width = to_mask.shape
    distances = np.full(len(from_cells), np.inf)
    for i in range(len(from_cells)):
        for k in range(len(steps)):
            z, y, x = from_cells[i, 0] + steps[k, 0], from_cells[i, 1] + steps[k, 1], from_cells[i, 2] + steps[k, 2]
            if 0 <= z < depth and 0 <= y < height and 0 <= x < width and to_mask[z, y, x]:
                distances[i] = far[k]
                break
    return distances
