"""Surfaces: the right organ in front, on the right side, brighter where it faces the light."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from flare_lib.ct.labels import ORGANS, organ
from flare_lib.display.surfaces import OrganSurfaces

SPACING = (4.0, 2.0, 3.0)
LIVER, SPLEEN, AORTA = (organ(name).id for name in ("liver", "spleen", "aorta"))


def abdomen():
    """The liver on the patient's right (high x) and high up, the spleen on the left, the aorta behind the liver."""
    labels = np.zeros((20, 40, 30), np.uint8)
    labels[10:18, 20:32, 18:27] = LIVER
    labels[2:8, 16:28, 3:12] = SPLEEN
    labels[2:18, 4:10, 20:24] = AORTA
    return labels


def columns_of(picture, label):
    """Where an organ's colour is, whatever its shade: rows and columns."""
    color = np.array(to_rgb(ORGANS[label - 1].color))
    flat = picture.astype(float) / np.maximum(picture.max(axis=-1, keepdims=True), 1)
    there = np.abs(flat - color / color.max()).max(axis=-1) < 0.03
    return np.argwhere(there & (picture.min(axis=-1) < 250))


def test_from_the_front_the_patients_right_is_on_the_left_and_the_head_is_up():
    picture = OrganSurfaces(abdomen(), SPACING).picture()
    liver, spleen = columns_of(picture, LIVER), columns_of(picture, SPLEEN)
    assert liver[:, 1].max() < spleen[:, 1].min()
    assert liver[:, 0].max() <= spleen[:, 0].min()
    assert (picture[0] == 255).all()


def test_sizes_are_true_to_the_spacing():
    picture = OrganSurfaces(abdomen(), SPACING, pixel_mm=1.0).picture()
    liver = columns_of(picture, LIVER)
    rows, columns = np.ptp(liver, axis=0) + 1
    assert rows == pytest.approx(8 * 4, abs=1)
    assert columns == pytest.approx(9 * 3, abs=1)


def test_what_is_in_front_hides_what_is_behind():
    surfaces = OrganSurfaces(abdomen(), SPACING)
    from_front, from_behind = (len(columns_of(surfaces.picture(a), AORTA)) for a in (0, 180))
    assert 0 < from_front < from_behind / 1.5


def test_from_behind_the_sides_change_places_and_from_the_left_the_spleen_is_in_front():
    surfaces = OrganSurfaces(abdomen(), SPACING)
    behind = surfaces.picture(180)
    assert columns_of(behind, LIVER)[:, 1].mean() > columns_of(behind, SPLEEN)[:, 1].mean()
    left = surfaces.picture(90)  # who stands at the patient's left sees the front on the left of the picture
    assert columns_of(left, LIVER)[:, 1].mean() < columns_of(left, AORTA)[:, 1].mean()
    beside = abdomen()
    beside[2:8, 16:28, 14:18] = AORTA  # as large as the spleen, to the right of it
    seen = {a: len(columns_of(OrganSurfaces(beside, SPACING).picture(a), SPLEEN)) for a in (90, 270)}
    assert seen[90] == len(columns_of(left, SPLEEN)) > 0
    assert seen[270] == 0


def test_a_surface_towards_the_light_is_brighter():
    labels = np.zeros((24, 24, 24), np.uint8)
    z, y, x = np.ogrid[-12:12, -12:12, -12:12]
    labels[z * z + y * y + x * x < 90] = LIVER
    picture = OrganSurfaces(labels, (2.0, 2.0, 2.0)).picture().astype(int).sum(axis=-1)
    where = np.argwhere(picture < 765)
    top, bottom = where[:, 0].min() + 3, where[:, 0].max() - 3
    middle = int(where[:, 1].mean())
    assert picture[top, middle] > 1.2 * picture[bottom, middle]


def test_no_organ_gives_a_white_picture_and_no_label_map_an_error():
    assert (OrganSurfaces(np.zeros((5, 6, 7), np.uint8), SPACING).picture(30) == 255).all()
    with pytest.raises(ValueError, match=r"\(Z, Y, X\) of 0 to 13"):
        OrganSurfaces(np.full((5, 6, 7), 14, np.uint8), SPACING)
    with pytest.raises(ValueError, match=r"got \(6, 7\)"):
        OrganSurfaces(np.zeros((6, 7), np.uint8), SPACING)
