"""Slices as pictures: the right voxel in the right corner, the organs' own colours, square pixels."""

import numpy as np
import pytest
from cases import SPACING, labels
from matplotlib.colors import to_hex

from flare_lib.ct.labels import ORGANS
from flare_lib.display.slices import organ_center, organ_colormap, plane_slice, slice_picture


def test_the_patients_right_is_on_the_left_and_front_and_head_are_up():
    marked = np.zeros((6, 8, 10))
    marked[5, 7, 9] = 1  # head, front, right
    for plane, index in (("axial", 5), ("coronal", 7), ("sagittal", 9)):
        picture = plane_slice(marked, plane, index)
        assert picture[-1, 0] == 1  # the last row is drawn on top
        assert picture.sum() == 1
    with pytest.raises(ValueError, match="plane must be one of axial, coronal, sagittal, got 'oblique'"):
        plane_slice(marked, "oblique", 0)


def test_the_slices_shown_are_those_with_the_most_organs():
    assert organ_center(labels())[0] == 4
    assert organ_center(np.zeros((6, 8, 10), np.uint8)) == (3, 4, 5)


def test_every_organ_has_its_colour_and_the_background_none():
    colors = organ_colormap().colors
    assert [to_hex(c) for c in colors[1:]] == [o.color for o in ORGANS]
    assert colors[0] == "#00000000"


def test_a_picture_has_the_head_on_top_the_right_on_the_left_and_square_pixels():
    ct = np.full((6, 8, 10), -160, np.int16)
    ct[5, :, 9] = 240  # head, right
    picture = slice_picture(ct, None, SPACING, "coronal", 3, pixel_mm=0.5)
    assert picture.shape == (60, 30, 3)
    assert (picture[:10, :3] == 255).all()
    assert picture.sum() == 10 * 3 * 3 * 255


@pytest.mark.parametrize(("opacity", "expected"), [(0.0, (127, 127, 127)), (1.0, (225, 41, 45))])
def test_labels_lie_over_the_grey_values(opacity, expected):
    ct = np.full((6, 8, 10), 40, np.int16)
    picture = slice_picture(ct, labels(), SPACING, "axial", 4, pixel_mm=1.0, opacity=opacity)
    y, x = 5 * 2 + 1, int(2.5 * 1.5)
    assert tuple(picture[16 - 1 - y, 15 - 1 - x]) == expected
    assert tuple(picture[0, 0]) == (127, 127, 127)
