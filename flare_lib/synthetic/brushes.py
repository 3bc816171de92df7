"""The two brushes that synthetic people are drawn with, ellipsoid and tube, and the grid they draw on.

Coordinates are in millimetres: x to the patient's right, y to the front, z to the head.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike


class Drawing:
    """A grid of structure ids over a stretch of a person, and the two brushes that make shapes on it.

    `ids_by_name`: {name: id}; `low_zyx_mm`, `high_zyx_mm`: the grid's outer corners; `ids` uint8 (Z, Y, X), 0 at first.
    """

    def __init__(
        self,
        ids_by_name: Mapping[str, int],
        low_zyx_mm: Sequence[float],
        high_zyx_mm: Sequence[float],
        spacing_mm: float,
        rng: np.random.Generator,
    ) -> None:
        self.ids_by_name, self.spacing_mm, self.rng = ids_by_name, spacing_mm, rng
        self.low = np.asarray(low_zyx_mm, float)
        self.ids = np.zeros(np.ceil((np.asarray(high_zyx_mm) - self.low) / spacing_mm).astype(int), np.uint8)

    def grid(self, box: tuple[slice, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x, y, z of the voxel centres in a box, in mm, in shapes that broadcast."""
        z, y, x = (
            (np.arange(s.start, s.stop, dtype=np.float32) + 0.5) * self.spacing_mm + low
            for s, low in zip(box, self.low, strict=True)
        )
        return x, y[:, None], z[:, None, None]

    def slices(self) -> Iterator[tuple[slice, slice, slice]]:
        """Yield the boxes of single slices: what is computed for every voxel is faster in the processor's cache."""
        for z in range(self.ids.shape[0]):
            yield slice(z, z + 1), slice(0, self.ids.shape[1]), slice(0, self.ids.shape[2])

    def box(self, low_xyz: np.ndarray, high_xyz: np.ndarray) -> tuple[slice, ...]:
        """Return the voxels between two corners given in mm, clipped to the drawing."""
        start = np.floor((low_xyz[::-1] - self.low) / self.spacing_mm).astype(int)
        stop = np.ceil((high_xyz[::-1] - self.low) / self.spacing_mm).astype(int)
        return tuple(slice(max(0, a), max(0, min(b, n))) for a, b, n in zip(start, stop, self.ids.shape, strict=True))

    def put(self, name: str, box: tuple[slice, ...], mask: np.ndarray, only: tuple[str, ...] = ()) -> None:
        """Draw a mask over everything, or only over the structures named in `only`."""
        part = self.ids[box]
        if only:
            allowed = np.zeros(256, dtype=bool)
            allowed[[self.ids_by_name[o] for o in only]] = True
            mask = mask & allowed[part]
        np.copyto(part, self.ids_by_name[name], where=mask)

    def ellipsoid(
        self,
        name: str,
        center: Sequence[float],
        radii: ArrayLike,
        *,
        tilt: float = 0.0,
        jitter: float = 4.0,
        only: tuple[str, ...] = (),
    ) -> None:
        """Draw an ellipsoid, tilted by `tilt` rad in the coronal plane; centre and radii vary from person to person.

        `center`, `radii`: (x, y, z) in mm; the centre is moved by up to `jitter` mm. `only`: as in `put`.
        """
        middle = np.array(center, float) + self.rng.uniform(-jitter, jitter, 3)
        half_x, half_y, half_z = np.array(radii, float) * self.rng.uniform(0.92, 1.08, 3)
        longest = max(half_x, half_z)
        reach = np.array([longest, half_y, longest] if tilt else [half_x, half_y, half_z])
        box = self.box(middle - reach, middle + reach)
        x, y, z = (g - c for g, c in zip(self.grid(box), middle, strict=True))
        across, along = np.cos(tilt) * x - np.sin(tilt) * z, np.sin(tilt) * x + np.cos(tilt) * z
        inside = (across / half_x) ** 2 + (y / half_y) ** 2 + (along / half_z) ** 2 < 1
        self.put(name, box, inside, only)

    def tube(
        self,
        name: str,
        points: ArrayLike,
        radii: ArrayLike,
        *,
        jitter: float = 2.5,
        only: tuple[str, ...] = (),
    ) -> None:
        """Draw a tube through `points`, (x, y, z) in mm, its radius changing linearly from one point to the next.

        `radii`: one for all points or one for each, in mm; points are moved by up to `jitter` mm. `only`: as in `put`.
        """
        places = np.array(points, float)
        places += self.rng.uniform(-jitter, jitter, places.shape)
        widths = np.broadcast_to(np.asarray(radii, float), len(places)) * self.rng.uniform(0.92, 1.08)
        for a, b, ra, rb in zip(places, places[1:], widths, widths[1:], strict=False):
            reach = max(ra, rb)
            box = self.box(np.minimum(a, b) - reach, np.maximum(a, b) + reach)
            x, y, z = self.grid(box)
            way = b - a
            t = ((x - a[0]) * way[0] + (y - a[1]) * way[1] + (z - a[2]) * way[2]) / max(way @ way, 1e-6)
            t = np.clip(t, 0, 1)
            distance = (x - a[0] - t * way[0]) ** 2 + (y - a[1] - t * way[1]) ** 2 + (z - a[2] - t * way[2]) ** 2
            self.put(name, box, distance < (ra + t * (rb - ra)) ** 2, only)
