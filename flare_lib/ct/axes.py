"""A volume seen along other axes than the canonical ones: as its file stores it, or in any other order.

Nets that were trained on files as they are stored have to see a CT in the same way: to such a net, a kidney on the
other side of the picture is the other kidney.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from nibabel.orientations import io_orientation

from flare_lib.ct.volume import FileGrid, Shape, Triple, triple


@dataclass(frozen=True)
class Axes:
    """An order of axes and their directions: axis n runs along the canonical axis `order_zyx[n]` (0 z, 1 y, 2 x).

    It runs backwards where `flipped[n]`. The default is the canonical order itself. Raises ValueError unless the order
    holds 0, 1 and 2.
    """

    order_zyx: Shape = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    def __post_init__(self) -> None:
        if sorted(self.order_zyx) != [0, 1, 2]:
            raise ValueError(f"an order of axes must hold 0, 1 and 2, got {tuple(self.order_zyx)}")

    @classmethod
    def of_file(cls, grid: FileGrid) -> Self:
        """Return the axes (k, j, i) of a file, slowest first, as readers that never reorient pass them on."""
        orientation = io_orientation(grid.affine)[::-1]  # of k, j, i: the world's axis (0 x, 1 y, 2 z), its direction
        return cls(triple(2 - int(axis) for axis, _ in orientation), triple(bool(way < 0) for _, way in orientation))

    def reordered(self, order: Shape) -> Self:
        """Return these axes in another order: the new axis n is the old `order[n]`."""
        return type(self)(triple(self.order_zyx[n] for n in order), triple(self.flipped[n] for n in order))

    def turn(self, array_zyx: np.ndarray) -> np.ndarray:
        """Return a canonical array (Z, Y, X) along these axes, as a view."""
        return array_zyx.transpose(self.order_zyx)[self._directions()]

    def turn_back(self, array: np.ndarray) -> np.ndarray:
        """Return an array along these axes as a canonical one, as a view: the inverse of `turn`."""
        return array[self._directions()].transpose(np.argsort(self.order_zyx))

    def turn_spacing(self, spacing_zyx_mm: Triple) -> Triple:
        """Return the spacing along these axes."""
        return triple(spacing_zyx_mm[axis] for axis in self.order_zyx)

    def turn_size_back(self, size_mm: Triple) -> Triple:
        """Return a size along these axes as one along z, y and x."""
        return triple(size_mm[self.order_zyx.index(axis)] for axis in range(3))

    def _directions(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if backwards else 1) for backwards in self.flipped)
