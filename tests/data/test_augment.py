"""Augmentation: places move together, grey values keep what they should, and left stays left."""

import numpy as np
import pytest
from scipy import ndimage

from flare_lib.ct.labels import IGNORED
from flare_lib.data.augment import Augmentation, augment, draw_augmentation, room_for


def patch():
    """A smooth picture in air (-2), and a label map with a block off the middle."""
    noise = np.random.default_rng(0).normal(size=(24, 30, 36))
    image = ndimage.gaussian_filter(noise, 2.0).astype(np.float32) * 10
    image[:3] = image[-3:] = -2
    labels = np.zeros(image.shape, np.uint8)
    labels[8:16, 6:18, 20:31] = 3
    return image, labels


def ball():
    z, y, x = np.ogrid[:40, :44, :48]
    inside = ((z - 19.5) ** 2 + (y - 21.5) ** 2 + (x - 23.5) ** 2) < 9**2
    return inside.astype(np.float32), inside.astype(np.uint8)


def test_ignored_voxels_move_as_labels_do_and_what_comes_in_is_background():
    image, labels = patch()
    what = Augmentation(rotation_rad=(0.3, -0.1, 0.2), scale=0.7)
    as_organ = augment(image, labels, what)[1]
    ignored = augment(image, np.where(labels == 3, IGNORED, labels).astype(np.uint8), what)[1]
    assert (ignored == IGNORED).sum() > 100
    np.testing.assert_array_equal(ignored, np.where(as_organ == 3, IGNORED, 0))


def test_nothing_asked_nothing_done_and_the_inputs_are_kept():
    image, labels = patch()
    image_out, labels_out = augment(image, labels, Augmentation())
    np.testing.assert_array_equal(image_out, image)
    np.testing.assert_array_equal(labels_out, labels)
    assert not np.shares_memory(labels_out, labels)


@pytest.mark.parametrize("scale", [0.6, 1.3, 1.8])
def test_scale_is_how_much_larger_the_body_is_shown(scale):
    _, labels = augment(*ball(), Augmentation(scale=scale))
    assert labels.sum() / ball()[1].sum() == pytest.approx(scale**3, rel=0.05)


def test_a_quarter_turn_about_z_turns_y_into_x_and_labels_with_the_image():
    image, labels = ball()
    labels[:, 21:23, 24:30] = 2
    image[labels == 2] = 5
    turned, moved = augment(image, labels, Augmentation(rotation_rad=(np.pi / 2, 0.0, 0.0)))
    center = ndimage.center_of_mass(moved == 2)
    assert abs(center[2] - 23.5) < 0.6
    assert abs(center[1] - 21.5) == pytest.approx(26.5 - 23.5, abs=0.6)
    assert turned[moved == 2].mean() > 4


