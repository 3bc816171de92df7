"""The rules themselves: whole numbers, numbers, and values that must agree. What recipes do with them: test_recipes."""

import math
from dataclasses import asdict

import numpy as np
import pytest

from flare_lib.training.recipe_rules import RULES, check_values
from flare_lib.training.recipes import preset


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("n_steps", [1, 7, np.int64(3)], [0, -1, 1.0, True, "1", None]),
        ("warm_up_steps", [0, 5], [-1, 0.5, None]),
        ("ramp_up_steps", [1, 5], [0, -1, 0.5]),
        ("learning_rate", [1e-3, 1, np.float32(0.5)], [0, -1e-3, math.nan, math.inf, "0,01", None, True]),
        ("cut", [0, 0.4, 1], [-0.1, 1.1, "half"]),
        ("phases", [(1, 0, 0, 0), [0.4, 0.15, 0.33, 0.12]], [(0.5, 0, 0, 0), (1, 0, 0), (2, -1, 0, 0), None]),
        (
            "missing",
            [{}, {"spleen": 0.1, "kidney_left": 1}],
            [{"spleen": 2}, {"spline": 0.1}, {1: 0.1}, ["spleen"], None],
        ),
        ("noise_hu", [(3, 35.0), [0, 0]], [(35, 3), (-1, 3), (3,), 3]),
        ("mean_hu", [None, -12.5], ["none", math.nan]),
        ("sd_hu", [None, 80], [0, -1]),
        ("patch_size", [(8, 16, 12), [8, 16, 12]], [8, (8, 16), (8, 16, 12.0), (8, 16, 0), "8,16,12"]),
        ("sources", [{"phantoms": 1}, {"cases": 0, "label_maps": 0.5}], [{}, {"phantoms": -1}, None, "cases", {1: 1}]),
        ("strides", [((2, 2, 2),), [[1, 2, 2], [2, 2, 2]]], [(), ((2, 2),), (2, 2, 2), ((0, 2, 2),)]),
    ],
)
def test_what_obeys_a_rule_and_what_does_not(name, good, bad):
    assert [value for value in good if not RULES[name].holds(value)] == []
    assert [value for value in bad if RULES[name].holds(value)] == []


def test_sound_values_pass_and_the_first_that_is_not_is_named():
    values = asdict(preset("paper", "fine"))
    check_values(values)
    with pytest.raises(ValueError, match=r"^batch_size must be a whole number, 1 or more, got 0$"):
        check_values(values | {"batch_size": 0, "seed": -1})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strides": ((2, 2, 2),)}, "strides must be one fewer than features_per_stage, got 1 for 6"),
        ({"n_heads": 6}, "n_heads must be at most the number of strides, 5, got 6"),
        ({"patch_size": (96, 128, 150)}, r"patch_size must be multiples of \(16, 32, 32\).*, got \(96, 128, 150\)"),
        (
            {"patch_size": (16, 32, 32)},
            r"leave 2 voxels to the coarsest stage, got \(16, 32, 32\), which leaves 1",
        ),
        ({"mean_hu": None, "sd_hu": 80.0}, "mean_hu and sd_hu must come together, got None and 80.0"),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        check_values(asdict(preset("paper", "coarse")) | changes)
