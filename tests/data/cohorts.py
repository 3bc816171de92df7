"""Small cohorts on disk that the tests of cohorts and of prepared cases share."""

import numpy as np

from flare_lib.ct.files import save_ct, save_label_map
from flare_lib.ct.volume import Volume

SHAPE, SPACING = (9, 14, 20), (5.0, 2.0, 1.5)


def hu(seed=0):
    """A block of tissue in air, different for each seed."""
    array = np.full(SHAPE, -1000, np.int16)
    array[1:8, 2:12, 3:17] = np.random.default_rng(seed).integers(-50, 150, (7, 10, 14))
    return array


def organs():
    """Liver and right kidney on the right (large x), spleen and left kidney on the left."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:7, 3:9, 12:16] = 1
    labels[2:4, 4:6, 11:13] = 2
    labels[4:6, 3:6, 4:7] = 3
    labels[2:4, 4:6, 5:8] = 13
    return labels


def write_ct(path, array=None, spacing=SPACING):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_ct(path, Volume.from_array(hu() if array is None else array, spacing))
    return path


def write_labels(path, array=None, spacing=SPACING):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = organs() if array is None else array
    save_label_map(path, array, Volume.from_array(array, spacing))
    return path


def pair(folder, name="a", *, ct=None, labels=None):
    """A case in the layout of FLARE 2022."""
    write_ct(folder / "images" / f"{name}_0000.nii.gz", ct)
    write_labels(folder / "labels" / f"{name}.nii.gz", labels)
    return folder
