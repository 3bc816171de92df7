"""How much surface passes between eight neighbouring voxels: surfels, by whose area surface distances are weighted.

Between 2 x 2 x 2 voxel centres, some inside a mask and some not, the surface of marching cubes (Lorensen, Cline 1987)
runs through the midpoints of the edges that join an inside corner to an outside one. On each face of the cube the
midpoints are joined, which gives closed loops of 3 to 6 points, and the area of the loops is the surfel's.

This leaves two choices, made here as in google-deepmind/surface-distance, which FLARE scores by: corners of the rarer
kind (inside or outside) that meet only across a face's diagonal stay apart; and a loop that is not flat is cut into
triangles from the point that gives it the largest area for cubic voxels.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from flare_lib.ct.volume import Triple, triple

# corner k of a cube, (z, y, x); bit 7 - k of a code says whether it is inside
_CORNERS = tuple(itertools.product((0, 1), repeat=3))


def surfel_areas(spacing_zyx_mm: Sequence[float]) -> np.ndarray:
    """Return the area in mm² of the surface between eight voxels, for each of the 256 codes: float64 (256,).

    In a code, bit 128 stands for the first corner (lowest z, y, x) and bit 1 for the last, in the order of `np.ravel`.
    Codes 0 and 255, all outside or all inside, have no surface.
    """
    dz, dy, dx = spacing_zyx_mm
    faces_mm2 = np.array([dy * dx, dz * dx, dz * dy])  # of a voxel, across z, y, x
    areas = np.zeros(256)
    for code, triangles in enumerate(_triangles()):
        areas[code] = np.sqrt(((triangles * faces_mm2) ** 2).sum(axis=1)).sum()
    return areas


@functools.cache
def _triangles() -> tuple[np.ndarray, ...]:
    """Return, for every code, the area vectors (n, 3) of its triangles, for voxels of size 1."""
    return tuple(np.concatenate([np.zeros((0, 3)), *map(_fan, _loops(code))]) for code in range(256))


def _loops(code: int) -> list[np.ndarray]:
    """Return the closed loops (n, 3) of edge midpoints that bound the surface of a code."""
    few = {corner for k, corner in enumerate(_CORNERS) if code >> (7 - k) & 1}
    if len(few) > 4:
        few = set(_CORNERS) - few
    neighbours: dict[Triple, list[Triple]] = {}
    for axis, side in itertools.product(range(3), (0, 1)):
        for a, b in _segments(_face(axis, side), few):
            neighbours.setdefault(a, []).append(b)
            neighbours.setdefault(b, []).append(a)
    loops = []
    while neighbours:
        first = previous = min(neighbours)
        loop, point = [first], neighbours[first][0]
        while point != first:
            loop.append(point)
            one, other = neighbours[point]
            previous, point = point, other if one == previous else one
        for point in loop:
            del neighbours[point]
        loops.append(np.array(loop))
    return loops


def _face(axis: int, side: int) -> list[tuple[int, ...]]:
    """Return the four corners of a face of the cube, in order around it."""
    return [(*ring[:axis], side, *ring[axis:]) for ring in ((0, 0), (0, 1), (1, 1), (1, 0))]


def _segments(face: list[tuple[int, ...]], few: set[tuple[int, ...]]) -> list[tuple[Triple, Triple]]:
    """Return the surface's segments on one face: around a corner of the rarer kind, or between opposite edges."""
    middles = [triple((a + b) / 2 for a, b in zip(face[k], face[(k + 1) % 4], strict=True)) for k in range(4)]
    cut = [k for k in range(4) if (face[k] in few) != (face[(k + 1) % 4] in few)]
    if len(cut) == 4:
        return [(middles[k - 1], middles[k]) for k in range(4) if face[k] in few]
    return [(middles[cut[0]], middles[cut[1]])] if cut else []


def _fan(loop: np.ndarray) -> np.ndarray:
    """Cut a loop (n, 3) into triangles from the point that gives the largest area; return their area vectors."""
    fans = []
    for start in range(len(loop)):
        spokes = np.roll(loop, -start, axis=0)[1:] - loop[start]
        fans.append(np.cross(spokes[:-1], spokes[1:]) / 2)
    areas = [round(float(np.linalg.norm(fan, axis=1).sum()), 9) for fan in fans]
    return fans[areas.index(max(areas))]
