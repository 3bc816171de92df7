"""Hounsfield units or not: images of known tissues, as they are and spoilt in the ways that files are."""

import tracemalloc

import numpy as np
import pytest

from flare_lib.ct.hu import hu_doubts, hu_problem
from flare_lib.synthetic.painting import paint
from flare_lib.synthetic.phantom import make_phantom
from flare_lib.synthetic.tissues import PHASES

SHAPE = (20, 44, 60)


def patient(seed=0, noise=12.0):
    """A body of fat with a core of soft tissue in air, some lung and bone in it, as a scanner shows it."""
    z, y, x = np.indices(SHAPE)
    radius = np.hypot((y - 21) / 18, (x - 29) / 25)
    hu = np.select([radius < 0.75, radius < 1], [50.0, -100.0], -1000.0)
    hu[:8, 14:24, 18:26] = -800
    hu[:, 28:32, 27:32] = 400 + 20.0 * z[:, 28:32, 27:32]
    return np.maximum(hu + np.random.default_rng(seed).normal(0, noise, SHAPE), -1024).round().astype(np.int16)


def padded(array, value):
    """Fill what lies beyond the scanner's round field."""
    _, y, x = np.indices(array.shape)
    return np.where(np.hypot(y / array.shape[1] - 0.5, x / array.shape[2] - 0.5) > 0.5, value, array)


def core(array):
    """A tight field without air, fat at its rim."""
    return array[:, 5:40, 22:42]


def windowed(array, low=-160, high=240):
    return (np.clip(array, low, high) - low) / (high - low)


@pytest.mark.parametrize("padding", [-1024, -2000, -3024, -32768])
def test_padding_says_nothing(padding):
    assert hu_problem(padded(patient(), padding).astype(np.int16)) is None
    assert hu_doubts(padded(patient(), padding).astype(np.int16)) == ()


@pytest.mark.parametrize("padding", [2047, 3071, 32767, 65535])
def test_padding_brighter_than_bone_is_refused_with_its_share(padding):
    array = padded(patient().astype(np.int32), padding)
    share = (array == padding).mean()
    assert 0.2 < share < 0.25
    assert hu_problem(array) == (
        "what was never measured, outside the scanner's circle, must look like air (-1024), "
        f"got {padding} in {share:.0%} of the voxels"
    )


def test_metal_fills_little_of_a_ct_and_bone_is_no_number_formats_end():
    metal, more, bone = patient(), patient(), patient()
    metal[:, 20:24, 25:38] = 3071  # 2 % of the voxels
    more[:, 17:27, 22:38] = 3071  # 6 %
    bone[:, 17:27, 22:38] = 1999
    assert hu_problem(metal) is None
    assert hu_problem(more).endswith("got 3071 in 6% of the voxels")
    assert hu_problem(bone) is None


