"""A small CT with two organs that the tests of this folder share."""

import numpy as np

from flare_lib.ct.volume import Volume

SPACING = (5.0, 2.0, 1.5)


def ct():
    return Volume.from_array(np.zeros((6, 8, 10), np.int16) - 100, SPACING)


def labels():
    label_map = np.zeros((6, 8, 10), np.uint8)
    label_map[4, 1:3, 7:9] = 1
    label_map[4, 5, 2] = 5
    return label_map
