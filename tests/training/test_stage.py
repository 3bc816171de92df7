"""A run, from folders of cases to weights with a card that `load_trained` reads."""

import numpy as np
import pytest
import torch
from tiny_runs import PAINTED, REAL, REAL_AND_PAINTED, TINY

from flare_lib.ct.files import load_ct
from flare_lib.ct.resample import resample_volume
from flare_lib.ct.roi import bounding_box, crop_volume
from flare_lib.data.cohort import find_cases, load_labels
from flare_lib.network.weights import load_trained
from flare_lib.training.log import read_log
from flare_lib.training.recipes import preset
from flare_lib.training.stage import train_stage
from flare_lib.training.training_set import BODIES_PER_PERSON


@pytest.mark.slow("three trainings")
def test_fine_starts_from_coarse_and_its_card_says_so(label_maps, tmp_path):
    coarse = train_stage(
        preset("release", "coarse", **PAINTED),
        label_maps=label_maps,
        folder=tmp_path / "c",
        n_workers=0,
    )
    # of another seed, and hardly moved: what it ends as is what it started from
    fine_recipe = preset("release", "fine", **PAINTED, learning_rate=1e-9, weight_decay=0.0, seed=1)
    fine = train_stage(fine_recipe, label_maps=label_maps, folder=tmp_path / "f", init=coarse, n_workers=0)
    alone = train_stage(fine_recipe, label_maps=label_maps, folder=tmp_path / "a", n_workers=0)
    before, after = load_trained(coarse), load_trained(fine)
    assert after.card["started_from"] == "coarse"
    assert after.card["recipe"]["n_steps"] == 2
    assert after.preprocessing.mean_hu is not None
    assert before.preprocessing.mean_hu is None
    assert load_trained(alone).card["started_from"] is None
    without_init = load_trained(alone).net.state_dict()
    for name, weight in before.net.state_dict().items():
        assert torch.allclose(weight, after.net.state_dict()[name], atol=1e-6), name
        if weight.ndim > 1:  # norms begin as ones and zeros, whoever begins
            assert not torch.allclose(weight, without_init[name], atol=1e-3), name


@pytest.mark.slow("two trainings")
def test_real_cases_train_both_stages_as_in_the_paper(cohort, tmp_path):
    recipe = preset("paper", "coarse", **REAL, n_unlabelled=1, augmentation=0.5)
    coarse = train_stage(recipe, cohort=cohort, folder=tmp_path, n_workers=0)
    card = load_trained(coarse).card
    assert card["training_set"]["sources"] == {"cases": 2}
    assert card["training_set"]["unlabelled"] == 2
    assert len(card["training_set"]["held_out"]) == 1
    entries = read_log(tmp_path / "coarse" / "log.jsonl")
    assert all({"consistency", "validation_dice"} <= set(entry) for entry in entries)

    fine = train_stage(preset("paper", "fine", **REAL), cohort=cohort, init=coarse, folder=tmp_path, n_workers=0)
    trained = load_trained(fine)
    assert trained.card["started_from"] == "coarse"
    # global normalisation: mean and SD over the voxels of the two training cases, cropped around their organs
    held_out = trained.card["training_set"]["held_out"]
    crops = []
    for case in find_cases(cohort):
        if case.label_path is None or case.name in held_out:
            continue
        ct, labels = load_ct(case.ct_path), load_labels(case)
        box = bounding_box(labels.array_zyx).widen(40.0, ct.spacing_zyx_mm, ct.shape_zyx)
        small = resample_volume(crop_volume(ct, box), (8.0, 8.0, 8.0), window_hu=(-325.0, 325.0))
        crops.append(small.array_zyx.ravel())
    voxels = np.concatenate(crops).astype(np.float64)
    expected = voxels.mean(), voxels.std()
    assert (trained.preprocessing.mean_hu, trained.preprocessing.sd_hu) == pytest.approx(expected, abs=0.006)


def test_a_run_does_not_write_over_the_weights_that_it_starts_from(tmp_path):
    for init in (
        *(tmp_path / "fine", tmp_path / "fine.safetensors", tmp_path / "x" / ".." / "fine.json"),
        *(tmp_path / "fine" / "best", tmp_path / "fine" / "best.json", tmp_path / "fine" / "last"),
    ):
        with pytest.raises(ValueError, match="the weights to start from must not be those that the run writes, got"):
            train_stage(preset("course", "fine"), folder=tmp_path, init=init)


def test_real_cts_with_ignored_voxels_are_learnt_from_beside_painted_people_and_a_person_is_held_out(persons, tmp_path):
    known = {"mean_hu": -113.87, "sd_hu": 187.9}
    fine = preset("release", "fine", **PAINTED, n_between=0, **known)
    init = train_stage(fine, label_maps=persons, folder=tmp_path / "first", n_workers=0)
    told = []
    trained = load_trained(
        train_stage(
            preset("real", "fine", **REAL_AND_PAINTED, augmentation=0.0),
            label_maps=persons,
            pseudo_labelled=persons / "real",
            init=init,
            folder=tmp_path / "second",
            n_workers=0,
            on_note=told.append,
        )
    )
    average, last = load_trained(init), load_trained(tmp_path / "first" / "fine" / "last")
    assert (average.card["ema_decay"], last.card["ema_decay"]) == (0.98, 0.0)
    assert last.card["recipe"] == average.card["recipe"]
    pairs = [(weight, last.net.state_dict()[name]) for name, weight in average.net.state_dict().items()]
    assert not all(torch.equal(mean, of_last) for mean, of_last in pairs)
    held_out = trained.card["training_set"]["held_out"]
    assert trained.card["training_set"]["sources"] == {"pseudo_labelled": 1, "label_maps": BODIES_PER_PERSON}
    assert held_out in (["s1_totalseg117.nii.gz"], ["s2_totalseg117.nii.gz"])
    assert (trained.preprocessing.mean_hu, trained.preprocessing.sd_hu) == (-113.87, 187.9)
    entries = read_log(tmp_path / "second" / "fine" / "log.jsonl")
    best = max(entries, key=lambda entry: entry["validation_dice"])
    assert all(np.isfinite(entry["loss"]) for entry in entries)
    assert (trained.card["step"], trained.card["validation_dice"]) == (best["step"] + 1, best["validation_dice"])
    [note] = [note for note in told if "kept" in note]
    assert note.startswith(f"kept the weights of step {best['step'] + 1}, the best on what was held out (mean Dice ")
    kept = load_trained(tmp_path / "second" / "fine" / "best").net.state_dict()
    assert all(torch.equal(weight, kept[name]) for name, weight in trained.net.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "draws from label_maps, phantoms needs the folder label_maps, got none"),
        ({"sources": {"cases": 1.0}}, "draws from cases needs the folder cohort, got none"),
        ({"sources": {"phantoms": 1.0}, "n_unlabelled": 1}, "needs unlabelled CTs"),
    ],
)
def test_what_a_recipe_needs_and_was_not_given_is_said(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        train_stage(preset("release", "coarse", **(TINY | settings)), folder=tmp_path / "t", n_workers=0)
    assert not (tmp_path / "t").exists()


def test_an_unlabelled_folder_with_no_case_is_refused(label_maps, tmp_path):
    recipe = preset("release", "coarse", **PAINTED, n_unlabelled=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="must hold CTs"):
        train_stage(recipe, label_maps=label_maps, unlabelled=tmp_path / "empty", folder=tmp_path / "t", n_workers=0)
