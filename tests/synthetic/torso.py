"""A small torso of blocks: liver, spleen and a rib on either side, every axis and spacing different."""

import numpy as np

from flare_lib.synthetic.structures import Structures

NAMES = {0: "air", 1: "liver", 2: "spleen", 3: "rib_left_5", 4: "rib_right_5"}


def torso(shape_zyx=(20, 40, 60), spacing_zyx_mm=(5.0, 4.0, 3.0)):
    array = np.zeros(shape_zyx, np.uint8)
    array[4:16, 12:30, 34:52] = 1
    array[6:14, 10:22, 8:16] = 2
    array[5:9, 8:32, 54:56] = 4
    return Structures(array, NAMES, spacing_zyx_mm)
