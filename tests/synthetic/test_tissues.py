"""Tissues: one phase and one dose for a whole person."""

import numpy as np
import pytest
from blocks import NAMES

from flare_lib.synthetic.tissues import blood_of, draw_tissues, is_bone


def test_persons_differ_and_contrast_makes_the_aorta_brighter_than_muscle_in_most():
    aortas = [draw_tissues(NAMES, np.random.default_rng(seed))[0][9] for seed in range(200)]
    assert np.std(aortas) > 40
    assert 0.7 < np.mean(np.array(aortas) > 80) < 1.0


def test_both_kidneys_belong_to_one_person():
    for seed in range(20):
        mean, texture = draw_tissues(NAMES, np.random.default_rng(seed))
        assert abs(mean[6] - mean[7]) < 30
        assert texture[6] == texture[7]


@pytest.mark.parametrize(
    ("name", "bone"), [("vertebrae_L2", True), ("rib_left_4", True), ("liver", False), ("skin", False)]
)
def test_bone_is_what_the_table_does_not_name(name, bone):
    assert is_bone(name) == bone


def test_a_phase_can_be_asked_for():
    aorta = {
        phase: np.mean([draw_tissues(NAMES, np.random.default_rng(k), phases=p)[0][9] for k in range(60)])
        for phase, p in (("none", (1, 0, 0, 0)), ("arterial", (0, 1, 0, 0)), ("portal", (0, 0, 1, 0)))
    }
    assert aorta["none"] == pytest.approx(42, abs=5)
    assert aorta["arterial"] > aorta["portal"] + 50 > aorta["none"] + 80
    with pytest.raises(ValueError, match="sum"):
        draw_tissues(NAMES, np.random.default_rng(0), phases=(0.5, 0, 0, 0))


def test_blood_without_contrast_agent_is_alike_in_all_vessels_and_differs_between_persons():
    names = {1: "aorta", 2: "inferior_vena_cava", 3: "portal_vein_and_splenic_vein", 4: "muscle"}
    drawn = np.array([draw_tissues(names, np.random.default_rng(k), phases=(1, 0, 0, 0))[0] for k in range(200)])
    assert np.abs(drawn[:, 1] - drawn[:, 2]).mean() < 0.6 * drawn[:, 1].std()
    assert abs(drawn[:, 1].mean() - 42) < 1.5
    assert 4 < drawn[:, 1].std() < 8


def test_veins_are_as_bright_as_the_portal_vein_or_else_the_aorta_or_unenhanced_blood():
    mean = np.arange(256, dtype=np.float32)
    assert blood_of({7: "aorta", 9: "portal_vein_and_splenic_vein"}, mean) == 9
    assert blood_of({7: "aorta", 8: "liver"}, mean) == 7
    assert blood_of({8: "liver"}, mean) == 42
