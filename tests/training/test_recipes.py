"""Recipes: presets, changes to them, and values that cannot be."""

import json
from dataclasses import replace

import pytest
import torch

from flare_lib.training.recipes import PRESETS, STAGES, preset


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
    with pytest.raises(ValueError, match="preset must be one of paper, release, course, got 'best'"):
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "lion"}, "optimizer must be one of adamw, sgd, got 'lion'"),
        ({"schedule": "cosine"}, "schedule must be one of poly, halving, got 'cosine'"),
        ({"accumulate": 0}, "accumulate must be 1 or more, got 0"),
        ({"n_validation": -1}, "n_validation must be 0 or more, got -1"),
        ({"sources": {"cts": 1.0}}, "sources must be of cases, label_maps, phantoms, got cts"),
        ({"consistency": "js"}, "consistency must be one of kl, urpc, got 'js'"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
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
