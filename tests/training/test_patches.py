"""Patches: reproducible from seed and number alone, normalised, and cut as scans are cut."""

import multiprocessing
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from flare_lib.ct.labels import IGNORED, organ
from flare_lib.ct.moments import Moments
from flare_lib.data.augment import Augmentation
from flare_lib.data.prepared import PreparedCase
from flare_lib.machine.extras import MissingExtra
from flare_lib.synthetic.structures import Structures
from flare_lib.training.patches import Patches, cut_patch, loader, paint_patch
from flare_lib.training.recipes import preset

NAMES = {0: "air", 1: "liver", 2: "fat", 3: "adrenal_gland_left"}


def person():
    array = np.zeros((40, 48, 56), np.uint8)
    array[:, 4:44, 4:52] = 2
    array[8:34, 12:36, 26:46] = 1
    array[20:24, 20:24, 12:15] = 3
    return Structures(array, NAMES, (5.0, 4.5, 4.0))


def recipe(**changes):
    # no stride: a patch of any size, as no net sees it here
    small = {"patch_size": (12, 16, 20), "strides": ((1, 1, 1),) * 4, "sources": {"label_maps": 1.0}, "n_steps": 5}
    return preset("release", "coarse", **(small | changes))


def test_a_batch_depends_on_seed_and_number_alone():
    first = Patches({"label_maps": [person()]}, recipe())
    later = Patches({"label_maps": [person()]}, recipe(), start=3)
    other = Patches({"label_maps": [person()]}, recipe(seed=1))
    assert torch.equal(first.batch(3)["image"], next(iter(later))["image"])
    sent = pickle.loads(pickle.dumps(first))  # as to processes that are not forked
    assert torch.equal(first.batch(3)["image"], sent.batch(3)["image"])
    assert not torch.equal(first.batch(3)["image"], first.batch(4)["image"])
    assert not torch.equal(first.batch(3)["image"], other.batch(3)["image"])


def batches_made_here_and_in_the_background():
    patches = Patches({"label_maps": [person()]}, recipe())
    return [{name: part.numpy() for name, part in next(loader(patches, n_workers=n)).items()} for n in (0, 1)]


@pytest.mark.slow("a process of its own, and one of the loader's")
def test_a_batch_made_in_the_background_is_the_same(fresh_processes):
    with fresh_processes(1) as pool:  # the loader forks
        here, in_the_background = pool.submit(batches_made_here_and_in_the_background).result()
    assert here.keys() == in_the_background.keys() == {"image", "target"}
    for name, part in here.items():
        np.testing.assert_array_equal(part, in_the_background[name])


@pytest.mark.parametrize("refused", [FileNotFoundError, ImportError])
def test_where_processes_cannot_share_a_lock_this_one_makes_the_batches(monkeypatch, refused):
    def lock():
        raise refused

    monkeypatch.setattr(multiprocessing, "Lock", lock)
    patches, notes = Patches({"label_maps": [person()]}, recipe()), []
    made = loader(patches, n_workers=2, on_note=notes.append)
    for k in range(2):
        assert torch.equal(next(made)["image"], patches.batch(k)["image"])
    [note] = notes
    assert "/dev/shm" in note
    assert next(loader(patches, n_workers=2)).keys() == {"image", "target"}  # nobody listens


@pytest.mark.skipif(sys.platform == "win32", reason="there are no forks")
def test_the_tests_own_process_is_not_forked():
    with pytest.raises(RuntimeError, match="pytest's own process must not be forked"):
        multiprocessing.get_context("fork").Process(target=person).start()


def test_a_person_without_organs_is_painted_anywhere():
    leg = Structures(np.where(person().array_zyx > 0, 2, 0).astype(np.uint8), NAMES, (5.0, 4.5, 4.0))
    image, labels = paint_patch(leg, recipe(foreground_share=1.0, growths=3.0), np.random.default_rng(0))
    assert not labels.any()
    assert np.ptp(image) > 0.5  # of a body, not only air


def test_images_carry_a_channel_and_targets_are_labels_of_flare():
    batch = Patches({"label_maps": [person()]}, recipe()).batch(0)
    assert batch["image"].shape == (2, 1, 12, 16, 20)
    assert batch["image"].dtype == torch.float32
    assert batch["target"].shape == (2, 12, 16, 20)
    assert set(batch["target"].unique().tolist()) <= {0, organ("liver").id, organ("left adrenal gland").id}


def test_individual_normalisation_leaves_mean_0_and_sd_1_on_average():
    patches = [paint_patch(person(), recipe(cut=0.0), np.random.default_rng(k))[0] for k in range(60)]
    assert abs(np.mean([p.mean() for p in patches])) < 0.1
    assert abs(np.mean([p.std() for p in patches]) - 1) < 0.1


