"""Painting: grey values within what is physiological, reproducible, and organs where their labels say."""

import numpy as np
import pytest
from blocks import NAMES

from flare_lib.synthetic.painting import paint
from flare_lib.synthetic.structures import Structures

QUIET = {"noise_hu": (0.0, 0.0), "blur_mm": (0.0, 0.0), "padding_probability": 0.0}


def body():
    """Blocks of tissue, 20 mm and more a side, in fat, in air."""
    array = np.zeros((14, 30, 50), np.uint8)
    array[:, 3:27, 4:46] = 2
    array[2:12, 6:16, 6:18] = 1
    array[2:12, 6:16, 20:28] = 4
    array[2:12, 18:26, 20:28] = 3
    array[2:12, 6:16, 30:38] = 5
    array[2:12, 18:25, 6:14] = 7
    array[2:12, 18:25, 34:42] = 6
    array[2:12, 18:25, 15:19] = 9
    return Structures(array, NAMES, (3.0, 2.5, 2.0))


def test_the_same_generator_paints_the_same_ct_and_another_one_another():
    one, same, other = (paint(body(), np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.5


def test_a_painted_ct_is_int16_on_the_grid_of_its_structures_and_in_the_range_of_a_scanner():
    cts = [paint(body(), np.random.default_rng(seed), padding_probability=1.0) for seed in range(16)]
    for ct in cts:
        assert ct.dtype == np.int16
        assert ct.shape == (14, 30, 50)
        assert set(np.unique(ct[ct < -1024])) <= {-3024}
        assert ct.max() <= 3071
    assert any((ct == -3024).any() for ct in cts)


@pytest.mark.parametrize(
    ("structure", "lowest_hu", "highest_hu"),
    [(1, -40, 200), (2, -150, -40), (3, 60, 900), (5, -1000, 100), (6, -50, 350), (9, 10, 500)],
)
def test_the_median_of_a_tissue_is_physiological_in_every_person(structure, lowest_hu, highest_hu):
    structures = body()
    medians = [
        np.median(paint(structures, np.random.default_rng(seed), **QUIET)[structures.array_zyx == structure])
        for seed in range(30)
    ]
    assert lowest_hu <= min(medians)
    assert max(medians) <= highest_hu


def test_most_lungs_are_aerated():
    structures = body()
    lung = structures.array_zyx == 5
    medians = [np.median(paint(structures, np.random.default_rng(seed), **QUIET)[lung]) for seed in range(30)]
    assert -950 < np.median(medians) < -700


def test_veins_run_through_the_liver_as_thin_curves_that_no_border_of_the_map_draws():
    array = np.ones((24, 40, 44), np.uint8)
    structures = Structures(array, {1: "liver"}, (3.0, 2.0, 2.0))
    shares = []
    for seed in range(30):
        hu = paint(structures, np.random.default_rng(seed), **QUIET).astype(float)
        shares.append((np.abs(hu - np.median(hu)) > 30).mean())
    assert 0 < np.median(shares) < 0.15
    assert min(shares) < 0.02  # in some persons they cannot be told from the liver, as without contrast agent


@pytest.mark.parametrize("organ", ["liver", "unlabelled"])
def test_vessels_that_nobody_labelled_are_no_brighter_than_blood_without_contrast_agent(organ):
    array = np.ones((24, 40, 44), np.uint8)
    array[:, :, :2] = 2
    structures = Structures(array, {1: organ, 2: "aorta"}, (3.0, 2.0, 2.0))
    brightest = {
        phase: max(
            np.quantile(paint(structures, np.random.default_rng(k), phases=p, **QUIET)[array == 1], 0.999)
            for k in range(20)
        )
        for phase, p in {"none": (1, 0, 0, 0), "portal": (0, 0, 1, 0)}.items()
    }
    assert brightest["none"] < 110
    assert brightest["portal"] > 140


def test_gas_lies_in_front_of_fluid_in_a_supine_stomach():
    structures = body()
    rows = np.broadcast_to(np.arange(30)[None, :, None], (14, 30, 50))
    fronts = []
    for seed in range(40):
        ct = paint(structures, np.random.default_rng(seed), **QUIET)
        stomach = structures.mask("stomach")
        gas = stomach & (ct < -700)
        if 30 < gas.sum() < 0.5 * stomach.sum():
            fronts.append(rows[gas].mean() - rows[stomach & ~gas].mean())
    assert len(fronts) > 5
    assert np.mean(fronts) > 1  # RAS+: y grows to the front


def test_the_structures_are_left_as_they_were():
    structures = body()
    before = structures.array_zyx.copy()
    paint(structures, np.random.default_rng(0))
    np.testing.assert_array_equal(structures.array_zyx, before)


def test_noise_has_the_sd_asked_for():
    fat = Structures(np.full((12, 40, 48), 2, np.uint8), NAMES, (3.0, 2.0, 2.0))
    loud = paint(fat, np.random.default_rng(1), noise_hu=(30.0, 30.0), blur_mm=(0.0, 0.0), padding_probability=0.0)
    quiet = paint(fat, np.random.default_rng(1), noise_hu=(0.0, 0.0), blur_mm=(0.0, 0.0), padding_probability=0.0)
    assert abs((loud.astype(float) - quiet).std() - 30) < 2


def test_lesions_come_as_often_as_they_are_asked_for():
    structures = body()
    liver = structures.array_zyx == 1
    plain, ill = (
        [
            paint(structures, np.random.default_rng(seed), lesion_probability=p, **QUIET)[liver].std()
            for seed in range(12)
        ]
        for p in (0.0, 1.0)
    )
    assert np.mean(ill) > 1.3 * np.mean(plain)
