"""Resize + argmax of a few slices in torch operations, on any device: one of the engines of `slice_interpolation`.

There are two ways: interpolate every voxel, one class at a time against a running maximum; or first find the winner of
each input voxel, copy it into every cell whose eight corners agree, and interpolate only in the mixed cells.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from flare_lib.ct.linear_taps import Taps

MIXED = 255  # in a map of winners, marks a cell whose corners disagree


def paint_with_torch(
    scores: Tensor, taps_zyx: tuple[Taps, Taps, Taps], out_zyx: np.ndarray, memory_bytes: int, dense_above: float
) -> bool:
    """Write the winning class of every output voxel into `out_zyx`; return False if a score is not finite.

    `scores` (C, z, y, x); `taps_zyx`: what is read along each axis (`Taps`); `out_zyx` uint8 (Z, Y, X). Temporary
    memory stays below `memory_bytes`, or at one slice. If more than the share `dense_above` of a block's voxels lies in
    mixed cells, all its voxels are interpolated; with a share below 0, the cells are not examined at all.
    """
    if not all(_is_finite(scores[:, z]) for z in range(scores.shape[1])):
        return False
    z, y, x = taps_zyx
    n_out, plane = len(out_zyx), len(y) * len(x)
    # a slice needs value, neighbour and best (float32), label and mask (uint8), and its input slices twice
    share = min(2.0, (z.upper[-1] - z.lower[0] + 1) / n_out) if n_out else 0.0
    height = max(1, int((memory_bytes - 16 * plane) / (plane * (14 + 8 * share))))
    for first in range(0, n_out, height):
        block = _Block(scores, z.part(first, first + height), y, x)
        labels = None if dense_above < 0 else block.paint_mixed(memory_bytes, dense_above)
        if labels is None:
            labels = block.paint_all()
        torch.from_numpy(out_zyx[first : first + height]).copy_(labels)
    return True


def _is_finite(scores: Tensor) -> bool:
    low, high = torch.aminmax(scores)  # both are NaN if any score is
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _lerp(lower: Tensor, upper: Tensor, lower_weight: Tensor, upper_weight: Tensor) -> Tensor:
    """Weight two neighbours (`upper` is overwritten), rounding as torch's trilinear does: the upper product first.

    Not lower + weight * (upper - lower), whose rounding could lift a class above one that is larger at both ends.
    """
    return upper.mul_(upper_weight).addcmul_(lower, lower_weight)


class _Best:
    """A running maximum over the classes, and the class that holds it."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def challenge(self, c: int, value: Tensor) -> None:
        """Compare class c, with a number above all before, to the maximum; a tie changes nothing."""
        if self.value is None:
            self.value, self.label = value, torch.zeros_like(value, dtype=torch.uint8)
            return
        wins = (value > self.value).view(torch.uint8)
        # c is the largest label so far, so a maximum of bytes does the work of a (slower) masked assignment
        torch.maximum(self.label, wins.mul_(c), out=self.label)
        torch.maximum(self.value, value, out=self.value)


class _Block:
    """Some output slices (Z) and the input slices (m) that they read."""

    def __init__(self, scores: Tensor, z: Taps, y: Taps, x: Taps) -> None:
        needed, position = np.unique(np.concatenate([z.lower, z.upper]), return_inverse=True)
        self.scores = scores
        self.needed = self._there(needed)
        self.index = [tuple(map(self._there, np.split(position, 2)))]
        self.index += [(self._there(axis.lower), self._there(axis.upper)) for axis in (y, x)]
        self.weight = [(self._there(axis.lower_weight), self._there(axis.upper_weight)) for axis in (z, y, x)]

    def _there(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.scores.device)

    def _classes(self) -> Iterator[tuple[int, Tensor]]:
        """Yield every class with its scores (m, y, x) in float32."""
        for c, scores in enumerate(self.scores):
            yield c, scores.index_select(0, self.needed).float()

    def paint_all(self) -> Tensor:
        """Interpolate every voxel: return labels (Z, Y, X) uint8."""
        best = _Best()
        for c, value in self._classes():
            for axis in (2, 1, 0):  # m y x -> m y X -> m Y X -> Z Y X
                weights = (w.view([-1 if a == axis else 1 for a in range(3)]) for w in self.weight[axis])
                value = _lerp(*(_take(value, axis, index) for index in self.index[axis]), *weights)
            best.challenge(c, value)
        return best.label

    def paint_mixed(self, memory_bytes: int, dense_above: float) -> Tensor | None:
        """Interpolate the voxels of mixed cells: return labels (Z, Y, X) uint8, or None if too many to be worth it."""
        best = _Best()
        for c, value in self._classes():
            best.challenge(c, value)
        cells = best.label  # m y x
        for axis in (0, 1, 2):
            upper = torch.arange(cells.shape[axis], device=cells.device).add_(1).clamp_(max=cells.shape[axis] - 1)
            lower_label, upper_label = cells, cells.index_select(axis, upper)
            if axis == 0:  # the slices of a block need not be neighbours: from here on, one row of cells per Z
                lower_label, upper_label = (cells.index_select(0, index) for index in self.index[0])
            cells = torch.where(lower_label == upper_label, lower_label, MIXED)
        labels = _take(cells.index_select(1, self.index[1][0]), 2, self.index[2][0])  # Z Y X
        mixed = torch.nonzero(labels.view(-1) == MIXED).view(-1)
        if mixed.numel() > dense_above * labels.numel():
            return None
        for some in mixed.split(max(1, memory_bytes // 256)):  # 8 addresses, 6 weights and 8 scores per voxel
            labels.view(-1)[some] = self._label_at(some, labels.shape)
        return labels

    def _label_at(self, voxels: Tensor, shape_zyx: torch.Size) -> Tensor:
        """Return the labels (N,) of the output voxels with these flat indices (N,)."""
        rows = torch.div(voxels, shape_zyx[2], rounding_mode="floor")
        zyx = (torch.div(rows, shape_zyx[1], rounding_mode="floor"), rows % shape_zyx[1], voxels % shape_zyx[2])
        (z, y, x), weight = (
            [[of_axis[i] for of_axis in pair] for pair, i in zip(table, zyx, strict=True)]
            for table in (self.index, self.weight)
        )
        height, width = self.scores.shape[2:]
        corners = [[[(zi * height + yi) * width + xi for xi in x] for yi in y] for zi in z]
        best = _Best()
        for c, scores in self._classes():
            flat = scores.view(-1)
            slices = []
            for in_slice in corners:
                in_rows = [_lerp(*(flat[corner] for corner in in_row), *weight[2]) for in_row in in_slice]
                slices.append(_lerp(*in_rows, *weight[1]))
            best.challenge(c, _lerp(*slices, *weight[0]))
        return best.label


def _take(tensor: Tensor, axis: int, index: Tensor) -> Tensor:
    """Pick along one of three axes: index_select is fast for rows, gather for single elements."""
    if axis < 2:
        return tensor.index_select(axis, index)
    return tensor.gather(2, index.expand(*tensor.shape[:2], -1))