def test_a_patch_of_nothing_but_air_does_not_end_the_training():
    array = np.zeros((40, 48, 56), np.uint8)
    array[38:, 46:, 54:] = 2
    far_away = Structures(array, NAMES, (5.0, 4.5, 4.0))
    patches = [paint_patch(far_away, recipe(noise_hu=(0, 0)), np.random.default_rng(k)) for k in range(5)]
    assert all(np.isfinite(image).all() and not labels.any() for image, labels in patches)
    assert any(np.ptp(image) == 0 for image, _ in patches)


def test_global_normalisation_uses_the_recipes_mean_and_sd():
    in_hu, _ = paint_patch(person(), recipe(mean_hu=0.0, sd_hu=1.0), np.random.default_rng(0))
    patch, _ = paint_patch(person(), recipe(mean_hu=-25.0, sd_hu=50.0), np.random.default_rng(0))
    assert -325 <= in_hu.min() < in_hu.max() <= 325
    np.testing.assert_allclose(patch, (in_hu + 25) / 50, atol=1e-5)


def test_every_patch_centred_on_an_organ_shows_one_and_small_organs_as_often_as_large():
    centred = recipe(foreground_share=1.0, cut=0.0)
    labels = [paint_patch(person(), centred, np.random.default_rng(k))[1] for k in range(40)]
    assert all(label.any() for label in labels)
    adrenal = organ("left adrenal gland").id
    assert np.mean([(label == adrenal).any() for label in labels]) > 0.4


def test_beyond_the_ends_of_a_scan_there_is_air_and_no_label():
    cut = recipe(cut=1.0, narrow=0.0, mean_hu=0.0, sd_hu=1.0)  # 1.0: either end of every second patch
    ends = []
    for k in range(12):
        image, labels = paint_patch(person(), cut, np.random.default_rng(k))
        beyond = (image == -325).all(axis=(1, 2))
        assert not labels[beyond].any()
        assert (~beyond).sum() >= 12 // 3
        ends.append((beyond[0], beyond[-1]))
    assert (np.mean(ends, axis=0) > 0.2).all()


@pytest.mark.parametrize("n_slices", [1, 2])
def test_a_patch_of_one_or_two_slices_is_never_cut(n_slices):
    whole = Structures(np.full((30, 40, 50), 2, np.uint8), NAMES, (8.0, 8.0, 8.0))
    asked = recipe(cut=1.0, mean_hu=0.0, sd_hu=1.0, spacing_zyx_mm=(5.0, 4.0, 5.0), patch_size=(n_slices, 20, 18))
    for k in range(5):
        image, labels = paint_patch(whole, asked, np.random.default_rng(k))
        assert image.shape == labels.shape == (n_slices, 20, 18)
        assert (image > -325).any(axis=(1, 2)).all()


def test_a_narrow_field_is_square_has_air_around_it_and_no_label_there():
    array = np.full((30, 100, 100), 2, np.uint8)
    array[10:20, 40:60, 40:60] = 1
    everywhere = Structures(array, NAMES, (8.0, 8.0, 8.0))
    asked = recipe(cut=0.0, foreground_share=1.0, mean_hu=0.0, sd_hu=1.0, spacing_zyx_mm=(5.0, 4.0, 5.0))
    widths, n_labelled = [], 0
    for k in range(20):
        one = replace(asked, narrow=1.0, patch_size=(12, 70, 60))
        image, labels = paint_patch(everywhere, one, np.random.default_rng(k))
        rows, columns = ((image > -325).any(axis=axes) for axes in ((0, 2), (0, 1)))
        assert not labels[:, ~rows].any() and not labels[:, :, ~columns].any()
        n_labelled += labels.any()
        widths.append((4 * rows.sum(), 5 * columns.sum()))
    assert n_labelled > 10
    assert 120 < np.min(widths) < 160 and 230 < np.max(widths) <= 265
    assert np.abs(np.diff(widths)).max() <= 5  # a square, rounded to voxels
    wide = paint_patch(everywhere, replace(one, narrow=0.0), np.random.default_rng(0))[0]
    assert (wide > -325).any(axis=(0, 1)).all() and (wide > -325).any(axis=(0, 2)).all()


