"""A run, from a folder of label maps to weights with a card that `load_trained` reads."""

import json

import numpy as np
import pytest
import torch

from flare_lib.ct.files import save_ct, save_label_map
from flare_lib.ct.volume import Volume
from flare_lib.network.weights import load_trained
from flare_lib.training.presets import preset
from flare_lib.training.run import gather_persons, load_unlabelled, run, training_mean_and_sd

TINY = {"patch_size": (8, 16, 12), "features_per_stage": (4, 6, 8), "strides": ((2, 2, 2), (1, 2, 2)), "n_heads": 2}
TINY |= {"n_steps": 2, "spacing_zyx_mm": (8.0, 8.0, 8.0)}


@pytest.fixture
def label_maps(tmp_path):
    array = np.zeros((14, 20, 24), np.uint8)
    array[3:11, 5:15, 12:20] = 1
    volume = Volume.from_array(array, (8.0, 8.0, 8.0))
    save_label_map(tmp_path / "s1_totalseg117.nii.gz", array, volume)
    (tmp_path / "names.json").write_text(json.dumps({"1": "liver"}))
    return tmp_path


def test_fine_starts_from_coarse_and_its_card_says_so(label_maps, tmp_path):
    coarse = run(preset("first-coarse", **TINY), label_maps=label_maps, folder=tmp_path / "c", n_workers=0)
    fine_recipe = preset("first-fine", **TINY, learning_rate=1e-9, weight_decay=0.0)
    fine = run(fine_recipe, label_maps=label_maps, folder=tmp_path / "f", init=coarse, n_workers=0)
    before, after = load_trained(coarse), load_trained(fine)
    assert after.card["started_from"] == "coarse"
    assert after.card["recipe"]["n_steps"] == 2
    assert after.preprocessing.mean_hu is not None
    assert before.preprocessing.mean_hu is None
    for name, weight in before.net.state_dict().items():
        assert torch.allclose(weight, after.net.state_dict()[name], atol=1e-3), name


def test_the_training_sets_mean_and_sd_lie_within_the_window(label_maps):
    recipe = preset("first-fine", **TINY)
    persons = gather_persons(label_maps, recipe)
    assert len(persons["label_maps"]) == 4
    mean, sd = training_mean_and_sd(persons, recipe, n_patches=8)
    assert -325 < mean < 200
    assert 20 < sd < 325


def test_unlabelled_cts_are_seen_as_the_net_sees_them(label_maps, tmp_path):
    recipe = preset("first-coarse", **TINY, n_unlabelled=1)
    with pytest.raises(FileNotFoundError, match="must hold CTs"):
        load_unlabelled(tmp_path / "nowhere", recipe)
    hu = np.full((12, 22, 26), -1000, np.int16)
    hu[2:10, 4:18, 5:21] = 40
    hu[4, 6, 7] = 300
    (tmp_path / "cts").mkdir()
    save_ct(tmp_path / "cts" / "a.nii.gz", Volume.from_array(hu, (8.0, 8.0, 8.0)))
    (seen,) = load_unlabelled(tmp_path / "cts", recipe)
    assert seen.shape == (8, 14, 16)
    assert abs(seen.mean()) < 1e-5
    stem = run(recipe, label_maps=label_maps, unlabelled=tmp_path / "cts", folder=tmp_path / "c", n_workers=0)
    assert load_trained(stem).card["recipe"]["n_unlabelled"] == 1
