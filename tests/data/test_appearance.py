"""Random appearance: grey values change, borders stay, and what has no contrast gets none."""

import numpy as np
import pytest

from flare_lib.data.appearance import _slice_thickness, random_convolutions, randomize_appearance


def steps():
    """Air, fat and three organs as blocks of 12 voxels along x, normalised: (Z, Y, X) float32."""
    image = np.repeat(np.float32([-1.5, -0.4, 0.9, 1.1, 1.4]), 12)
    return np.broadcast_to(image, (5, 7, 60)).copy()


@pytest.mark.parametrize("seed", range(12))
def test_convolutions_keep_mean_and_sd_and_borders_and_leave_air_dark(seed):
    before = steps()
    after = random_convolutions(before, np.random.default_rng(seed), share=0.7)
    assert after.dtype == np.float32
    assert after.mean() == pytest.approx(before.mean(), abs=1e-4)
    assert after.std() == pytest.approx(before.std(), rel=1e-4)
    in_blocks = after.reshape(5, 7, 5, 12)[..., 4:8]  # farther from a border than four kernels of 3 can see
    assert np.ptp(in_blocks, axis=(0, 1, 3)).max() < 1e-5
    assert np.corrcoef(after.ravel(), before.ravel())[0, 1] > 0
    np.testing.assert_array_equal(before, steps())


def test_tissues_change_against_each_other():
    ratios = []
    for seed in range(20):
        after = random_convolutions(steps(), np.random.default_rng(seed), share=1.0)[2, 3]
        ratios.append(
            (after[30] - after[18]) / (after[18] - after[6])
        )  # organ less fat, over fat less air: 1.18 before
    assert np.ptp(ratios) > 0.5


def test_an_image_whose_contrast_every_draw_loses_stays_as_it_is(monkeypatch):
    faint = np.random.default_rng(0).normal(0, 1e-11, (3, 5, 7)).astype(np.float32)
    made = iter([np.zeros_like(faint)] * 10)
    monkeypatch.setattr("flare_lib.data.appearance._convolved", lambda image, rng: next(made))
    np.testing.assert_array_equal(random_convolutions(faint, np.random.default_rng(1), share=0.7), faint)
    assert list(made) == []


def test_convolutions_that_leave_hardly_any_contrast_are_drawn_again(monkeypatch):
    flat, lone = np.zeros((2, 5, 7, 60), np.float32)
    lone[0, 0, 0] = 1.0
    draws = iter([flat, lone, -steps()])  # the last one is turned back
    monkeypatch.setattr("flare_lib.data.appearance._convolved", lambda _image, _rng: next(draws))
    np.testing.assert_allclose(random_convolutions(steps(), np.random.default_rng(0), share=1.0), steps(), atol=1e-5)


def test_no_share_and_no_contrast_change_nothing():
    flat = np.full((5, 6, 7), 2.5, np.float32)
    np.testing.assert_array_equal(random_convolutions(steps(), np.random.default_rng(0), share=0.0), steps())
    np.testing.assert_array_equal(random_convolutions(flat, np.random.default_rng(0), share=0.5), flat)


@pytest.mark.parametrize("n_slices", [2, 9, 10, 11, 12])
def test_thicker_slices_stay_where_they_are(n_slices):
    ramp = np.broadcast_to(np.arange(n_slices, dtype=np.float32)[:, None, None], (n_slices, 3, 4)).copy()
    seen = set()
    for seed in range(12):
        after = _slice_thickness(ramp, np.random.default_rng(seed))
        assert after.shape == ramp.shape
        seen.add(after[0, 0, 0])  # the mean of the first two or three slices
        np.testing.assert_allclose(after[2:-3], ramp[2:-3], atol=1e-4)
        assert np.abs(after - ramp).max() <= 1 + 1e-4
    assert seen <= {0.0, 0.5, 1.0}


def test_the_same_state_gives_the_same_patch_and_another_one_another():
    one, again, other = (randomize_appearance(steps(), np.random.default_rng(seed)) for seed in (8, 8, 9))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01


def test_without_contrast_only_noise_and_level_appear():
    flat = np.full((6, 7, 8), 1.0, np.float32)
    many = [randomize_appearance(flat, np.random.default_rng(seed)) for seed in range(40)]
    constant = [np.ptp(image) < 1e-5 for image in many]
    assert 20 <= sum(constant) <= 36  # three quarters have no noise
    assert max(np.abs(image - 1).max() for image in many) < 1.0


def test_every_seed_gives_finite_numbers_of_the_same_shape_even_for_a_single_slice():
    for seed, shape in enumerate([(1, 5, 7), (2, 3, 4), (3, 1, 1), (9, 8, 11)] * 8):
        image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        after = randomize_appearance(image, np.random.default_rng([seed, 1]))
        assert after.shape == shape
        assert np.isfinite(after).all()


@pytest.mark.parametrize(
    ("shape", "strength", "message"),
    [((4, 5), 1.0, r"\(Z, Y, X\)"), ((0, 5, 6), 1.0, r"\(0, 5, 6\)"), ((2, 3, 4), 1.5, "from 0 to 1, got 1.5")],
)
def test_what_is_no_patch_is_refused(shape, strength, message):
    with pytest.raises(ValueError, match=message):
        randomize_appearance(np.zeros(shape, np.float32), np.random.default_rng(0), strength=strength)
