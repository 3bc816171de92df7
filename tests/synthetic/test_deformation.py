"""Smooth fields and deformations: B-splines sum to one, and nothing in gives nothing out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torso import torso

from flare_lib.synthetic.deformation import bspline_weights, deform, smooth_field
from flare_lib.synthetic.structures import Structures


def still(structures, shape_zyx, spacing_zyx_mm, **changes):
    """Deform by nothing at all, unless told otherwise."""
    settings = {"max_rotation_rad": 0.0, "scale_range": (1.0, 1.0), "anisotropy": 0.0, "displacements_mm": ()}
    return deform(structures, shape_zyx, spacing_zyx_mm, np.random.default_rng(0), **(settings | changes))


@given(st.integers(1, 40), st.integers(1, 9))
def test_bspline_weights_sum_to_one_and_reproduce_a_ramp(n_points, n_intervals):
    weights = bspline_weights(n_points, n_intervals)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    ramp = np.arange(-1, n_intervals + 2)  # control point k sits at k - 1
    expected = (np.arange(n_points) + 0.5) / n_points * n_intervals
    np.testing.assert_allclose(weights @ ramp, expected, atol=1e-5)


def test_a_smooth_field_has_mean_0_sd_1_and_neighbours_that_agree():
    fields = np.stack([smooth_field(np.random.default_rng(k), (24, 30, 36), (3, 2, 1.5), 9.0) for k in range(20)])
    assert abs(fields.mean()) < 0.05
    assert abs(fields.std() - 1) < 0.05
    assert np.corrcoef(fields[:, 1:].ravel(), fields[:, :-1].ravel())[0, 1] > 0.9


def test_no_deformation_gives_the_same_map():
    before = torso()
    after = still(before, before.array_zyx.shape, before.spacing_zyx_mm)
    np.testing.assert_array_equal(after.array_zyx, before.array_zyx)


def test_a_finer_grid_shows_the_same_person():
    before = torso()
    after = still(before, (40, 80, 180), (2.5, 2.0, 1.0))
    np.testing.assert_array_equal(after.array_zyx[::2, ::2, 1::3], before.array_zyx)


def test_the_centre_shows_the_point_asked_for():
    before = torso()
    after = still(before, (3, 5, 7), (5.0, 4.0, 3.0), center_zyx_mm=(10.5 * 5, 15.5 * 4, 12.5 * 3))
    np.testing.assert_array_equal(after.array_zyx, before.array_zyx[9:12, 13:18, 9:16])


def test_a_scale_of_two_doubles_the_extent_of_an_organ():
    before = torso()
    after = still(before, (40, 80, 120), (5.0, 4.0, 3.0), scale_range=(2.0, 2.0))
    assert (after.array_zyx == 1).sum() == 8 * (before.array_zyx == 1).sum()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_however_wild_the_displacements_nothing_folds(axis):
    """A map whose ids count the voxels along an axis: seen through a deformation they may stand still, never turn."""
    n = 60
    ramp = np.arange(n, dtype=np.uint8).reshape([-1 if a == axis else 1 for a in range(3)])
    names = {k: "air" if k == 0 else f"layer_{k}" for k in range(n)}
    shape = [n if a == axis else 20 + a for a in range(3)]
    layers = Structures(np.broadcast_to(ramp, shape).copy(), names, (2.0, 2.0, 2.0))
    inner = [30 if a == axis else 4 for a in range(3)]  # seen from within, far from what is outside
    for seed in range(6):
        rng = np.random.default_rng(seed)
        still_but = {"max_rotation_rad": 0.0, "scale_range": (1.0, 1.0), "anisotropy": 0.0}
        seen = deform(layers, inner, (2.0, 2.0, 2.0), rng, displacements_mm=((20.0, 1000.0),), **still_but)
        steps = np.diff(seen.array_zyx.astype(int), axis=axis)
        assert steps.min() >= 0
        assert steps.max() > 1  # and something was displaced


@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_an_organ_grows_and_shrinks_about_its_middle_by_the_factor_and_what_is_far_stays(factor):
    array = np.zeros((40, 50, 60), np.uint8)
    z, y, x = np.indices(array.shape) + 0.5
    array[(z * 2 - 40) ** 2 + (y * 1.5 - 36) ** 2 + (x - 24) ** 2 < 8**2] = 1
    array[:, :, 56:] = 2
    before = Structures(array, {0: "air", 1: "spleen", 2: "fat"}, (2.0, 1.5, 1.0))
    growths = np.array([[40.0, 36.0, 24.0, 30.0, factor]])  # reach far beyond the organ: all of it grows alike
    after = still(before, array.shape, before.spacing_zyx_mm, growths=growths)
    ratio = (after.array_zyx == 1).sum() / (array == 1).sum()
    assert factor**3 * 0.85 < ratio < factor**3 * 1.15
    near = still(before, array.shape, before.spacing_zyx_mm, growths=growths * [1, 1, 1, 0.2, 1])
    np.testing.assert_array_equal(near.array_zyx == 2, array == 2)


def test_outside_of_the_old_grid_is_air():
    after = still(torso(), (3, 4, 5), (5.0, 4.0, 3.0), center_zyx_mm=(-500.0, 0.0, 0.0))
    assert (after.array_zyx == 0).all()


def test_a_name_for_outside_that_nobody_has_is_refused():
    with pytest.raises(ValueError, match="outside must be one of the structures' names, got 'void'"):
        still(torso(), (2, 2, 2), (1.0, 1.0, 1.0), outside="void")


def test_the_same_generator_gives_the_same_person_and_another_one_another():
    before = torso()
    one, same, other = (
        deform(before, (20, 40, 60), (5.0, 4.0, 3.0), np.random.default_rng(seed)).array_zyx for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