def test_a_person_grows_lacks_organs_and_is_in_a_phase_as_the_recipe_says():
    plain = recipe(cut=0.0, foreground_share=1.0, patch_size=(36, 48, 56))
    liver = organ("liver").id

    def volumes(**changes):
        made = (paint_patch(person(), replace(plain, **changes), np.random.default_rng(k))[1] for k in range(12))
        return np.array([(labels == liver).sum() for labels in made], float)

    assert (volumes() > 0).any()
    assert (volumes(missing={"liver": 1.0}) == 0).all()
    grown = volumes(growths=8.0)
    assert not np.array_equal(grown, volumes())
    in_hu = replace(plain, mean_hu=0.0, sd_hu=1.0)
    means = [
        np.median(
            [
                image[labels == liver].mean()
                for image, labels in (
                    paint_patch(person(), replace(in_hu, phases=p), np.random.default_rng(k)) for k in range(12)
                )
                if (labels == liver).any()
            ]
        )
        for p in ((1, 0, 0, 0), (0, 0, 1, 0))
    ]
    assert means[0] < 65 < 80 < means[1]
    quiet, loud = (
        np.mean(
            [
                np.abs(
                    np.diff(paint_patch(person(), replace(in_hu, noise_hu=(sd, sd)), np.random.default_rng(k))[0])
                ).mean()
                for k in range(6)
            ]
        )
        for sd in (3.0, 60.0)
    )
    assert loud > quiet + 15


def test_a_kind_of_person_that_nobody_brought_is_refused():
    with pytest.raises(ValueError, match="got none of \\['phantoms'\\]"):
        Patches({"label_maps": [person()]}, recipe(sources={"label_maps": 0.5, "phantoms": 0.5}))


def test_augmentation_without_monai_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(MissingExtra, match=r"^monai must be installed \(pip install 'flare-lib\[train\]'\)"):
        Patches({"phantoms": [person()]}, recipe(sources={"phantoms": 1.0}, augmentation=0.2))
    Patches({"phantoms": [person()]}, recipe(sources={"phantoms": 1.0}, augmentation=0.0))


def case(shape=(5, 7, 9), labels=None, places=None):
    """A prepared case whose voxels all differ, in HU."""
    hu = np.arange(np.prod(shape), dtype=np.float16).reshape(shape) - 100
    return PreparedCase("a", hu, labels, places or {}, Moments.of(hu))


def in_hu(**changes):
    return recipe(**({"mean_hu": 0.0, "sd_hu": 1.0, "sources": {"cases": 1.0}} | changes))


def test_a_cut_patch_lies_in_its_case_and_every_place_is_reached():
    volume, starts = case().image_hu, set()
    for seed in range(300):
        patch, labels = cut_patch(case(), in_hu(patch_size=(4, 7, 6)), np.random.default_rng(seed))
        at = tuple(int(v) for v in np.argwhere(volume == patch[0, 0, 0])[0])
        np.testing.assert_array_equal(patch, volume[at[0] : at[0] + 4, :, at[2] : at[2] + 6])
        assert not labels.any()
        starts.add(at)
    assert starts == {(z, 0, x) for z in range(2) for x in range(4)}


def test_a_case_smaller_than_the_patch_lies_anywhere_in_it_surrounded_by_air():
    places = set()
    for seed in range(100):
        patch, _ = cut_patch(case((2, 3, 4)), in_hu(patch_size=(4, 3, 6)), np.random.default_rng(seed))
        assert (patch == -325).sum() == 4 * 3 * 6 - 24
        places.add(tuple(int(v) for v in np.argwhere(patch == -100)[0]))
    assert places == {(z, 0, x) for z in range(3) for x in range(3)}


def test_patches_are_centred_on_voxels_of_organs_each_organ_alike():
    labels = np.zeros((20, 22, 24), np.uint8)
    labels[2:18, 2:12, 2:20] = 1
    labels[15, 18, 20] = 8
    places = {k: np.argwhere(labels == k) for k in (1, 8)}
    one = case(labels.shape, labels, places)
    cuts = [
        cut_patch(one, in_hu(patch_size=(4, 4, 6), foreground_share=1.0), np.random.default_rng(k))[1]
        for k in range(60)
    ]
    assert all(cut.any() for cut in cuts)
    assert 0.3 < np.mean([(cut == 8).any() for cut in cuts]) < 0.7
    # in the middle where the case is large enough: from 13, 16 and 17 on
    assert all((cut[2, 2, 3]) == 8 for cut in cuts if (cut == 8).any())


def test_ignored_voxels_of_a_case_stay_so_in_its_patches_and_what_lies_outside_is_background():
    labels = np.full((2, 3, 4), IGNORED, np.uint8)
    labels[1, 1, 1:3] = 5
    where = {5: np.argwhere(labels == 5)}
    r = in_hu(patch_size=(4, 5, 6), foreground_share=1.0)
    image, cut = cut_patch(case(labels.shape, labels, where), r, np.random.default_rng(0))
    inside = image > -325
    assert inside.sum() == 24
    np.testing.assert_array_equal(cut[inside], labels.ravel())
    assert not cut[~inside].any()
    batch = Patches({"cases": [case(labels.shape, labels, where)]}, r).batch(0)
    assert set(batch["target"].unique().tolist()) == {0, 5, IGNORED}


