"""How one person becomes many: smooth random fields, and a random deformation of a structure map.

The deformation is a similarity with a little anisotropy, followed by two free-form deformations with cubic B-splines
over a coarse grid of control points (Rueckert et al. 1999): smooth and cheap, three small matrix products. Keeping
every displacement below 0.4 of the distance between control points prevents folding (Choi and Lee 2000).
"""

import math
from collections.abc import Sequence

import numpy as np

from flare_lib.ct.volume import triple
from flare_lib.machine.compiled import njit
from flare_lib.synthetic.structures import Structures


def bspline_weights(n_points: int, n_intervals: int) -> np.ndarray:
    """Return the (n_points, n_intervals + 3) weights of uniform cubic B-splines at evenly spread points.

    Every row sums to 1, so constant control points give a constant. A single point sits in the middle of the axis.
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
    """Return a random field (float32, ZYX) that varies over about `scale_mm`, with mean 0 and SD about 1.

    The values at the control points, `scale_mm` apart, are normally distributed; B-splines interpolate between them.
    """
    intervals = [max(1, round(n * s / scale_mm)) for n, s in zip(shape_zyx, spacing_zyx_mm, strict=True)]
    control = rng.standard_normal([n + 3 for n in intervals], dtype=np.float32)
    # the mean over a cell of the sum of squared cubic B-spline weights is 151/315: undone once per axis
    control *= (315 / 151) ** 1.5
    return _spread(control, shape_zyx, intervals)


def _spread(control: np.ndarray, shape_zyx: Sequence[int], intervals: Sequence[int]) -> np.ndarray:
    """Evaluate B-splines over a grid: control (cz, cy, cx) -> field (Z, Y, X), one axis at a time."""
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
    center_zyx_mm: Sequence[float] | np.ndarray | None = None,
    max_rotation_rad: float = 0.2,
    scale_range: tuple[float, float] = (0.75, 1.3),
    anisotropy: float = 0.08,
    displacements_mm: Sequence[tuple[float, float]] = ((65.0, 16.0), (30.0, 6.0)),
    growths: np.ndarray | None = None,
    outside: str = "air",
) -> Structures:
    """Deform a person at random and sample the result on a new grid.

    `shape_zyx`, `spacing_zyx_mm`: the new grid; its centre shows the point `center_zyx_mm` of the old one (default: its
    centre). `displacements_mm`: pairs of control-point distance and SD of the displacement there, in mm; displacements
    are clipped to 0.4 of the distance, so that nothing folds. `growths`: places in the old grid that grow or shrink,
    rows of z, y, x, reach in mm and factor (`variation.draw_growths`). Anything outside the old grid becomes `outside`.
    Sampling is nearest neighbour, so ids stay ids. Returns Structures on the new grid; all randomness comes from `rng`.
    Raises ValueError if no structure is called `outside`.
    """
    if outside not in structures.by_name:
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
    array = _look_up(
        np.ascontiguousarray(structures.array_zyx),
        shift_mm,
        matrix,
        center,
        np.asarray(spacing_zyx_mm, dtype=float),
        old_spacing,
        np.empty((0, 5)) if growths is None else growths,
        np.uint8(structures.by_name[outside]),
    )
    return Structures(array, structures.names, triple(float(s) for s in spacing_zyx_mm))


@njit()
def _look_up(ids, shift_mm, matrix, center_mm, spacing_mm, old_spacing_mm, growths, fill):
    """Find the nearest id at matrix @ (point - centre of the new grid + shift) + center, for every new voxel."""
    _, nz, ny, nx = shift_mm.shape
    out = np.empty((nz, ny, nx), np.uint8)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                dz = (z + 0.5 - nz / 2) * spacing_mm[0] + shift_mm[0, z, y, x]
                dy = (y + 0.5 - ny / 2) * spacing_mm[1] + shift_mm[1, z, y, x]
                dx = (x + 0.5 - nx / 2) * spacing_mm[2] + shift_mm[2, z, y, x]
                pz = matrix[0, 0] * dz + matrix[0, 1] * dy + matrix[0, 2] * dx + center_mm[0]
                py = matrix[1, 0] * dz + matrix[1, 1] * dy + matrix[1, 2] * dx + center_mm[1]
                px = matrix[2, 0] * dz + matrix[2, 1] * dy + matrix[2, 2] * dx + center_mm[2]
                for growth in growths:
                    # where something grows, look up a point closer to its middle; r (1 - a exp(-r^2 / 2)) rises with r
                    # for every a between -2.2 and 1, so nothing folds
                    rz, ry, rx = pz - growth[0], py - growth[1], px - growth[2]
                    reaches = (rz * rz + ry * ry + rx * rx) / (growth[3] * growth[3])
                    if reaches < 16:
                        nearer = (1 - 1 / growth[4]) * math.exp(-0.5 * reaches)
                        pz, py, px = pz - nearer * rz, py - nearer * ry, px - nearer * rx
                i = math.floor(pz / old_spacing_mm[0])
                j = math.floor(py / old_spacing_mm[1])
                k = math.floor(px / old_spacing_mm[2])
                inside = 0 <= i < ids.shape[0] and 0 <= j < ids.shape[1] and 0 <= k < ids.shape[2]
                out[z, y, x] = ids[i, j, k] if inside else fill
    return out
