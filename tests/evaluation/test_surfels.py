"""Surfel areas: those that geometry gives, and for all codes their symmetries."""

import itertools

import numpy as np
import pytest

from flare_lib.evaluation.surfels import surfel_areas

SPACING = (2.5, 1.5, 0.8)  # z, y, x


def code(*corners):
    """The code of a cell with these corners (z, y, x) inside."""
    return sum(1 << (7 - (4 * z + 2 * y + x)) for z, y, x in corners)


def test_a_plane_across_an_axis_has_the_area_of_a_voxels_face():
    areas = surfel_areas(SPACING)
    plane = [(0, y, x) for y, x in itertools.product((0, 1), repeat=2)]
    assert areas[code(*plane)] == pytest.approx(1.5 * 0.8)
    assert areas[code(*((y, z, x) for z, y, x in plane))] == pytest.approx(2.5 * 0.8)
    assert areas[code(*((x, y, z) for z, y, x in plane))] == pytest.approx(2.5 * 1.5)


def test_one_corner_is_cut_off_by_a_triangle():
    a, b, c = np.array(SPACING) / 2
    triangle = np.linalg.norm(np.cross([a, -b, 0], [a, 0, -c])) / 2
    assert surfel_areas(SPACING)[code((1, 0, 1))] == pytest.approx(triangle)


def test_an_edge_is_cut_off_by_a_sloping_rectangle():
    areas = surfel_areas(SPACING)
    assert areas[code((0, 0, 0), (0, 0, 1))] == pytest.approx(0.8 * np.hypot(2.5, 1.5) / 2)
    assert areas[code((0, 1, 0), (1, 1, 0))] == pytest.approx(2.5 * np.hypot(1.5, 0.8) / 2)


def test_all_or_nothing_has_no_surface_and_all_else_has_some():
    areas = surfel_areas(SPACING)
    assert areas.shape == (256,)
    assert areas[[0, 255]].tolist() == [0, 0]
    assert (areas[1:255] > 0).all()


def test_inside_and_outside_may_be_exchanged():
    areas = surfel_areas(SPACING)
    np.testing.assert_allclose(areas, areas[::-1])  # 255 - code


def test_areas_do_not_depend_on_how_the_axes_run():
    areas = surfel_areas(SPACING)
    corners = list(itertools.product((0, 1), repeat=3))
    for flips in corners:
        flipped = [
            code(*(tuple(np.abs(np.subtract(flips, p))) for k, p in enumerate(corners) if c >> (7 - k) & 1))
            for c in range(256)
        ]
        np.testing.assert_allclose(areas, areas[flipped])


def test_areas_grow_with_the_square_of_the_voxel():
    np.testing.assert_allclose(surfel_areas([3 * s for s in SPACING]), 9 * surfel_areas(SPACING))
