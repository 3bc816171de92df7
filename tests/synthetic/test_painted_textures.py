"""What painting adds to a tissue's grey value: a block of one structure in fat, many persons, no blur and no noise."""

import numpy as np

from flare_lib.synthetic.painting import paint
from flare_lib.synthetic.structures import Structures

QUIET = {"noise_hu": (0.0, 0.0), "blur_mm": (0.0, 0.0), "padding_probability": 0.0}
ARTERIAL = (0.0, 1.0, 0.0, 0.0)
N_PERSONS = 16


def painted(name, phases=ARTERIAL):
    """Yield the HU of the block's rim and of its inside, of one person after the other."""
    array = np.zeros((10, 26, 30), np.uint8)
    array[:, 4:22, 5:25] = 1
    rim, inside = array == 1, np.zeros(array.shape, bool)
    inside[:, 5:21, 6:24] = True
    rim &= ~inside
    for seed in range(N_PERSONS):
        structures = Structures(array, {0: "fat", 1: name}, (3.0, 2.5, 2.0))
        hu = paint(structures, np.random.default_rng(seed), phases=phases, **QUIET).astype(float)
        yield hu[rim], hu[inside]


def test_bone_has_a_cortex_brighter_than_its_marrow():
    assert min(np.median(rim) - np.median(inside) for rim, inside in painted("vertebrae_L2")) > 40


def test_heart_muscle_is_darker_than_the_blood_in_its_chambers():
    ranges = [np.subtract(*np.percentile(inside, [95, 5])) for _, inside in painted("heart")]
    assert np.median(ranges) > 35  # blood alone varies by some 20


def test_lungs_have_vessels_and_sometimes_lie_collapsed_or_in_fluid():
    dense = np.array([(inside > np.median(inside) + 150).mean() for _, inside in painted("lung_lower_lobe_left")])
    assert np.median(dense) > 0.001
    assert dense.min() < 0.02
    assert dense.max() > 0.2


def test_between_organs_lies_tissue_in_some_places_and_fat_in_others():
    shares = np.array([(inside > 0).mean() for _, inside in painted("unlabelled")])
    assert 0.05 < np.median(shares) < 0.6
    assert shares.min() < 0.1
    assert shares.max() > 0.4


def test_some_peoples_pancreas_is_full_of_fat_and_then_darker_than_blood_even_without_contrast_agent():
    medians, darkest = zip(
        *((np.median(inside), np.percentile(inside, 5)) for _, inside in painted("pancreas", (1.0, 0.0, 0.0, 0.0))),
        strict=True,
    )
    fatty = np.array(medians) < 20
    assert 0.2 < fatty.mean() < 0.6
    assert min(darkest) > -105
    assert np.median(np.array(darkest)[fatty]) < -15
    assert np.median(np.array(medians)[~fatty]) > 30
