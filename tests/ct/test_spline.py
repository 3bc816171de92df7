"""Splines: the numbers of scikit-image, and thick slices as nnU-Net takes them."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from skimage.transform import resize

from flare_lib.ct.spline import resample_spline, thick_axis

HU = (np.random.RandomState(0).normal(size=(5, 9, 7)) * 200).astype(np.int16)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(7, 4, 11), (5, 20, 7), (1, 9, 3)])
def test_values_are_those_of_scikit_image(order, shape):
    expected = resize(HU.astype(float), shape, order, mode="edge", anti_aliasing=False)
    resampled = resample_spline(HU, shape, order=order)
    assert resampled.dtype == np.float32
    np.testing.assert_allclose(resampled, expected, atol=5e-4)


def test_values_are_clipped_first_and_stay_in_range():
    resampled = resample_spline(HU, (11, 17, 13), window_hu=(-100.0, 50.0))
    expected = resize(np.clip(HU.astype(float), -100, 50), (11, 17, 13), 3, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(resampled, expected, atol=5e-4)
    assert (resampled.min(), resampled.max()) == (-100, 50)


@pytest.mark.parametrize("thick", [0, 1, 2])
def test_along_a_thick_axis_the_nearest_slice_is_taken(thick):
    shape = (8, 4, 10)
    slices = np.moveaxis(HU, thick, 0).astype(float)
    in_plane = tuple(n for axis, n in enumerate(shape) if axis != thick)
    planes = np.stack([resize(plane, in_plane, 3, mode="edge", anti_aliasing=False) for plane in slices])
    at = (np.arange(shape[thick]) + 0.5) * len(slices) / shape[thick] - 0.5
    places = np.meshgrid(at, *map(np.arange, in_plane), indexing="ij")
    expected = np.moveaxis(map_coordinates(planes, places, order=0, mode="nearest"), 0, thick)
    np.testing.assert_allclose(resample_spline(HU, shape, thick=thick), expected, atol=5e-4)


def test_the_same_shape_gives_the_same_values():
    np.testing.assert_array_equal(resample_spline(HU, HU.shape), HU)
    np.testing.assert_array_equal(resample_spline(HU[:, ::-1], HU.shape), HU[:, ::-1])


def test_a_single_slice_is_repeated():
    np.testing.assert_array_equal(resample_spline(HU[:1], (3, 9, 7)), np.repeat(HU[:1], 3, axis=0))


@pytest.mark.parametrize(
    ("spacing", "other", "axis"),
    [
        ((5.0, 0.8, 0.9), (2.0, 1.5, 1.5), 0),
        ((2.0, 1.5, 1.5), (1.0, 0.9, 4.0), 2),
        ((3.0, 1.0, 1.0), (2.0, 2.0, 2.0), None),  # 3 times is not more than 3 times
        ((0.2, 1.2, 1.2), (9.0, 1.0, 1.0), None),  # two axes share the largest
    ],
)
def test_slices_are_thick_from_three_times_the_pixels_on(spacing, other, axis):
    assert thick_axis(spacing, other) == axis


def test_what_is_no_volume_or_order_is_refused():
    with pytest.raises(ValueError, match=r"3 axes and at least one voxel, got \(5, 9, 7\) and \(0, 2, 2\)"):
        resample_spline(HU, (0, 2, 2))
    with pytest.raises(ValueError, match="order must be 0 to 5, got 7"):
        resample_spline(HU, (2, 2, 2), order=7)
