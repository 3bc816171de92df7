"""Resampling: values against PyTorch, and every structure kept at its place in the world under both conventions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_lib.ct.resample import (
    place_resampled,
    resample_nearest,
    resample_trilinear,
    resample_volume,
    resampled_shape,
)
from flare_lib.ct.volume import Volume

both_conventions = pytest.mark.parametrize("align_corners", [False, True])
shapes = st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 11))


def _oblique_volume(array_zyx: np.ndarray) -> Volume:
    """Return a volume whose axes are turned against the world's, with three different spacings."""
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.8, 1.1, 2.5)
    affine[:3, 3] = (-31.0, 42.0, 7.5)
    return Volume(array_zyx, (2.5, 1.1, 0.8), affine)


def _world_mm(volume: Volume) -> np.ndarray:
    """Return the world position (Z, Y, X, 3) of every voxel centre."""
    z, y, x = np.indices(volume.shape_zyx)
    return np.stack([x, y, z], axis=-1) @ volume.affine[:3, :3].T + volume.affine[:3, 3]


@both_conventions
@given(shapes, shapes, st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_trilinear_equals_torch(align_corners, shape_in, shape_out, seed):
    array = np.random.default_rng(seed).normal(0, 300, shape_in).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(array)[None, None], size=shape_out, mode="trilinear", align_corners=align_corners
    )[0, 0].numpy()
    resampled = resample_trilinear(array, shape_out, align_corners=align_corners)
    assert resampled.dtype == np.float32
    np.testing.assert_allclose(resampled, expected, rtol=0, atol=2e-3)


@both_conventions
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32, np.float64])
def test_integers_and_doubles_give_the_same_as_float32(align_corners, dtype):
    array = np.random.default_rng(5).integers(0, 255, (5, 6, 8)).astype(dtype)
    np.testing.assert_array_equal(
        resample_trilinear(array, (9, 4, 11), align_corners=align_corners),
        resample_trilinear(array.astype(np.float32), (9, 4, 11), align_corners=align_corners),
    )


@both_conventions
@given(shapes, shapes, st.floats(-3024, 3071, width=32))
@settings(max_examples=30)
def test_constant_in_gives_exactly_that_constant_out(align_corners, shape_in, shape_out, value):
    resampled = resample_trilinear(np.full(shape_in, value, np.float32), shape_out, align_corners=align_corners)
    np.testing.assert_array_equal(resampled, np.full(shape_out, value, np.float32))


@both_conventions
def test_the_same_shape_gives_the_same_values(align_corners):
    array = np.random.default_rng(1).integers(-1000, 1000, (4, 6, 5)).astype(np.int16)
    np.testing.assert_array_equal(resample_trilinear(array, (4, 6, 5), align_corners=align_corners), array)
    np.testing.assert_array_equal(resample_nearest(array, (4, 6, 5)), array)


@both_conventions
@pytest.mark.parametrize("target", [(1.7, 0.6, 0.5), (4.1, 2.3, 1.9), (1.3, 2.4, 0.7)])
def test_a_linear_ramp_in_the_world_stays_that_ramp_in_the_interior(align_corners, target):
    volume = _oblique_volume(np.zeros((10, 12, 15), np.float32))
    slope = (3.0, -2.0, 5.0)
    resampled = resample_volume(
        volume.with_array((_world_mm(volume) @ slope).astype(np.float32)), target, align_corners=align_corners
    )
    expected = _world_mm(resampled) @ slope
    interior = (slice(2, -2),) * 3
    np.testing.assert_allclose(resampled.array_zyx[interior], expected[interior], atol=1e-3)


@both_conventions
@pytest.mark.parametrize("target", [(1.2, 0.5, 0.3), (2.0, 0.7, 0.6)])
def test_a_bright_spot_keeps_its_place_in_the_world(align_corners, target):
    volume = _oblique_volume(np.zeros((9, 14, 11), np.float32))
    volume.array_zyx[4, 9, 3] = 1000.0
    before = _world_mm(volume)[4, 9, 3]
    resampled = resample_volume(volume, target, align_corners=align_corners)
    weights = resampled.array_zyx[..., None]
    np.testing.assert_allclose((weights * _world_mm(resampled)).sum((0, 1, 2)) / weights.sum(), before, atol=0.1)


def test_without_align_corners_the_extent_is_kept():
    volume = _oblique_volume(np.zeros((10, 12, 15), np.int16))
    resampled = resample_volume(volume, (3.0, 2.0, 2.0))
    assert resampled.shape_zyx == (8, 7, 6)
    np.testing.assert_allclose(resampled.size_mm_zyx, volume.size_mm_zyx)
    np.testing.assert_allclose(resampled.spacing_zyx_mm, (25 / 8, 13.2 / 7, 12 / 6))
    for faces in (volume, resampled):  # the corner of the first voxel, half a voxel before its centre
        np.testing.assert_allclose(faces.affine @ (-0.5, -0.5, -0.5, 1), volume.affine @ (-0.5, -0.5, -0.5, 1))


def test_with_align_corners_the_first_and_last_centres_are_kept():
    volume = _oblique_volume(np.zeros((10, 12, 15), np.int16))
    resampled = resample_volume(volume, (3.0, 2.0, 2.0), align_corners=True)
    np.testing.assert_allclose(resampled.spacing_zyx_mm, (2.5 * 9 / 7, 1.1 * 11 / 6, 0.8 * 14 / 5))
    np.testing.assert_allclose(_world_mm(resampled)[0, 0, 0], _world_mm(volume)[0, 0, 0])
    np.testing.assert_allclose(_world_mm(resampled)[-1, -1, -1], _world_mm(volume)[-1, -1, -1])


