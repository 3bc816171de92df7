"""Axes other than the canonical ones: there and back, and those of files in every orientation."""

from itertools import permutations, product

import numpy as np
import pytest

from flare_lib.ct.axes import Axes
from flare_lib.ct.volume import FileGrid, place_in_world, to_file_axes

ARRAY = np.arange(2 * 3 * 4).reshape(2, 3, 4)
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def grid_of(order, ways):
    """A file whose axis n runs along the world's axis order[n] in the direction ways[n]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, way) in enumerate(zip(order, ways, strict=True)):
        affine[world, axis] = way * (1.5 + axis)
    return FileGrid((5, 6, 7), affine)


@pytest.mark.parametrize(("order", "ways"), ORIENTATIONS)
def test_a_files_axes_are_those_it_stores_slowest_first(order, ways):
    grid = grid_of(order, ways)
    stored_xyz = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    volume = place_in_world(stored_xyz, grid, "a.nii")
    axes = Axes.of_file(grid)
    np.testing.assert_array_equal(axes.turn(volume.array_zyx), stored_xyz.transpose(2, 1, 0))
    np.testing.assert_array_equal(axes.turn(volume.array_zyx), to_file_axes(volume.array_zyx, grid).T)
    np.testing.assert_array_equal(axes.turn_back(stored_xyz.transpose(2, 1, 0)), volume.array_zyx)
    assert axes.turn_spacing(volume.spacing_zyx_mm) == (3.5, 2.5, 1.5)
    assert axes.turn_size_back((3.5, 2.5, 1.5)) == volume.spacing_zyx_mm


def test_the_default_is_canonical():
    np.testing.assert_array_equal(Axes().turn(ARRAY), ARRAY)
    assert Axes().turn_spacing((3.0, 2.0, 1.0)) == (3.0, 2.0, 1.0)


def test_axes_can_be_put_in_another_order():
    axes = Axes((2, 0, 1), (True, False, False)).reordered((1, 2, 0))
    assert axes == Axes((0, 1, 2), (False, False, True))
    np.testing.assert_array_equal(axes.turn(ARRAY), ARRAY[:, :, ::-1])
    np.testing.assert_array_equal(axes.turn_back(axes.turn(ARRAY)), ARRAY)


def test_an_order_holds_every_axis():
    with pytest.raises(ValueError, match=r"must hold 0, 1 and 2, got \(0, 0, 2\)"):
        Axes((0, 0, 2))