def test_individual_normalisation_is_by_the_cases_own_mean_and_sd():
    own = case()
    patch, _ = cut_patch(own, in_hu(mean_hu=None, sd_hu=None, patch_size=(5, 7, 9)), np.random.default_rng(0))
    np.testing.assert_allclose(patch * own.moments.sd + own.moments.mean, own.image_hu, atol=1e-3)
    assert abs(patch.mean()) < 1e-5


def test_what_an_augmentation_shrinks_into_the_patch_was_cut_for_it():
    full = PreparedCase("a", np.full((40, 44, 48), 50, np.float16), None, {}, Moments())
    r = in_hu(patch_size=(12, 16, 20))
    for what in (Augmentation(scale=0.6), Augmentation(rotation_rad=(0.3, 0.0, 0.0))):
        inside = []
        for seed in range(20):
            patch, _ = cut_patch(full, r, np.random.default_rng(seed), what)
            assert patch.shape == (12, 16, 20)
            inside.append((patch == 50).all())
        assert any(inside)  # near the rim there is air


def test_unlabelled_patches_come_with_the_batch_the_same_for_the_same_number():
    cts = [case((20, 22, 24)), case((14, 30, 18))]
    patches = Patches({"label_maps": [person()]}, recipe(n_unlabelled=3), unlabelled=cts)
    batch = patches.batch(4)
    assert batch["unlabelled"].shape == (3, 1, 12, 16, 20)
    assert torch.equal(batch["unlabelled"], patches.batch(4)["unlabelled"])
    assert not torch.equal(batch["unlabelled"], patches.batch(5)["unlabelled"])
    plain = Patches({"label_maps": [person()]}, recipe())
    assert torch.equal(batch["image"], plain.batch(4)["image"])
    with pytest.raises(ValueError, match=r"needs unlabelled CTs \(3 patches a step\), got none"):
        Patches({"label_maps": [person()]}, recipe(n_unlabelled=3))


def test_cases_and_persons_are_drawn_by_their_shares():
    labels = np.zeros((20, 22, 24), np.uint8)
    labels[4:16, 4:18, 4:20] = 3  # no person here has a spleen
    real = case(labels.shape, labels, {3: np.argwhere(labels == 3)})
    r = recipe(sources={"label_maps": 0.25, "cases": 0.75}, batch_size=1, foreground_share=1.0, cut=0.0)
    patches = Patches({"label_maps": [person()], "cases": [real]}, r)
    spleens = np.mean([bool((patches.batch(k)["target"] == 3).any()) for k in range(80)])
    assert 0.6 < spleens < 0.9


def test_two_processes_together_see_the_batch_that_one_sees_of_twice_the_size(monkeypatch):
    small, large = recipe(n_unlabelled=1), recipe(n_unlabelled=2, batch_size=4)
    whole = Patches({"label_maps": [person()]}, large, unlabelled=[case((20, 22, 24))]).batch(2)
    for part in range(2):
        monkeypatch.setattr("flare_lib.training.patches.rank_and_count", lambda part=part: (part, 2))
        mine = Patches({"label_maps": [person()]}, small, unlabelled=[case((20, 22, 24))]).batch(2)
        for name, n in (("image", 2), ("target", 2), ("unlabelled", 1)):
            assert torch.equal(mine[name], whole[name][part * n : (part + 1) * n])


def test_augmentation_changes_the_patches_but_the_last_ones():
    plain = Patches({"label_maps": [person()]}, recipe(n_steps=10))
    augmented = Patches(
        {"label_maps": [person()]}, recipe(n_steps=10, augmentation=1.0, n_steps_without_augmentation=4)
    )
    same = [torch.equal(plain.batch(k)["image"], augmented.batch(k)["image"]) for k in range(10)]
    assert same == [False] * 6 + [True] * 4
    assert set(augmented.batch(0)["target"].unique().tolist()) <= {0, 1, 8}


@pytest.mark.parametrize("kind", ["label_maps", "cases"])
def test_a_random_appearance_changes_grey_values_alone(kind):
    hu = np.random.default_rng(2).normal(40, 90, (14, 18, 22)).astype(np.float16)
    labels = (hu > 60).astype(np.uint8)
    sources = {"label_maps": [person()], "cases": [PreparedCase("a", hu, labels, {}, Moments.of(hu))]}
    plain, changed = (
        Patches(sources, recipe(sources={kind: 1.0}, batch_size=6, appearance=strength)).batch(3)
        for strength in (0.0, 1.0)
    )
    assert torch.equal(plain["target"], changed["target"])
    assert (plain["image"] != changed["image"]).flatten(1).any(1).sum() >= 4  # of six; some are left as they are
