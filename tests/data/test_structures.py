"""Structures: names, deformation, B-splines, and the body completed around a label map."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_lib.data.structures import (
    ORGAN_STRUCTURES,
    UNLABELLED,
    Structures,
    bspline_weights,
    complete_body,
    deform,
    organ_labels,
    smooth_field,
)

NAMES = {0: "air", 1: "liver", 2: "spleen", 3: "rib_left_5", 4: "rib_right_5"}


def torso(shape_zyx=(20, 40, 60), spacing_zyx_mm=(5.0, 4.0, 3.0)):
    array = np.zeros(shape_zyx, np.uint8)
    array[4:16, 12:30, 34:52] = 1
    array[6:14, 10:22, 8:16] = 2
    array[5:9, 8:32, 54:56] = 4
    return Structures(array, NAMES, spacing_zyx_mm)


def still(structures, shape_zyx, spacing_zyx_mm, **changes):
    """Deform by nothing at all, unless told otherwise."""
    settings = {"max_rotation_rad": 0.0, "scale_range": (1.0, 1.0), "anisotropy": 0.0, "displacements_mm": ()}
    return deform(structures, shape_zyx, spacing_zyx_mm, np.random.default_rng(0), **(settings | changes))


def test_organ_labels_follow_the_order_of_flare():
    names = {10 + i: name for i, name in enumerate(ORGAN_STRUCTURES)} | {99: "small_bowel"}
    array = np.array([[[10, 14, 22, 99]]], np.uint8)  # liver, aorta, left kidney, no organ of the 13
    np.testing.assert_array_equal(organ_labels(Structures(array, names, (1.0, 2.0, 3.0))), [[[1, 5, 13, 0]]])


def test_an_id_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"every id must have a name, got none for \[7\]"):
        Structures(np.full((1, 2, 3), 7, np.uint8), NAMES, (1.0, 1.0, 1.0))


def test_an_array_that_is_not_uint8_or_not_3d_is_refused():
    with pytest.raises(ValueError, match="uint8 with 3 axes, got int16"):
        Structures(np.zeros((1, 2, 3), np.int16), NAMES, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"got uint8 of shape \(2, 3\)"):
        Structures(np.zeros((2, 3), np.uint8), NAMES, (1.0, 1.0, 1.0))


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


def test_a_completed_body_has_its_layers_in_order_and_keeps_its_organs():
    before = torso()
    body = complete_body(before, np.random.default_rng(0))
    wide = [(b - a) // 2 for a, b in zip(before.array_zyx.shape, body.array_zyx.shape, strict=True)]
    inner = tuple(slice(w, w + n) for w, n in zip(wide, before.array_zyx.shape, strict=True))
    labelled = before.array_zyx > 0
    np.testing.assert_array_equal(body.array_zyx[inner][labelled], before.array_zyx[labelled])
    assert wide[0] == 0
    assert all(body.mask(name).any() for name in ("muscle", "fat", "skin", "air", UNLABELLED))
    # walking out of the liver to the right, sideways: the layers come in their order, each in one piece
    row = [body.names[int(i)] for i in body.array_zyx[12, wide[1] + 20, wide[2] + 40 :]]
    layers = [name for k, name in enumerate(row) if k == 0 or row[k - 1] != name]
    order = ["liver", UNLABELLED, "muscle", "fat", "skin", "air"]
    assert [order.index(name) for name in layers] == sorted(order.index(name) for name in layers)
    assert layers[-1] == "air"


def test_a_body_around_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one structure"):
        complete_body(Structures(np.zeros((4, 5, 6), np.uint8), NAMES, (1.0, 1.0, 1.0)), np.random.default_rng(0))
