"""Which organs the border of a scan cuts: those that continue where nothing was scanned or shown."""

import numpy as np

from flare_lib.ct.hu import PADDING_HU

_SLICES = 64  # checked for the rim of a round field: if it cuts an organ at all, it does so in many slices


def cut_labels(label_map_zyx: np.ndarray, ct_zyx: np.ndarray) -> frozenset[int]:
    """Return the labels above 0 that the border of a CT cuts: the scan shows only part of these organs.

    Such a label reaches the first or last plane of an axis or, within a slice, touches padding (below -1100 HU), the
    rim of a round field. Both arrays are (Z, Y, X), of the same shape.
    """
    found = {0}
    for axis in range(3):
        for plane in (0, -1):
            found.update(np.unique(label_map_zyx.take(plane, axis)).tolist())
    step = max(1, len(label_map_zyx) // _SLICES)
    labels, outside = label_map_zyx[::step], ct_zyx[::step] < PADDING_HU
    if outside.any():
        for axis in (1, 2):
            here, next_to_it = (np.moveaxis(a, axis, 0) for a in (labels, outside))
            found.update(np.unique(here[1:][next_to_it[:-1]]).tolist(), np.unique(here[:-1][next_to_it[1:]]).tolist())
    return frozenset(found - {0})
