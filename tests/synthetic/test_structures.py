"""Structures: every id has a name, and the 13 organs are FLARE's."""

import numpy as np
import pytest
from torso import NAMES

from flare_lib.synthetic.structures import ORGAN_STRUCTURES, Structures, organ_labels


def test_organ_labels_follow_the_order_of_flare():
    names = {10 + i: name for i, name in enumerate(ORGAN_STRUCTURES)} | {99: "small_bowel"}
    array = np.array([[[10, 14, 22, 99]]], np.uint8)  # liver, aorta, left kidney, no organ of the 13
    structures = Structures(array, names, (1.0, 2.0, 3.0))
    np.testing.assert_array_equal(organ_labels(structures), [[[1, 5, 13, 0]]])
    assert [structures.by_name[name] for name in ("liver", "aorta", "kidney_left", "small_bowel")] == [10, 14, 22, 99]


def test_an_id_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"every id must have a name, got none for \[7\]"):
        Structures(np.full((1, 2, 3), 7, np.uint8), NAMES, (1.0, 1.0, 1.0))


def test_an_array_that_is_not_uint8_or_not_3d_is_refused():
    with pytest.raises(ValueError, match="uint8 with 3 axes, got int16"):
        Structures(np.zeros((1, 2, 3), np.int16), NAMES, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"got uint8 of shape \(2, 3\)"):
        Structures(np.zeros((2, 3), np.uint8), NAMES, (1.0, 1.0, 1.0))
