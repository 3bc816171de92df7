"""What the border of a scan cuts: organs that go on where nothing was scanned or shown."""

import numpy as np

from flare_lib.ct.hu import PADDING_HU

_SLICES = 64  # looked at for the round field's rim, which cuts an organ in many slices or hardly


def cut_labels(label_map_zyx: np.ndarray, ct_zyx: np.ndarray) -> frozenset[int]:
    """Return the labels above 0 that the border of a CT cuts: of these organs the scan shows a part alone.

    They lie in the first or last plane of an axis or, in their slice, beside padding (below -1100 HU): the rim of a
    round field. Both arrays (Z, Y, X) of one shape.
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
