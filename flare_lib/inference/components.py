"""Connected components of a label map: one pass finds them for all labels, a second measures, a third erases.

Voxels are connected by a face, an edge or a corner (26 neighbours), unless it says otherwise. The components come from
cc3d (Silversmith, https://github.com/seung-lab/connected-components-3d).
"""

from collections.abc import Sequence
from typing import NamedTuple

import cc3d
import numpy as np

from flare_lib.ct.labels import N_CLASSES
from flare_lib.ct.roi import bounding_box, crop
from flare_lib.machine.compiled import njit


class Components(NamedTuple):
    """Components: `ids` uint32 (Z, Y, X), 0 for the background; the others hold one entry per id, entry 0 unused."""

    ids: np.ndarray
    labels: np.ndarray  # uint8
    sizes: np.ndarray  # int64, voxels
    centroids_zyx: np.ndarray  # float64 (n + 1, 3), voxel indices
    ranks: np.ndarray  # int64, the order of their first voxels

    def largest(self) -> np.ndarray:
        """Return the id of the largest component of each label, the first one if several are equally large."""
        order = np.lexsort((self.ranks[1:], -self.sizes[1:])) + 1
        return order[np.unique(self.labels[order], return_index=True)[1]]


def find_components(label_map_zyx: np.ndarray) -> Components:
    """Find and measure the components of every label of a C-contiguous uint8 label map, in one pass for all labels."""
    ids, n = cc3d.connected_components(label_map_zyx, connectivity=26, out_dtype=np.uint32, return_N=True)
    ids = np.ascontiguousarray(ids)
    labels, sizes, ranks = np.zeros(n + 1, np.uint8), np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    sums_zyx = np.zeros((n + 1, 3), np.int64)
    _measure(ids, label_map_zyx, labels, sizes, sums_zyx, ranks)
    return Components(ids, labels, sizes, sums_zyx / np.maximum(sizes, 1)[:, None], ranks)


def keep_largest_piece(label_map_zyx: np.ndarray, labels: Sequence[int], min_voxels: float) -> None:
    """Erase, in place, all pieces of the labels taken together but the largest and those of at least `min_voxels`.

    Pieces are connected by faces alone (6 neighbours), and all of the largest size stay: nnU-Net v1's rule. The label
    map is uint8 (Z, Y, X); nothing happens if it has none of the labels.
    """
    mask = np.isin(label_map_zyx, labels)
    box = bounding_box(mask)
    if box is None:
        return
    mask = np.ascontiguousarray(crop(mask, box))
    ids = cc3d.connected_components(mask, connectivity=6, out_dtype=np.uint32)
    sizes = np.bincount(ids.ravel())
    sizes[0] = 0
    kept = (sizes == sizes.max()) | (sizes >= min_voxels)
    crop(label_map_zyx, box)[mask & ~kept[ids]] = 0


def erase(label_map_zyx: np.ndarray, ids: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Set components that are not kept to background, in place; return how many voxels of each label were erased.

    `label_map_zyx` uint8 and `ids` uint32 of the same shape; `kept` bool, one per id. Returns int64 (14,).
    """
    removed = np.zeros(N_CLASSES, np.int64)
    _erase(label_map_zyx, ids, kept, removed)
    return removed


@njit()
def _erase(label_map_zyx, ids, kept, removed):
    """Do the work of `erase`, counting in `removed`."""
    for z in range(ids.shape[0]):
        for y in range(ids.shape[1]):
            for x in range(ids.shape[2]):
                i = ids[z, y, x]
                if i != 0 and not kept[i]:
                    removed[label_map_zyx[z, y, x]] += 1
                    label_map_zyx[z, y, x] = 0


# cc3d.statistics gives sizes and centroids too, but takes eight times as long and leaves out the labels.
@njit()
def _measure(ids, label_map_zyx, labels, sizes, sums_zyx, ranks):
    """Find label, size, sum of voxel indices (z, y, x) and rank of the first voxel of each component, in one pass."""
    n_seen = 0
    for z in range(ids.shape[0]):
        for y in range(ids.shape[1]):
            for x in range(ids.shape[2]):
                i = ids[z, y, x]
                if i == 0:
                    continue
                if sizes[i] == 0:
                    labels[i] = label_map_zyx[z, y, x]
                    ranks[i] = n_seen
                    n_seen += 1
                sizes[i] += 1
                sums_zyx[i, 0] += z
                sums_zyx[i, 1] += y
                sums_zyx[i, 2] += x