def test_the_spacing_that_travels_is_the_one_in_the_affine():
    for align_corners in (False, True):
        resampled = resample_volume(_oblique_volume(np.zeros((5, 1, 8))), (4.0, 3.0, 0.5), align_corners=align_corners)
        np.testing.assert_allclose(np.linalg.norm(resampled.affine[:3, :3], axis=0)[::-1], resampled.spacing_zyx_mm)


def test_values_by_hand_show_the_two_conventions():
    row = np.array([0, 10, 20, 30], np.int16).reshape(1, 1, 4)
    np.testing.assert_allclose(resample_trilinear(row, (1, 1, 2)).ravel(), [5, 25])
    np.testing.assert_allclose(resample_trilinear(row, (1, 1, 2), align_corners=True).ravel(), [0, 30])
    np.testing.assert_allclose(resample_trilinear(row, (1, 1, 8)).ravel(), [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30])


def test_a_window_is_applied_before_interpolation_so_that_padding_does_not_bleed():
    row = np.array([-3024, -3024, 100, 100], np.int16).reshape(1, 1, 4)
    resampled = resample_trilinear(row, (1, 1, 8), window_hu=(-325, 325)).ravel()
    np.testing.assert_allclose(resampled, [-325, -325, -325, -218.75, -6.25, 100, 100, 100])
    bright = np.array([-200, 3000, 50], np.float32).reshape(1, 1, 3)
    np.testing.assert_allclose(resample_trilinear(bright, (1, 1, 3), window_hu=(-325, 325)).ravel(), [-200, 325, 50])


def test_views_and_read_only_arrays_are_resampled_as_their_copies():
    array = np.random.default_rng(2).integers(-900, 900, (8, 9, 10)).astype(np.int16)
    view = array[1:7, 8:1:-1, ::3]
    view.flags.writeable = False
    np.testing.assert_array_equal(resample_trilinear(view, (5, 4, 3)), resample_trilinear(view.copy(), (5, 4, 3)))


def test_resampling_leaves_its_input_alone():
    array = np.full((2, 3, 4), 2000, np.int16)
    resample_trilinear(array, (3, 4, 5), window_hu=(-325, 325))
    assert (array == 2000).all()


@given(shapes, shapes, st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_nearest_takes_the_voxel_that_the_new_centre_lies_in(shape_in, shape_out, seed):
    labels = np.random.default_rng(seed).integers(0, 14, shape_in).astype(np.uint8)
    resampled = resample_nearest(labels, shape_out)
    assert resampled.dtype == np.uint8
    expected = labels
    for axis, (n, m) in enumerate(zip(shape_in, shape_out, strict=True)):
        # old voxel k covers [k / n, (k + 1) / n); a centre on a face belongs to the upper voxel
        index = [next(k for k in range(n) if (2 * i + 1) * n < 2 * m * (k + 1)) for i in range(m)]
        expected = np.take(expected, index, axis)
    np.testing.assert_array_equal(resampled, expected)


@pytest.mark.parametrize("shape_out", [(3, 4, 5), (11, 16, 17), (7, 23, 6)])
def test_nearest_equals_torch_nearest_exact(shape_out):
    labels = np.random.default_rng(3).integers(0, 14, (7, 9, 12)).astype(np.uint8)
    expected = torch.nn.functional.interpolate(torch.from_numpy(labels)[None, None], shape_out, mode="nearest-exact")
    np.testing.assert_array_equal(resample_nearest(labels, shape_out), expected[0, 0].numpy())


def test_labels_stay_labels_on_the_same_grid_as_the_ct():
    ct = _oblique_volume(np.zeros((6, 9, 12), np.int16))
    there = resample_volume(ct, (2.0, 1.5, 1.5))
    labels = resample_nearest(np.full(ct.shape_zyx, 13, np.uint8), there.shape_zyx)
    assert labels.dtype == np.uint8
    assert (labels == 13).all()
    placed = place_resampled(ct, labels)
    np.testing.assert_array_equal(placed.affine, there.affine)
    assert placed.file_grid is None


def test_the_shape_is_rounded_and_never_0():
    assert resampled_shape((512, 512, 900), (0.8, 0.75, 1.0), (3.0, 2.0, 2.0)) == (137, 192, 450)
    assert resampled_shape((3, 1, 10), (1.0, 1.0, 0.1), (2.0, 10.0, 0.3)) == (2, 1, 3)


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 3), (2, 3, -1)])
def test_impossible_shapes_are_refused(shape):
    for resample in (resample_trilinear, resample_nearest):
        with pytest.raises(ValueError, match="3 positive integers"):
            resample(np.zeros((2, 3, 4), np.uint8), shape)


def test_impossible_arrays_spacings_and_windows_are_refused():
    volume = _oblique_volume(np.zeros((2, 3, 4), np.int16))
    with pytest.raises(ValueError, match=r"3 axes and at least one voxel, got shape \(2, 3\)"):
        resample_trilinear(np.zeros((2, 3)), (1, 2, 3))
    with pytest.raises(ValueError, match=r"3 positive numbers, got \(0.0, 1.0, 1.0\)"):
        resample_volume(volume, (0.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="low < high"):
        resample_volume(volume, (1.0, 1.0, 1.0), window_hu=(3.0, 3.0))
