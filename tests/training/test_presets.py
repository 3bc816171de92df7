"""Recipes: presets, changes to them, and values that cannot be."""

import json

import pytest

from flare_lib.network.unet import UNet
from flare_lib.training.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_its_own_net(name):
    recipe = preset(name)
    net = UNet(features_per_stage=recipe.features_per_stage, strides=recipe.strides, n_heads=recipe.n_heads)
    assert all(size % m == 0 for size, m in zip(recipe.patch_size, net.size_multiple_zyx, strict=True))
    assert recipe.preprocessing.spacing_zyx_mm == recipe.spacing_zyx_mm
    assert json.loads(json.dumps(recipe.to_dict()))["patch_size"] == list(recipe.patch_size)


def test_changes_are_taken_and_unknown_ones_refused():
    assert preset("first-coarse", n_steps=7).n_steps == 7
    with pytest.raises(ValueError, match=r"a recipe's values are .*n_steps.*, got epochs"):
        preset("first-coarse", epochs=3)
    with pytest.raises(ValueError, match="preset must be one of first-coarse, first-fine, course-coarse, got 'best'"):
        preset("best")
    with pytest.raises(ValueError, match="stage must be 'coarse' or 'fine', got 'middle'"):
        preset("first-coarse", stage="middle")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "lion"}, "optimizer must be one of adamw, sgd, got 'lion'"),
        ({"schedule": "cosine"}, "schedule must be one of poly, halving, got 'cosine'"),
        ({"consistency": "js"}, "consistency must be one of kl, urpc, got 'js'"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        preset("first-coarse", **change)
