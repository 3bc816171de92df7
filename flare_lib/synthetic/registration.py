"""Two people's anatomies registered: the displacement that gives one of them the other's shapes.

It is a linear map and free-form deformations with cubic B-splines, from coarse to fine control points (Rueckert et al.
1999). The fit is the soft Dice of each structure, so that an adrenal gland counts as much as a liver; the cost is how
unevenly neighbouring points move.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from flare_lib.synthetic.deformation import bspline_weights
from flare_lib.synthetic.structures import ORGAN_STRUCTURES, Structures

# what is matched, by the beginning of its name: every organ, and what holds and surrounds them
LANDMARKS: tuple[str, ...] = (
    *ORGAN_STRUCTURES,
    *("lung", "heart", "colon", "small_bowel", "portal_vein", "urinary_bladder"),
    *("vertebrae", "rib", "hip", "sacrum", "autochthon", "iliopsoas"),
)
_REACH_MM = 60.0  # how far beyond the grid a displacement may look
_FEWEST = 20  # voxels of a structure, on the working grid, for it to be matched


@dataclass(frozen=True)
class Correspondence:
    """The displacement that gives one person another's shapes, on a grid around the organs.

    `shift_mm` float32 (3, Z, Y, X), components z, y, x: the displaced person has at x what the person has at x + shift.
    `start_mm` (3,): where the grid's first point lies in the person's map, whose corner is 0; `spacing_mm`: the
    distance between its points along every axis. `overlap` {landmark: soft Dice of the two people's masks, displaced};
    a landmark that either of them lacks is left out.
    """

    shift_mm: np.ndarray
    start_mm: np.ndarray
    spacing_mm: float
    overlap: dict[str, float]


def correspondence(
    person: Structures,
    other: Structures,
    *,
    spacing_mm: float = 6.0,
    margin_mm: float = 50.0,
    control_mm: Sequence[float] = (120.0, 60.0, 30.0),
    n_steps: int = 40,
    stiffness: float = 0.05,
) -> Correspondence:
    """Register two people around the organs of the first; nothing is random.

    The other person is first laid over this one: turned, scaled and moved as a whole, so that the centres of the
    structures that both have fit best. That part is not in the displacement, which holds only differences of shape.
    Then come `n_steps` of Adam for each distance between control points, the best of which is kept, on a grid of
    `spacing_mm` that reaches `margin_mm` beyond the organs. The two are compared only where both maps hold something.
    Raises ValueError if the first person has no organs, fewer than four structures are whole in both maps, or no
    landmark lies around the organs in both.
    """
    turn, origin, linear = _laid_over(person, other)
    points = _grid_around_organs(person, spacing_mm, margin_mm)
    shape = points.shape[:-1]
    wide = round(_REACH_MM / spacing_mm)
    first = points[0, 0, 0] - wide * spacing_mm
    moving = _Masks(person, _grid(first, [n + 2 * wide for n in shape], spacing_mm))
    fixed = _Masks(other, points @ turn.T + origin)
    matched = torch.from_numpy(np.array([name in moving.present and name in fixed.present for name in LANDMARKS]))
    if not matched.any():
        raise ValueError("two people must have at least one landmark in common around the organs, got none")
    here = torch.from_numpy((points - first).astype(np.float32))
    extent = torch.tensor([(n + 2 * wide - 1) * spacing_mm for n in shape])

    def overlap(shift: torch.Tensor) -> torch.Tensor:
        at = (((here + shift) / extent) * 2 - 1).flip(-1)[None]
        known = fixed.known * (functional.grid_sample(moving.known[None], at, align_corners=True)[0] > 0.5)
        displaced = functional.grid_sample(moving.blurred[matched][None], at, align_corners=True)[0]
        return _soft_dice(displaced * known, fixed.blurred[matched] * known)

    def cost(shift: torch.Tensor) -> torch.Tensor:
        return -overlap(shift).mean() + stiffness * _unevenness(shift, spacing_mm)

    shift = torch.from_numpy((points @ linear[:, :3].T + linear[:, 3]).astype(np.float32))
    for distance in control_mm:
        shift = _refined(shift, cost, control_mm=distance, spacing_mm=spacing_mm, n_steps=n_steps)
    names = [name for name, there in zip(LANDMARKS, matched, strict=True) if there]
    reached = dict(zip(names, overlap(shift).tolist(), strict=True))
    return Correspondence(shift.movedim(-1, 0).contiguous().numpy(), points[0, 0, 0], spacing_mm, reached)


def _refined(
    shift: torch.Tensor,
    cost: Callable[[torch.Tensor], torch.Tensor],
    *,
    control_mm: float,
    spacing_mm: float,
    n_steps: int,
) -> torch.Tensor:
    """Return a displacement (Z, Y, X, 3), with B-splines added to it, of the lowest `cost` that Adam came by.

    The splines' control points are `control_mm` apart, the displacement's own points `spacing_mm`.
    """
    shape = shift.shape[:-1]
    intervals = [max(1, round(n * spacing_mm / control_mm)) for n in shape]
    weights = [torch.from_numpy(bspline_weights(n, k)) for n, k in zip(shape, intervals, strict=True)]
    control = torch.zeros(3, *(k + 3 for k in intervals), requires_grad=True)
    optimizer = torch.optim.Adam([control], lr=control_mm / 60)
    calming = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / n_steps, total_iters=n_steps - 1)
    best, lowest = shift, math.inf
    for _ in range(n_steps):
        optimizer.zero_grad()
        moved = shift + _spread(control, weights)
        loss = cost(moved)
        if loss.item() < lowest:  # Adam's first steps are long even where nothing is gained
            best, lowest = moved.detach(), loss.item()
        loss.backward()
        optimizer.step()
        calming.step()
    return best


class _Masks:
    """A person's landmarks at the points of a grid: blurred masks (C, Z, Y, X), and where the map holds anything."""

    def __init__(self, person: Structures, points_mm: np.ndarray) -> None:
        size = np.asarray(person.array_zyx.shape)
        at = points_mm / person.spacing_zyx_mm
        inside = ((at >= 0) & (at < size)).all(-1)
        holds = np.zeros((len(LANDMARKS), 256), np.float32)
        for landmark, name in zip(holds, LANDMARKS, strict=True):
            landmark[person.ids(name)] = 1
        # linear between the voxels' centres: of the nearest voxel, rounding would decide for a point between two
        first = np.floor(at - 0.5).astype(int)
        beyond = (at - 0.5 - first).astype(np.float32)
        masks = np.zeros((len(LANDMARKS), *inside.shape), np.float32)
        for corner in product((0, 1), repeat=3):
            share = np.where(corner, beyond, 1 - beyond).prod(-1) * inside
            voxels = np.clip(first + corner, 0, size - 1)
            masks += holds[:, person.array_zyx[tuple(np.moveaxis(voxels, -1, 0))]] * share
        self.present = {name for name, mask in zip(LANDMARKS, masks, strict=True) if mask.sum() >= _FEWEST}
        self.blurred = torch.from_numpy(np.stack([ndimage.gaussian_filter(mask, 1.0) for mask in masks]))
        self.known = torch.from_numpy(inside.astype(np.float32))[None]


def _grid(first_mm: np.ndarray, shape: Sequence[int], spacing_mm: float) -> np.ndarray:
    """Return a grid's points in mm, (Z, Y, X, 3)."""
    axes = [start + spacing_mm * np.arange(n) for start, n in zip(first_mm, shape, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _grid_around_organs(person: Structures, spacing_mm: float, margin_mm: float) -> np.ndarray:
    """Return the points, in mm, of a grid that reaches `margin_mm` beyond the organs, but not beyond the map."""
    spacing = np.asarray(person.spacing_zyx_mm)
    organs = np.argwhere(person.mask(*ORGAN_STRUCTURES))
    if not len(organs):
        raise ValueError("a person who is registered must have at least one of the 13 organs, got none")
    size_mm = np.asarray(person.array_zyx.shape) * spacing
    start = np.maximum(organs.min(0) * spacing - margin_mm, spacing_mm / 2)
    stop = np.minimum((organs.max(0) + 1) * spacing + margin_mm, size_mm - spacing_mm / 2)
    return _grid(start, [max(1, int(n)) for n in (stop - start) // spacing_mm + 1], spacing_mm)


def _laid_over(person: Structures, other: Structures) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how the other is laid over a person, (3, 3) and (3,), and the linear part of the displacement, (3, 4).

    The person's point x is the other's turn @ x + origin: rotation, one scale and translation (Umeyama 1991).
    """
    centers = [_centers(structures) for structures in (person, other)]
    common = sorted(centers[0].keys() & centers[1].keys())
    if len(common) < 4:
        raise ValueError(f"two people must have at least four whole structures in common, got {common}")
    here, there = (np.array([center[name] for name in common]) for center in centers)
    from_middle = here - here.mean(0)
    u, s, vt = np.linalg.svd((there - there.mean(0)).T @ from_middle)
    mirrored = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    turn = (u * mirrored) @ vt * (s @ mirrored) / (from_middle**2).sum()
    origin = there.mean(0) - turn @ here.mean(0)
    laid = (there - origin) @ np.linalg.inv(turn).T
    return turn, origin, _linear_shift(laid, here)


def _centers(person: Structures) -> dict[str, np.ndarray]:
    """Return {name: centre in mm} of the structures that neither end of the scan cuts."""
    cut = np.union1d(person.array_zyx[0], person.array_zyx[-1])
    centers = {}
    for i, box in enumerate(ndimage.find_objects(person.array_zyx), start=1):
        if box is not None and i not in cut:
            inside = np.argwhere(person.array_zyx[box] == i).mean(0) + [part.start for part in box] + 0.5
            centers[person.names[i]] = inside * person.spacing_zyx_mm
    return centers


def _linear_shift(here: np.ndarray, there: np.ndarray, *, ridge_mm: float = 50.0) -> np.ndarray:
    """Return (3, 4): there - here is about matrix @ (here, 1), in the least squares sense.

    Drawn towards a plain translation, so that the few points of a short scan do not shear it.
    """
    x, y = here - here.mean(0), there - here
    slope = np.linalg.solve(x.T @ x + ridge_mm**2 * np.eye(3), x.T @ (y - y.mean(0))).T
    return np.column_stack([slope, y.mean(0) - slope @ here.mean(0)])


def _spread(control: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Evaluate B-splines over the grid: control points (3, z, y, x) -> (Z, Y, X, 3).

    In torch, unlike `deformation`, because the control points are learnt by gradients.
    """
    for along in weights:
        control = torch.tensordot(control, along, dims=([1], [1]))  # the axis just done becomes the last
    return control.permute(1, 2, 3, 0)


def _soft_dice(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the soft Dice of each channel, (C,); 0 for one that is empty in either."""
    return 2 * (a * b).sum((1, 2, 3)) / (a * a + b * b).sum((1, 2, 3)).clamp_min(1e-6)


def _unevenness(shift: torch.Tensor, spacing_mm: float) -> torch.Tensor:
    """Return the mean square of the displacement's derivatives, in mm per mm: 0 for a translation."""
    along = [((shift.diff(dim=axis) / spacing_mm) ** 2).sum(-1).mean() for axis in range(3) if shift.shape[axis] > 1]
    return torch.stack(along).sum() if along else shift.new_zeros(())
