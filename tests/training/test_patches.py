"""Patches: reproducible from seed and number alone, normalised, and cut as scans are cut."""

import numpy as np
import pytest
import torch

from flare_lib.ct.labels import organ
from flare_lib.data.structures import Structures
from flare_lib.training.patches import PaintedPatches, cut_patch, loader, make_patch
from flare_lib.training.presets import preset

NAMES = {0: "air", 1: "liver", 2: "fat", 3: "adrenal_gland_left"}


def person():
    array = np.zeros((40, 48, 56), np.uint8)
    array[:, 4:44, 4:52] = 2
    array[8:34, 12:36, 26:46] = 1
    array[20:24, 20:24, 12:15] = 3
    return Structures(array, NAMES, (5.0, 4.5, 4.0))


def recipe(**changes):
    small = {"patch_size": (12, 16, 20), "sources": {"label_maps": 1.0}, "n_steps": 5}
    return preset("first-coarse", **(small | changes))


def test_a_batch_depends_on_seed_and_number_alone():
    first = PaintedPatches({"label_maps": [person()]}, recipe())
    later = PaintedPatches({"label_maps": [person()]}, recipe(), start=3)
    other = PaintedPatches({"label_maps": [person()]}, recipe(seed=1))
    assert torch.equal(first.batch(3)["image"], next(iter(later))["image"])
    assert not torch.equal(first.batch(3)["image"], first.batch(4)["image"])
    assert not torch.equal(first.batch(3)["image"], other.batch(3)["image"])


def test_a_batch_made_in_the_background_is_the_same():
    patches = PaintedPatches({"label_maps": [person()]}, recipe())
    in_place = next(iter(loader(patches, n_workers=0)))
    in_background = next(iter(loader(patches, n_workers=1)))
    assert torch.equal(in_place["image"], in_background["image"])
    assert torch.equal(in_place["target"], in_background["target"])


def test_images_carry_a_channel_and_targets_are_labels_of_flare():
    batch = PaintedPatches({"label_maps": [person()]}, recipe()).batch(0)
    assert batch["image"].shape == (2, 1, 12, 16, 20)
    assert batch["image"].dtype == torch.float32
    assert batch["target"].shape == (2, 12, 16, 20)
    assert set(batch["target"].unique().tolist()) <= {0, organ("liver").id, organ("left adrenal gland").id}


def test_individual_normalisation_leaves_mean_0_and_sd_1_on_average():
    patches = [make_patch(person(), recipe(cut=0.0), np.random.default_rng(k))[0] for k in range(60)]
    assert abs(np.mean([p.mean() for p in patches])) < 0.1
    assert abs(np.mean([p.std() for p in patches]) - 1) < 0.1


def test_global_normalisation_uses_the_recipes_mean_and_sd():
    in_hu, _ = make_patch(person(), recipe(mean_hu=0.0, sd_hu=1.0), np.random.default_rng(0))
    patch, _ = make_patch(person(), recipe(mean_hu=-25.0, sd_hu=50.0), np.random.default_rng(0))
    assert -325 <= in_hu.min() < in_hu.max() <= 325
    np.testing.assert_allclose(patch, (in_hu + 25) / 50, atol=1e-5)


def test_every_patch_centred_on_an_organ_shows_one_and_small_organs_as_often_as_large():
    centred = recipe(organ_centred=1.0, cut=0.0)
    labels = [make_patch(person(), centred, np.random.default_rng(k))[1] for k in range(40)]
    assert all(label.any() for label in labels)
    adrenal = organ("left adrenal gland").id
    assert np.mean([(label == adrenal).any() for label in labels]) > 0.4


def test_beyond_the_ends_of_a_scan_there_is_air_and_no_label():
    cut = recipe(cut=2.0, mean_hu=0.0, sd_hu=1.0)  # 2.0: both ends of every patch
    image, labels = make_patch(person(), cut, np.random.default_rng(2))
    beyond = (image == -325).all(axis=(1, 2))
    assert beyond[-1] or beyond[0]
    assert not labels[beyond].any()
    assert (~beyond).sum() >= 12 // 3


def test_a_kind_of_person_that_nobody_brought_is_refused():
    with pytest.raises(ValueError, match="got none of \\['phantoms'\\]"):
        PaintedPatches({"label_maps": [person()]}, recipe(sources={"label_maps": 0.5, "phantoms": 0.5}))


def test_a_cut_patch_lies_in_its_volume_and_every_place_is_reached():
    volume = np.arange(5 * 7 * 9).reshape(5, 7, 9)
    starts = set()
    for seed in range(300):
        patch = cut_patch(volume, (4, 7, 6), np.random.default_rng(seed))
        at = tuple(int(v) for v in np.argwhere(volume == patch[0, 0, 0])[0])
        np.testing.assert_array_equal(patch, volume[at[0] : at[0] + 4, :, at[2] : at[2] + 6])
        starts.add(at)
    assert starts == {(z, 0, x) for z in range(2) for x in range(4)}


def test_a_volume_smaller_than_the_patch_is_surrounded_by_its_lowest_value():
    volume = np.full((2, 3, 4), 7.0)
    volume[0, 0, 0] = -5
    patch = cut_patch(volume, (4, 3, 6), np.random.default_rng(0))
    assert patch.shape == (4, 3, 6)
    assert (patch == 7).sum() == 23
    assert (patch == -5).sum() == 4 * 3 * 6 - 23


def test_unlabelled_patches_come_with_the_batch_the_same_for_the_same_number():
    cts = [np.random.default_rng(k).normal(size=(20, 22, 24)).astype(np.float32) for k in range(2)]
    patches = PaintedPatches({"label_maps": [person()]}, recipe(n_unlabelled=3), unlabelled=cts)
    batch = patches.batch(4)
    assert batch["unlabelled"].shape == (3, 1, 12, 16, 20)
    assert torch.equal(batch["unlabelled"], patches.batch(4)["unlabelled"])
    assert not torch.equal(batch["unlabelled"], patches.batch(5)["unlabelled"])
    plain = PaintedPatches({"label_maps": [person()]}, recipe())
    assert torch.equal(batch["image"], plain.batch(4)["image"])
    with pytest.raises(ValueError, match=r"needs unlabelled CTs \(3 patches a step\), got none"):
        PaintedPatches({"label_maps": [person()]}, recipe(n_unlabelled=3))


def test_augmentation_changes_the_patches_but_the_last_ones():
    plain = PaintedPatches({"label_maps": [person()]}, recipe(n_steps=10))
    augmented = PaintedPatches({"label_maps": [person()]}, recipe(n_steps=10, augmentation=1.0, plain_steps=4))
    same = [torch.equal(plain.batch(k)["image"], augmented.batch(k)["image"]) for k in range(10)]
    assert same == [False] * 6 + [True] * 4
    assert set(augmented.batch(0)["target"].unique().tolist()) <= {0, 1, 8}
