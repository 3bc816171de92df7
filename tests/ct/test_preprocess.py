"""From a CT to a net's input: foreground, window, spacing, normalisation."""

import json

import numpy as np
import pytest

from flare_lib.ct.moments import Moments
from flare_lib.ct.preprocess import COARSE, FINE, Preprocessing, clip_hu, find_foreground, normalize
from flare_lib.ct.resample import resample_volume
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Volume


def _ct(seed: int = 0) -> Volume:
    """Return a CT of noise around soft tissue, with padding of -3024 HU in the first columns."""
    array = np.random.default_rng(seed).normal(40, 120, (7, 10, 13)).astype(np.int16)
    array[:, :, :3] = -3024
    return Volume.from_array(array, (2.5, 1.1, 0.8))


def test_the_foreground_is_the_box_of_all_voxels_from_325_below_0_up():
    array = np.full((5, 6, 7), -1000, np.int16)
    array[1, 2, 3], array[3, 4, 5], array[4, 5, 6] = -325, 80, -326
    assert find_foreground(array) == Box((1, 2, 3), (4, 5, 6))
    assert find_foreground(array, threshold_hu=0) == Box((3, 4, 5), (4, 5, 6))


def test_the_foreground_of_air_alone_is_the_whole_volume():
    assert find_foreground(np.full((2, 3, 4), -1000, np.int16)) == Box((0, 0, 0), (2, 3, 4))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8"])
def test_nan_belongs_to_no_foreground_and_no_background(dtype):
    array = np.full((2, 3, 4), -1000, dtype)
    array[1, 0, 2:] = np.nan
    with pytest.raises(ValueError, match="must be a CT without NaN, got 2 voxels"):
        find_foreground(array)


def test_clipping_keeps_integers_and_leaves_the_input_alone():
    array = np.array([-3024, -325, 7, 326], np.int16)
    clipped = clip_hu(array)
    np.testing.assert_array_equal(clipped, [-325, -325, 7, 325])
    assert clipped.dtype == np.int16
    assert array[0] == -3024
    halves = clip_hu(array, (-10.5, 267.5))
    np.testing.assert_array_equal(halves, [-10.5, -10.5, 7, 267.5])
    assert halves.dtype == np.float32


def test_normalising_subtracts_the_mean_and_divides_by_the_sd():
    normalized = normalize(np.array([[105, 25]], np.int16), 105.0, 80.0)
    np.testing.assert_array_equal(normalized, [[0, -1]])
    assert normalized.dtype == np.float32


def test_individual_normalisation_gives_mean_0_and_sd_1():
    prepared = COARSE.apply(_ct())
    assert prepared.array_zyx.dtype == np.float32
    assert prepared.shape_zyx == (6, 6, 5)
    np.testing.assert_allclose(prepared.spacing_zyx_mm, (17.5 / 6, 11 / 6, 10.4 / 5))
    seen = Moments.of(prepared.array_zyx)
    assert (seen.mean, seen.sd) == pytest.approx((0, 1), abs=1e-6)


def test_global_normalisation_uses_the_stored_mean_and_sd():
    ct = _ct()
    prepared = FINE.apply(ct)
    clipped = ct.with_array(np.clip(ct.array_zyx, -325, 325))
    expected = (resample_volume(clipped, (2.0, 1.5, 1.5)).array_zyx - 105.02439) / 81.73703
    np.testing.assert_allclose(prepared.array_zyx, expected, atol=1e-5)


def test_padding_is_air_to_the_net_and_does_not_bleed():
    ct = _ct()
    air = ct.with_array(np.where(ct.array_zyx == -3024, -1000, ct.array_zyx).astype(np.int16))
    np.testing.assert_array_equal(COARSE.apply(ct).array_zyx, COARSE.apply(air).array_zyx)


def test_the_window_of_the_recipe_is_used():
    wide, narrow = (Preprocessing((3.0, 2.0, 2.0), (-100.0, high), 0.0, 1.0) for high in (3000.0, 50.0))
    assert wide.apply(_ct()).array_zyx.max() > 50
    assert narrow.apply(_ct()).array_zyx.max() <= 50


def test_a_ct_without_contrast_becomes_0_everywhere():
    constant = Volume.from_array(np.full((4, 5, 6), -1000, np.int16), (3.0, 2.0, 1.0))
    assert (COARSE.apply(constant).array_zyx == 0).all()


def test_preprocessing_leaves_the_ct_alone():
    ct = _ct()
    COARSE.apply(ct)
    np.testing.assert_array_equal(ct.array_zyx, _ct().array_zyx)


def test_the_papers_two_recipes():
    assert Preprocessing((3.0, 2.0, 2.0), (-325.0, 325.0), None, None) == COARSE
    assert Preprocessing((2.0, 1.5, 1.5), (-325.0, 325.0), 105.02439, 81.73703) == FINE


@pytest.mark.parametrize("recipe", [COARSE, FINE, Preprocessing((5, 4, 3), (-325, 267), -12.5, 3)])
def test_a_recipe_survives_json(recipe):
    assert Preprocessing.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert hash(Preprocessing.from_dict(recipe.to_dict())) == hash(recipe)


def test_a_recipe_with_unknown_or_missing_keys_is_refused():
    with pytest.raises(ValueError, match=r"must have the keys .*got .*'order'"):
        Preprocessing.from_dict({**COARSE.to_dict(), "order": 3})
    with pytest.raises(ValueError, match="must have the keys"):
        Preprocessing.from_dict({"spacing_zyx_mm": [3, 2, 2]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spacing_zyx_mm": (3.0, 0.0, 2.0)}, "3 positive numbers"),
        ({"window_hu": (325.0, -325.0)}, "low < high"),
        ({"window_hu": (float("nan"), 325.0)}, "low < high"),
        ({"mean_hu": 3.0}, "both be given or both be None, got 3.0, None"),
        ({"mean_hu": 3.0, "sd_hu": 0.0}, "sd_hu above 0, got 3.0 and 0.0"),
        ({"mean_hu": float("nan"), "sd_hu": 1.0}, "mean_hu must be finite"),
    ],
)
def test_an_impossible_recipe_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"spacing_zyx_mm": (3.0, 2.0, 2.0), **arguments})


def test_an_sd_of_0_is_refused():
    with pytest.raises(ValueError, match="sd_hu must be above 0, got 0"):
        normalize(np.zeros(3), 0, 0)