@pytest.mark.parametrize(
    "ct",
    {
        "whole": patient(),
        "much noise": patient(noise=60),
        "float with metal": np.where(np.random.default_rng(1).random(SHAPE) < 0.01, 30000, patient() + np.float32(0.3)),
        "12 bits full": np.where(np.random.default_rng(1).random(SHAPE) < 0.02, 3071, patient()),
        "two slices": patient()[:2],
        "bone": np.where(patient() > 0, patient() + 1100, np.where(patient() > -500, 40, patient())),
        "tight field without air": core(patient()),
        "window": np.clip(patient(), -500, 500),
        "other window": np.clip(patient(noise=5), -460, 550),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_ct_in_hu_passes_without_a_word(ct):
    assert hu_problem(ct[1]) is None
    assert hu_doubts(ct[1]) == ()


def test_lung_near_minus_500_is_not_taken_for_the_air_of_values_too_small():
    lung = np.where(np.arange(SHAPE[2]) < 35, -500, 40) + np.random.default_rng(1).normal(0, 40, SHAPE)
    assert hu_problem(lung) is None


@pytest.mark.usefixtures("quick_phantoms")
def test_phantoms_of_every_phase_pass():
    person = make_phantom(5, spacing_zyx_mm=(16.0, 9.0, 8.0))
    for phase in range(len(PHASES)):
        phases = np.eye(len(PHASES))[phase]
        ct = paint(person, np.random.default_rng(phase), phases=phases)
        assert hu_problem(ct) is None
        assert hu_doubts(ct) == ()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda hu: hu + 1024, "is the intercept -1024 missing?"),
        (lambda hu: padded(hu.clip(-1000) + 1024, -2000), "is the intercept -1024 missing?"),
        (lambda hu: hu + 1024 - 30 * (hu < -1015), "is the intercept -1024 missing?"),
        (lambda hu: core(hu) + 1024, "is the intercept -1024 missing?"),
        (lambda hu: hu - 1024, "was the intercept -1024 added twice?"),
        (lambda hu: hu % 2**16, "were signed values read as unsigned ones?"),
        (lambda hu: core(hu) % 2**16, "were signed values read as unsigned ones?"),
        (lambda hu: padded(hu, -2000) % 2**16, "were signed values read as unsigned ones?"),
        (lambda hu: hu + 31768.0, "are all values about 31770 too high?"),
        (lambda hu: -hu, "is the image inverted?"),
        (lambda hu: hu * 10, "are the values 10 times too large?"),
        *((lambda hu, n=n: hu * n, f"are the values {n} times too large?") for n in (2, 4, 8, 16)),
        *((lambda hu, n=n: hu // n, f"are the values {n} times too small?") for n in (2, 4)),
        *((lambda hu, n=n: (hu + 1024) * n - 1024, f"is the slope {1 / n:g} missing?") for n in (2, 4, 8, 16)),
        (lambda hu: hu / 1000, "are the values 1000 times too small, or normalised?"),
        (lambda hu: hu * 1000.0, "not a CT, or scaled?"),
        (windowed, "an image already normalised?"),
        (lambda hu: (hu - hu.mean()) / hu.std() * 1.5, "an image already normalised?"),
        (lambda hu: (windowed(hu) * 255).astype(np.uint8), "a label map, or an 8-bit image?"),
        (lambda hu: (hu > -500).astype(np.uint8) * 5, "a label map, or an 8-bit image?"),
        (lambda hu: (hu > -500).astype(np.int16) * 6 - 1, "a label map, or an 8-bit image?"),
        (lambda hu: np.zeros_like(hu), "got values from 0 to 0"),
        (lambda hu: np.full_like(hu, -37), "must differ, got -37 to -37 nearly everywhere"),
    ],
)
def test_what_is_not_hu_is_refused_and_the_mend_is_named(spoil, told):
    image = spoil(patient().astype(np.int32))
    problem = hu_problem(image)
    assert told in problem
    assert "\n" not in problem
    assert hu_doubts(image) == (f"the grey values are not those of a CT in HU: {problem}",)  # of one made in memory


def test_a_rarer_mistake_is_named_where_it_explains_a_little_more():
    """Fluid at 0 HU, a seventh of the image, would lie below soft tissue if the common intercept were missing."""
    hu = patient()
    hu[:, 14:28, 17:44] = np.random.default_rng(1).normal(0, 2, (20, 14, 27)).round()
    assert hu_problem(hu) is None
    assert 0.1 < 14 * 27 / (44 * 60) < 0.2
    assert "is the intercept -1000 missing?" in hu_problem(hu + 1000)
    assert "is the intercept -1024 missing?" in hu_problem(patient() + 1000)  # as good, and more common


def test_where_air_lies_is_told():
    assert "(air lies at 24:" in hu_problem(patient(noise=1).astype(np.int32) + 1024)
    assert "(fat lies at 9" in hu_problem(core(patient()).astype(np.int32) + 1024)


@pytest.mark.parametrize("padding", [-1024, -1000, -2000, -500])
def test_a_label_map_in_a_padded_field_is_refused(padding):
    labels = np.full((60, 70, 80), padding, np.int16)
    labels[10:30, 10:45, 20:50] = np.random.default_rng(0).integers(0, 14, (20, 35, 30))
    assert "a label map" in hu_problem(labels)


def test_magnetic_resonance_and_emission_are_refused():
    rng = np.random.default_rng(0)
    body = patient() > -500
    mr = np.where(body, rng.gamma(6, 90, SHAPE), np.abs(rng.normal(0, 9, SHAPE)))
    assert "air and fat must lie well below 0" in hu_problem(mr)
    assert hu_problem(np.where(body, rng.gamma(6, 90, SHAPE), rng.normal(0, 12, SHAPE))) is not None
    assert "air and fat must lie well below 0" in hu_problem(np.where(body, rng.gamma(2, 0.8, SHAPE), 0.0))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda hu: hu + 180, "air lies at -8"),
        (lambda hu: hu.clip(-160, 240), "the grey values are clipped at -160 HU"),
        (lambda hu: hu / 10 + np.random.default_rng(2).normal(0, 0.1, hu.shape), "all grey values lie between"),
        (lambda hu: np.where(hu > -500, -990, hu), "there may be no body in this CT: 0.0% of the voxels"),
        (lambda hu: padded(hu, 0), "exactly 0 HU: padding that looks like water?"),
        (lambda hu: hu[:, 14:28, 27:33], "there is neither air near -1000 nor fat near -100 HU"),
    ],
)
def test_what_may_be_right_passes_with_a_doubt(change, told):
    ct = change(patient(noise=20).astype(np.int32))
    assert hu_problem(ct) is None
    assert any(told in doubt for doubt in hu_doubts(ct)), hu_doubts(ct)


def test_a_water_phantom_passes():
    water = np.where(patient() > -500, 0, -1000) + np.random.default_rng(0).normal(0, 8, SHAPE)
    assert hu_problem(water) is None
    assert hu_doubts(water) == ()


def test_few_voxels_are_asked_for_one_low_value_alone():
    few = np.full((3, 4, 5), 900, np.int16)
    assert "got values from 900 to 900" in hu_problem(few)
    few[1, 1, 1] = -11
    assert hu_problem(few) is None
    assert hu_doubts(few) == ()


def test_every_part_of_an_image_is_looked_at():
    ct = np.tile(patient(), (3, 3, 3))
    half = ct.astype(np.int32)
    half[30:] += 1024
    assert hu_problem(ct) is None
    assert hu_problem(half[:30]) is None
    assert hu_problem(half[30:]) is not None


def test_values_of_any_size_are_judged_in_little_memory():
    values = np.random.default_rng(0).uniform(-1e9, 1e9, (14, 18, 22)).astype(np.float32)
    tracemalloc.start()
    assert "must lie near" in hu_problem(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22