@pytest.mark.parametrize(
    "what",
    [
        Augmentation(scale=0.6),
        Augmentation(rotation_rad=(0.5, 0.0, 0.0)),
        Augmentation(rotation_rad=(-0.4, 0.3, 0.5), scale=0.7),
    ],
)
def test_a_region_with_room_leaves_no_air_in_the_middle(what):
    shape = (10, 16, 12)
    region = np.full(room_for(what, shape), 7.0, np.float32)
    region[0, 0, 0] = -2  # the lowest value, which is what comes in from outside
    image, _ = augment(region, np.zeros(region.shape, np.uint8), what, shape_zyx=shape)
    assert image.shape == shape
    inside = image[1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(inside, 7.0, atol=1e-4)


def test_the_middle_part_is_that_of_the_whole():
    image, labels = patch()
    for what in (Augmentation(), Augmentation(scale=1.3, rotation_rad=(0.2, 0.1, 0.0))):
        whole, all_labels = augment(image, labels, what)
        part, its_labels = augment(image, labels, what, shape_zyx=(12, 20, 16))
        np.testing.assert_allclose(part, whole[6:18, 5:25, 10:26], atol=1e-4)
        np.testing.assert_array_equal(its_labels, all_labels[6:18, 5:25, 10:26])
    assert room_for(Augmentation(), (12, 20, 16)) == (12, 20, 16)
    with pytest.raises(ValueError, match="must not be larger than the image's"):
        augment(image, labels, Augmentation(), shape_zyx=(25, 30, 36))


def test_image_and_labels_move_alike():
    _, labels = patch()
    both = Augmentation(rotation_rad=(0.3, -0.2, 0.4), scale=1.2)
    turned, moved = augment(labels.astype(np.float32), labels, both)
    inside = ndimage.binary_erosion(moved == 3, iterations=1)
    np.testing.assert_allclose(turned[inside], 3, atol=1e-5)
    assert turned[~ndimage.binary_dilation(moved == 3, iterations=3)].max() < 1e-5
    assert set(np.unique(moved)) == {0, 3}


def test_what_comes_in_from_outside_is_air_without_a_label():
    image, labels = np.full((12, 14, 16), 4.0, np.float32), np.full((12, 14, 16), 2, np.uint8)
    image[0, 0, 0] = -2
    turned, moved = augment(image, labels, Augmentation(scale=0.6))
    corner = (slice(0, 1),) * 3
    assert turned[corner] == pytest.approx(-2)
    assert moved[corner] == 0
    assert turned[6, 7, 8] == pytest.approx(4)
    assert moved[6, 7, 8] == 2


def test_blur_is_a_gaussian_of_that_sd():
    image, labels = patch()
    blurred, same = augment(image, labels, Augmentation(blur_voxels=1.0))
    inner = (slice(6, -6),) * 3
    expected = ndimage.gaussian_filter(image, 1.0, mode="constant")
    np.testing.assert_allclose(blurred[inner], expected[inner], atol=0.05 * image.std())
    np.testing.assert_array_equal(same, labels)


def test_contrast_keeps_mean_and_range_and_changes_the_spread():
    image, labels = patch()
    for contrast in (0.75, 1.25):
        changed, _ = augment(image, labels, Augmentation(contrast=contrast))
        assert changed.mean() == pytest.approx(image.mean(), abs=0.1 * float(image.std()))  # the range clips a little
        assert image.min() - 1e-5 <= changed.min() <= changed.max() <= image.max() + 1e-5
        assert changed.std() / image.std() == pytest.approx(contrast, rel=0.15)


def test_gamma_keeps_order_mean_and_sd():
    image, labels = patch()
    changed, _ = augment(image, labels, Augmentation(gamma=0.7))
    order = np.argsort(image, axis=None)
    assert (np.diff(changed.ravel()[order]) >= -1e-4).all()
    assert changed.mean() == pytest.approx(image.mean(), abs=1e-3)
    assert changed.std() == pytest.approx(image.std(), rel=1e-3)
    assert np.median(changed - image) != pytest.approx(0, abs=1e-3)


def test_left_stays_left_whatever_is_drawn():
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[8:12, 10:14, 4:9] = 1  # left
    labels[8:12, 10:14, 19:24] = 2  # right
    for seed in range(40):
        drawn = draw_augmentation(np.random.default_rng(seed), probability=1.0)
        _, moved = augment(labels.astype(np.float32), labels, drawn)
        left, right = (ndimage.center_of_mass(moved == k)[2] for k in (1, 2))
        assert left < right, seed


def test_draws_are_seeded_lie_in_their_ranges_and_are_mostly_nothing():
    drawn = [draw_augmentation(np.random.default_rng(seed)) for seed in range(600)]
    assert drawn[5] == draw_augmentation(np.random.default_rng(5))
    scales = [d.scale for d in drawn]
    assert 0.6 <= min(scales) < 0.7 < 1.7 < max(scales) <= 1.8
    assert np.mean([s == 1 for s in scales]) == pytest.approx(0.8, abs=0.06)
    assert max(abs(angle) for d in drawn for angle in d.rotation_rad) <= 0.52


def test_what_cannot_be_is_refused():
    image, labels = patch()
    with pytest.raises(ValueError, match=r"one shape \(Z, Y, X\), got \(24, 30, 36\) and \(23, 30, 36\)"):
        augment(image, labels[1:], Augmentation())
    with pytest.raises(ValueError, match=r"must be above 0, got .*gamma=0"):
        augment(image, labels, Augmentation(gamma=0))
