"""Anatomy as a map of named structures, and how one person becomes many: the shapes behind a painted CT.

A `Structures` holds an id a voxel and the name of every id. The names are TotalSegmentator's ("kidney_right", ...),
so that its public label maps can be read as they are, plus a few for what its maps leave out (fat, skin, ...).
Grey values are no business of this file: see `painting`.

The random deformation is a similarity with a little anisotropy, then two free-form deformations whose control points
sit on a coarse grid under cubic B-splines (Rueckert et al. 1999): smooth, cheap (three small matrix products), and
folding is avoided by keeping every displacement below 0.4 of the control-point distance (Choi and Lee 2000).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from scipy import ndimage

from flare_lib.ct.labels import ORGANS

Triple = tuple[float, float, float]

# FLARE's organs under TotalSegmentator's names, in FLARE's order
ORGAN_STRUCTURES: tuple[str, ...] = (
    "liver",
    "kidney_right",
    "spleen",
    "pancreas",
    "aorta",
    "inferior_vena_cava",
    "adrenal_gland_right",
    "adrenal_gland_left",
    "gallbladder",
    "esophagus",
    "stomach",
    "duodenum",
    "kidney_left",
)
UNLABELLED = "unlabelled"  # inside the body, nobody said what: fat with vessels, mesentery, muscle


@dataclass(frozen=True)
class Structures:
    """A map of named structures, canonical (RAS+), ZYX.

    `array_zyx` uint8 ids, `names` {id: name} of every id that occurs, `spacing_zyx_mm`.
    Raises ValueError when the array does not have three axes or holds an id without a name.
    """

    array_zyx: np.ndarray
    names: dict[int, str]
    spacing_zyx_mm: Triple

    def __post_init__(self) -> None:
        if self.array_zyx.ndim != 3 or self.array_zyx.dtype != np.uint8:
            raise ValueError(
                f"array_zyx must be uint8 with 3 axes, got {self.array_zyx.dtype} of shape {self.array_zyx.shape}"
            )
        present = np.flatnonzero(np.bincount(self.array_zyx.reshape(-1), minlength=256))
        nameless = [int(i) for i in present if int(i) not in self.names]
        if nameless:
            raise ValueError(f"every id must have a name, got none for {nameless}")

    def ids(self, *prefixes: str) -> list[int]:
        """Return the ids whose names start with one of the prefixes."""
        return [i for i, name in self.names.items() if name.startswith(prefixes)]

    def mask(self, *prefixes: str) -> np.ndarray:
        """Return the boolean mask of the structures whose names start with one of the prefixes."""
        table = np.zeros(256, dtype=bool)
        table[self.ids(*prefixes)] = True
        return table[self.array_zyx]


def organ_labels(structures: Structures) -> np.ndarray:
    """Return the FLARE label map (uint8, ZYX) of a structure map: 0 wherever no organ of the 13 lies."""
    table = np.zeros(256, dtype=np.uint8)
    by_name = {name: i for i, name in structures.names.items()}
    for organ, name in zip(ORGANS, ORGAN_STRUCTURES, strict=True):
        if name in by_name:
            table[by_name[name]] = organ.id
    return table[structures.array_zyx]


def bspline_weights(n_points: int, n_intervals: int) -> np.ndarray:
    """Return the (n_points, n_intervals + 3) weights of uniform cubic B-splines at evenly spread points.

    Every row sums to 1, so constant control points give a constant. One point sits in the middle of the axis.
    """
    position = (np.arange(n_points) + 0.5) / n_points * n_intervals
    cell = np.minimum(position.astype(int), n_intervals - 1)
    t = position - cell
    cubic = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    weights = np.zeros((n_points, n_intervals + 3), dtype=np.float32)
    for k in range(4):
        weights[np.arange(n_points), cell + k] = cubic[:, k]
    return weights


def smooth_field(
    rng: np.random.Generator, shape_zyx: Sequence[int], spacing_zyx_mm: Sequence[float], scale_mm: float
) -> np.ndarray:
    """Return a random field (float32, ZYX) that varies over about `scale_mm`, mean 0 and SD about 1.

    The values at the control points, `scale_mm` apart, are drawn from a normal distribution; B-splines join them.
    """
    intervals = [max(1, round(n * s / scale_mm)) for n, s in zip(shape_zyx, spacing_zyx_mm, strict=True)]
    control = rng.standard_normal([n + 3 for n in intervals], dtype=np.float32)
    # the mean over a cell of the sum of squared cubic B-spline weights is 151/315: undone once an axis
    control *= (315 / 151) ** 1.5
    return _spread(control, shape_zyx, intervals)


def _spread(control: np.ndarray, shape_zyx: Sequence[int], intervals: Sequence[int]) -> np.ndarray:
    """Evaluate B-splines over a grid: control (cz, cy, cx) -> field (Z, Y, X), one axis after the other."""
    wz, wy, wx = (bspline_weights(n, k) for n, k in zip(shape_zyx, intervals, strict=True))
    field = np.tensordot(wz, control, axes=1)  # Z cy cx
    field = np.matmul(wy, field)  # Z Y cx
    return np.matmul(field, wx.T)  # Z Y X


def random_matrix(
    rng: np.random.Generator, *, max_rotation_rad: float, scale_range: tuple[float, float], anisotropy: float
) -> np.ndarray:
    """Return a random (3, 3) matrix over (z, y, x) in mm: rotations about the axes, one scale, a little per axis."""
    matrix = np.diag(rng.uniform(*scale_range) * (1 + rng.uniform(-anisotropy, anisotropy, 3)))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = rng.uniform(-max_rotation_rad, max_rotation_rad)
        turn = np.eye(3)
        turn[[first, second], [first, second]] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix


def deform(
    structures: Structures,
    shape_zyx: Sequence[int],
    spacing_zyx_mm: Sequence[float],
    rng: np.random.Generator,
    *,
    center_zyx_mm: Sequence[float] | None = None,
    max_rotation_rad: float = 0.2,
    scale_range: tuple[float, float] = (0.75, 1.3),
    anisotropy: float = 0.08,
    displacements_mm: Sequence[tuple[float, float]] = ((65.0, 16.0), (30.0, 6.0)),
    outside: str = "air",
) -> Structures:
    """Look at a randomly deformed person through a new grid.

    `shape_zyx`, `spacing_zyx_mm`: the new grid; its centre shows the point `center_zyx_mm` of the old one (default: its
    centre). `displacements_mm`: pairs of control-point distance and SD of the displacement there, in mm; displacements
    are cut at 0.4 of the distance, so that nothing folds. What lies outside the old grid becomes `outside`.
    Nearest neighbour: ids stay ids. Returns Structures on the new grid; all randomness comes from `rng`.
    """
    if outside not in structures.names.values():
        raise ValueError(f"outside must be one of the structures' names, got {outside!r}")
    old_spacing = np.asarray(structures.spacing_zyx_mm)
    old_size_mm = np.asarray(structures.array_zyx.shape) * old_spacing
    new_size_mm = np.asarray(shape_zyx) * np.asarray(spacing_zyx_mm)
    center = old_size_mm / 2 if center_zyx_mm is None else np.asarray(center_zyx_mm, dtype=float)
    matrix = np.linalg.inv(
        random_matrix(rng, max_rotation_rad=max_rotation_rad, scale_range=scale_range, anisotropy=anisotropy)
    )
    shift_mm = np.zeros((3, *shape_zyx), dtype=np.float32)
    for distance_mm, sd_mm in displacements_mm:
        intervals = [max(1, round(size / distance_mm)) for size in new_size_mm]
        limit = 0.4 * distance_mm
        for axis in range(3):
            control = rng.normal(0, sd_mm, [n + 3 for n in intervals]).clip(-limit, limit).astype(np.float32)
            shift_mm[axis] += _spread(control, shape_zyx, intervals)
    fill = next(i for i, name in structures.names.items() if name == outside)
    array = _look_up(
        np.ascontiguousarray(structures.array_zyx),
        shift_mm,
        matrix,
        center,
        np.asarray(spacing_zyx_mm, dtype=float),
        old_spacing,
        np.uint8(fill),
    )
    return Structures(array, structures.names, tuple(float(s) for s in spacing_zyx_mm))


@numba.njit(cache=True)
def _look_up(ids, shift_mm, matrix, center_mm, spacing_mm, old_spacing_mm, fill):
    """Nearest id at matrix @ (point - centre of the new grid + shift) + center, for every voxel of the new grid."""
    _, nz, ny, nx = shift_mm.shape
    out = np.empty((nz, ny, nx), np.uint8)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                dz = (z + 0.5 - nz / 2) * spacing_mm[0] + shift_mm[0, z, y, x]
                dy = (y + 0.5 - ny / 2) * spacing_mm[1] + shift_mm[1, z, y, x]
                dx = (x + 0.5 - nx / 2) * spacing_mm[2] + shift_mm[2, z, y, x]
                i = math.floor(
                    (matrix[0, 0] * dz + matrix[0, 1] * dy + matrix[0, 2] * dx + center_mm[0]) / old_spacing_mm[0]
                )
                j = math.floor(
                    (matrix[1, 0] * dz + matrix[1, 1] * dy + matrix[1, 2] * dx + center_mm[1]) / old_spacing_mm[1]
                )
                k = math.floor(
                    (matrix[2, 0] * dz + matrix[2, 1] * dy + matrix[2, 2] * dx + center_mm[2]) / old_spacing_mm[2]
                )
                inside = 0 <= i < ids.shape[0] and 0 <= j < ids.shape[1] and 0 <= k < ids.shape[2]
                out[z, y, x] = ids[i, j, k] if inside else fill
    return out


def complete_body(
    structures: Structures,
    rng: np.random.Generator,
    *,
    closing_mm: float = 60.0,
    muscle_mm: tuple[float, float] = (4.0, 12.0),
    fat_mm: tuple[float, float] = (4.0, 40.0),
    work_spacing_mm: float = 4.0,
) -> Structures:
    """Give a label map whose id 0 means "nothing known" a body around its structures.

    The body is the morphological closing of all that is labelled; around it come a layer of muscle (abdominal wall), of
    fat whose thickness varies smoothly round the trunk, and the skin; inside it, what has no label becomes
    "unlabelled", or "muscle" close to a rib. Beyond is "air". Thicknesses are drawn from the ranges given, in mm.
    The grid grows in the plane to hold the new layers. The distances are computed on a grid of `work_spacing_mm`
    (trilinear back). Raises ValueError when nothing is labelled.
    """
    if not structures.array_zyx.any():
        raise ValueError("a label map must hold at least one structure to have a body completed around it, got none")
    room = [0, *(round((muscle_mm[1] + fat_mm[1]) / s) for s in structures.spacing_zyx_mm[1:])]
    wide = np.pad(structures.array_zyx, [(r, r) for r in room])
    structures = Structures(wide, structures.names, structures.spacing_zyx_mm)
    labelled = wide > 0
    names = dict(structures.names) | {
        250 + i: name for i, name in enumerate(("muscle", "fat", "skin", UNLABELLED, "air"))
    }
    by_name = {name: i for i, name in names.items()}
    step = [max(1, round(work_spacing_mm / s)) for s in structures.spacing_zyx_mm]
    work_mm = np.asarray(step) * structures.spacing_zyx_mm
    coarse = tuple(slice(n // 2, None, n) for n in step)
    pad = [(int(closing_mm / mm) + 2,) * 2 for mm in work_mm]
    # the first axis is continued, not closed: the scan ends there, the body does not
    mask = np.pad(np.pad(labelled[coarse], [pad[0], (0, 0), (0, 0)], mode="edge"), [(0, 0), pad[1], pad[2]])
    dilated = ndimage.distance_transform_edt(~mask, sampling=work_mm) <= closing_mm
    closed = ndimage.distance_transform_edt(dilated, sampling=work_mm) > closing_mm
    outside_mm = ndimage.distance_transform_edt(~closed, sampling=work_mm)
    inner = tuple(slice(p[0], -p[1]) for p in pad)
    rib_mm = ndimage.distance_transform_edt(~structures.mask("rib_", "costal", "sternum")[coarse], sampling=work_mm)

    shape = structures.array_zyx.shape
    depth = _enlarge(outside_mm[inner], shape)  # mm outside the closed trunk, 0 inside
    muscle = rng.uniform(*muscle_mm)
    swell = smooth_field(rng, shape, structures.spacing_zyx_mm, 150.0)
    fat = muscle + rng.uniform(*fat_mm) * np.clip(1 + 0.35 * swell, 0.2, 2.0)
    array = np.full(shape, by_name["air"], dtype=np.uint8)
    array[depth < fat + 2.0] = by_name["skin"]
    array[depth < fat] = by_name["fat"]
    array[depth < muscle] = by_name["muscle"]
    array[depth < 1.0] = by_name[UNLABELLED]
    array[(depth < 1.0) & (_enlarge(rib_mm, shape) < 9.0)] = by_name["muscle"]
    array[labelled] = structures.array_zyx[labelled]
    return Structures(array, names, structures.spacing_zyx_mm)


def _enlarge(field: np.ndarray, shape_zyx: Sequence[int]) -> np.ndarray:
    """Bring a smooth field to a finer grid, trilinearly (float32)."""
    factors = [n / m for n, m in zip(shape_zyx, field.shape, strict=True)]
    return ndimage.zoom(field.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
