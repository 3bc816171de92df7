"""Recipes: presets, changes to them, and values that cannot be."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from flare_lib.training.recipe_rules import RULES, STAGES
from flare_lib.training.recipes import PRESETS, Recipe, preset


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_its_own_net(name, stage):
    recipe = preset(name, stage)
    assert recipe.stage == stage
    net = recipe.new_net()
    assert all(size % m == 0 for size, m in zip(recipe.patch_size, net.size_multiple_zyx, strict=True))
    assert recipe.preprocessing.spacing_zyx_mm == recipe.spacing_zyx_mm
    assert json.loads(json.dumps(recipe.to_dict()))["patch_size"] == list(recipe.patch_size)


def test_changes_are_taken_and_unknown_ones_refused():
    assert preset("release", "coarse", n_steps=7).n_steps == 7
    with pytest.raises(ValueError, match=r"a recipe's values are .*n_steps.*, got epochs"):
        preset("release", "coarse", epochs=3)
    with pytest.raises(ValueError, match=r"a recipe's values are spacing_zyx_mm, .*, got stage, name"):
        preset("release", "coarse", stage="fine", name="mine")
    with pytest.raises(ValueError, match="preset must be one of paper, release, real, course, got 'best'"):
        preset("best", "coarse")
    with pytest.raises(ValueError, match="stage must be one of coarse, fine, got 'middle'"):
        preset("release", "middle")


def test_the_papers_recipe_is_tables_2_and_3():
    coarse, fine = preset("paper", "coarse"), preset("paper", "fine")
    net = coarse.new_net()
    assert net.n_parameters == 30_790_304
    assert (coarse.patch_size, coarse.batch_size, coarse.n_unlabelled) == ((96, 128, 160), 2, 2)
    assert (coarse.spacing_zyx_mm, fine.spacing_zyx_mm) == ((3.0, 2.0, 2.0), (2.0, 1.5, 1.5))
    assert (coarse.n_steps, fine.n_steps) == (500 * 250, 150 * 250)
    assert (coarse.learning_rate, fine.learning_rate) == (0.01, 0.001)
    assert (coarse.halve_every, fine.halve_every) == (200 * 250, 150 * 250)
    assert (coarse.optimizer, coarse.weight_decay, coarse.schedule) == ("sgd", 3e-5, "poly")
    assert (coarse.consistency, coarse.consistency_weight, coarse.ramp_up_steps) == ("kl", 0.1, 100 * 250)
    assert (fine.n_unlabelled, fine.n_steps_without_augmentation, fine.margin_mm) == (0, 10 * 250, 40.0)
    assert coarse.augmentation > 0


@pytest.mark.parametrize("stage", STAGES)
def test_real_is_a_short_run_of_release_with_a_quarter_of_real_patches(stage):
    real, release = preset("real", stage), preset("release", stage)
    assert sum(real.sources.values()) == pytest.approx(1)
    assert real.sources["pseudo_labelled"] == 0.25
    assert real.n_steps * real.learning_rate < 0.05 * release.n_steps * release.learning_rate
    assert (real.keep, real.n_validation, real.new_net().architecture) == ("best", 1, release.new_net().architecture)
    assert real.preprocessing == release.preprocessing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "lion"}, "optimizer must be one of adamw, sgd, got 'lion'"),
        ({"schedule": "cosine"}, "schedule must be one of poly, halving, got 'cosine'"),
        ({"consistency": 3}, "consistency must be one of kl, urpc, got 3"),
        ({"accumulate": 0}, "accumulate must be a whole number, 1 or more, got 0"),
        ({"n_validation": -1}, "n_validation must be a whole number, 0 or more, got -1"),
        ({"n_steps": 3.0}, "n_steps must be a whole number, 1 or more, got 3.0"),
        ({"n_steps": True}, "n_steps must be a whole number, 1 or more, got True"),
        ({"learning_rate": "fast"}, "learning_rate must be a number above 0, got 'fast'"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0, got nan"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0, got 0.0"),
        ({"weight_decay": float("inf")}, "weight_decay must be a number, 0 or more, got inf"),
        ({"augmentation": 1.5}, "augmentation must be a number from 0 to 1, got 1.5"),
        ({"patch_size": 24}, "patch_size must be 3 whole numbers, 1 or more (z, y, x), got 24"),
        ({"patch_size": (24, 32)}, "patch_size must be 3 whole numbers, 1 or more (z, y, x), got (24, 32)"),
        (
            {"patch_size": (24, 32, 33)},
            "patch_size must be multiples of (16, 16, 16), by which",
        ),
        (
            {"spacing_zyx_mm": (3.0, 0.0, 3.0)},
            "spacing_zyx_mm must be 3 numbers above 0 (z, y, x), got (3.0,",
        ),
        (
            {"sources": {"cts": 1.0}},
            "sources must be shares of cases, pseudo_labelled, label_maps, phantoms, not all 0, such as",
        ),
        (
            {"sources": {"phantoms": 0}},
            "sources must be shares of cases, pseudo_labelled, label_maps, phantoms, not all 0, such as",
        ),
        (
            {"sources": {"phantoms": "all"}},
            "sources must be shares of cases, pseudo_labelled, label_maps, phantoms, not all 0, such as",
        ),
        (
            {"sources": "phantoms"},
            "sources must be shares of cases, pseudo_labelled, label_maps, phantoms, not all 0, such as",
        ),
        ({"features_per_stage": 16}, "features_per_stage must be 2 to 8 whole numbers, 1 or more, got 16"),
        ({"strides": ((2, 2, 2),)}, "strides must be one fewer than features_per_stage, got 1 for 5"),
        ({"strides": (2, 2, 2, 2)}, "strides must be 1 to 7 triples of whole numbers, 1 or more (z, y, x), got"),
        ({"n_heads": 5}, "n_heads must be at most the number of strides, 4, got 5"),
        ({"mean_hu": 12.5}, "mean_hu and sd_hu must come together, got 12.5 and None"),
        ({"keep": "most"}, "keep must be one of last, best, got 'most'"),
        ({"ema_decay": 1}, "ema_decay must be a number from 0 to below 1, got 1"),
        ({"appearance": 2}, "appearance must be a number from 0 to 1, got 2"),
        ({"keep": "best"}, "keep must be last unless the run validates (validate_every, and n_validation for cases)"),
        (
            {"keep": "best", "validate_every": 9, "sources": {"cases": 1}},
            "keep must be last unless the run validates (validate_every, and n_validation for cases), got best",
        ),
        ({"sd_hu": -1}, "sd_hu must be a number above 0 or None, got -1"),
        ({"learning_rate": 10**400}, "learning_rate must be a number above 0, got 1000"),
        ({"noise_hu": (0, 10**400)}, "noise_hu must be 2 numbers, 0 or more, low and high, got (0, 1000"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name_and_rule(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        preset("release", "coarse", **change)


def test_a_new_net_is_drawn_by_the_seed_and_leaves_the_callers_generator_alone():
    recipe = preset("course", "coarse", features_per_stage=(2, 3, 4, 5))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = recipe.new_net(), recipe.new_net(), replace(recipe, seed=1).new_net()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_every_value_has_a_rule():
    assert list(RULES) == [field.name for field in fields(Recipe)]


def test_numpy_numbers_in_a_recipe_are_stored_as_pythons():
    given = preset("course", "fine", n_steps=np.int64(3), cut=np.float32(0.5), noise_hu=(np.float64(3), np.int16(35)))
    stored = json.loads(json.dumps(given.to_dict()))
    assert (stored["n_steps"], stored["cut"], stored["noise_hu"]) == (3, 0.5, [3.0, 35])
