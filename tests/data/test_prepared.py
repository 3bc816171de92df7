"""Prepared cases: the paper's cropping, the values of a fresh preprocessing, nothing stale and nothing half-written."""

import errno
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cohorts import SPACING, hu, organs, pair, write_ct, write_labels
from dicoms import N, only, write_series

from flare_lib.ct.files import load_ct
from flare_lib.ct.labels import IGNORED
from flare_lib.ct.preprocess import Preprocessing, find_foreground
from flare_lib.ct.roi import bounding_box, crop, crop_volume
from flare_lib.data import prepared
from flare_lib.data.cohort import find_cases
from flare_lib.data.prepared import moments_of, prepare_cases

AS_THEY_ARE = Preprocessing(SPACING)
FINER = Preprocessing((4.0, 3.0, 2.0))


def test_around_the_foreground_a_case_is_what_preprocessing_makes_of_its_body(tmp_path):
    (case,) = prepare_cases(find_cases(pair(tmp_path)), tmp_path / "cache", FINER)
    ct = load_ct(tmp_path / "images" / "a_0000.nii.gz")
    fresh = FINER.apply(crop_volume(ct, find_foreground(ct.array_zyx))).array_zyx
    normalized = (case.image_hu.astype(np.float32) - case.moments.mean) / case.moments.sd
    np.testing.assert_allclose(
        normalized, fresh, atol=0.13 / case.moments.sd
    )  # half a step of float16 at 256 to 325 HU
    assert case.labels.shape == case.image_hu.shape
    assert case.labels.dtype == np.uint8


def test_around_the_organs_a_case_is_their_box_and_the_margin(tmp_path):
    (case,) = prepare_cases(find_cases(pair(tmp_path)), tmp_path / "cache", AS_THEY_ARE, around="organs", margin_mm=4.0)
    box = bounding_box(organs()).widen(4.0, SPACING, organs().shape)
    np.testing.assert_array_equal(case.labels, crop(organs(), box))
    np.testing.assert_array_equal(case.image_hu, crop(hu(), box).clip(-325, 325))


def test_places_are_voxels_of_their_organs(tmp_path):
    (case,) = prepare_cases(find_cases(pair(tmp_path)), tmp_path / "cache", AS_THEY_ARE)
    assert set(case.class_locations) == {1, 2, 3, 13}
    for organ, places in case.class_locations.items():
        assert (case.labels[tuple(places.T)] == organ).all()
        assert len(np.unique(places, axis=0)) == (organs() == organ).sum()


def test_a_case_is_sent_to_another_process_as_the_place_of_its_files(tmp_path):
    (case,) = prepare_cases(find_cases(pair(tmp_path)), tmp_path / "cache", AS_THEY_ARE)
    sent = pickle.dumps(case)
    assert len(sent) < 1000 + len(str(tmp_path)) < case.image_hu.nbytes
    there = pickle.loads(sent)
    assert isinstance(there.image_hu, np.memmap)
    np.testing.assert_array_equal(there.image_hu, case.image_hu)
    np.testing.assert_array_equal(there.labels, case.labels)
    assert there.class_locations.keys() == case.class_locations.keys()
    in_memory = replace(case, image_hu=np.array(case.image_hu[1:]), labels=None)
    arrived = pickle.loads(pickle.dumps(in_memory))
    np.testing.assert_array_equal(arrived.image_hu, in_memory.image_hu)
    assert (arrived.labels, arrived.moments, arrived.content) == (None, case.moments, case.content)


def test_ignored_voxels_are_kept_and_are_no_organ(tmp_path):
    labels = np.full(organs().shape, IGNORED, np.uint8)  # not even a voxel of background
    labels[organs() == 3] = 3
    labels[4, 3, 4] = 13
    pair(tmp_path, labels=labels)
    (case,) = prepare_cases(find_cases(tmp_path), tmp_path / "cache", AS_THEY_ARE, around="organs", margin_mm=4.0)
    box = bounding_box(organs() == 3).widen(4.0, SPACING, organs().shape)
    np.testing.assert_array_equal(case.labels, crop(labels, box))
    assert {organ: len(places) for organ, places in case.class_locations.items()} == {
        3: (labels == 3).sum(),
        13: 1,
    }
    (finer,) = prepare_cases(find_cases(tmp_path), tmp_path / "cache", FINER)
    assert set(np.unique(finer.labels)) == {3, IGNORED}


def test_mean_and_sd_are_those_of_all_voxels_together(tmp_path):
    for seed in range(3):
        pair(tmp_path, f"c{seed}", ct=hu(seed) + 20 * seed)
    cases = prepare_cases(find_cases(tmp_path), tmp_path / "cache", AS_THEY_ARE, around="organs", margin_mm=1.0)
    voxels = np.concatenate([case.image_hu.astype(np.float64).ravel() for case in cases])
    together = moments_of(cases)
    assert (together.mean, together.sd) == pytest.approx((voxels.mean(), voxels.std()), rel=1e-9)
    own = cases[0].image_hu.astype(np.float64)
    assert (cases[0].moments.mean, cases[0].moments.sd) == pytest.approx((own.mean(), own.std()), rel=1e-9)
    with pytest.raises(ValueError, match="over at least one case, got none"):
        moments_of([])


def test_an_unlabelled_case_has_no_labels_and_cannot_be_cropped_around_its_organs(tmp_path):
    write_ct(tmp_path / "a.nii.gz")
    cases = find_cases(tmp_path)
    (case,) = prepare_cases(cases, tmp_path / "cache", AS_THEY_ARE)
    assert (case.labels, case.class_locations) == (None, {})
    with pytest.raises(ValueError, match=r"case a: .* must have labels, got only a CT"):
        prepare_cases(cases, tmp_path / "cache", AS_THEY_ARE, around="organs")


def counted(monkeypatch):
    """Return a list that grows by a name whenever a case is prepared."""
    made, prepare = [], prepared._prepare
    monkeypatch.setattr(prepared, "_prepare", lambda case, **how: (made.append(case.name), prepare(case, **how)))
    return made


def test_what_is_there_is_not_made_again_and_a_changed_recipe_or_file_is(tmp_path, monkeypatch):
    made = counted(monkeypatch)
    pair(tmp_path, "a")
    pair(tmp_path, "b")
    cases, cache = find_cases(tmp_path), tmp_path / "cache"
    seen = []
    prepare_cases(cases[:1], cache, AS_THEY_ARE)
    prepare_cases(cases, cache, AS_THEY_ARE, progress=lambda done, total: seen.append((done, total)))
    assert made == ["a", "b"]
    assert seen == [(1, 2), (2, 2)]
    for changed in (FINER, Preprocessing(SPACING, window_hu=(-100.0, 200.0))):
        prepare_cases(cases[:1], cache, changed)
    prepare_cases(cases[:1], cache, AS_THEY_ARE, around="organs")
    prepare_cases(cases[:1], cache, AS_THEY_ARE, around="organs", margin_mm=2.0)
    assert made == ["a", "b", "a", "a", "a", "a"]
    prepare_cases(cases[:1], cache, Preprocessing(SPACING, mean_hu=1.0, sd_hu=2.0))  # plays no part
    assert len(made) == 6
    pair(tmp_path, "a", ct=hu(7))
    (case,) = prepare_cases(cases[:1], cache, AS_THEY_ARE)
    assert len(made) == 7
    assert case.image_hu[3, 4, 5] == hu(7)[4, 6, 8]


def test_a_slice_that_has_changed_makes_its_case_anew(tmp_path, monkeypatch):
    series = write_series(tmp_path / "images" / "a")
    write_series(tmp_path / "images" / "b", lambda ds, k: setattr(ds, "SOPInstanceUID", f"1.2.{k}"))
    cases = find_cases(tmp_path)
    same, copy = prepare_cases(cases, tmp_path / "cache", AS_THEY_ARE)
    assert same.content == copy.content  # whatever the headers say
    made = counted(monkeypatch)
    write_series(tmp_path / "images" / "a", only(2, SeriesDescription="another", RescaleIntercept=-1023))
    changed, _ = prepare_cases(cases, tmp_path / "cache", AS_THEY_ARE)
    assert made == ["a"]
    assert changed.content != copy.content
    assert len(list(series.iterdir())) == N


@pytest.mark.slow("two processes that load the library")
def test_several_processes_make_the_same_cases(tmp_path, two_processes):
    for seed in range(3):
        pair(tmp_path, f"c{seed}", ct=hu(seed))
    alone = prepare_cases(find_cases(tmp_path), tmp_path / "one", FINER)
    together = prepare_cases(find_cases(tmp_path), tmp_path / "two", FINER, pool=two_processes)
    for a, b in zip(alone, together, strict=True):
        assert (a.name, a.moments) == (b.name, b.moments)
        np.testing.assert_array_equal(a.image_hu, b.image_hu)
        np.testing.assert_array_equal(a.class_locations[1], b.class_locations[1])


def test_a_full_disk_leaves_nothing_half_written_and_the_rest_usable(tmp_path, monkeypatch):
    pair(tmp_path, "a")
    pair(tmp_path, "b")
    cases, cache, write = find_cases(tmp_path), tmp_path / "cache", Path.write_bytes
    prepare_cases(cases[:1], cache, AS_THEY_ARE)

    def full_disk(path, content):
        if path.name == "labels.npy":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    (of_recipe,) = cache.iterdir()
    with pytest.raises(ValueError, match=f"case b: {of_recipe / 'b'}: No space left on device"):
        prepare_cases(cases, cache, AS_THEY_ARE)
    assert sorted(path.name for path in of_recipe.iterdir()) == ["a", "recipe.json"]
    assert json.loads((of_recipe / "recipe.json").read_text())["around"] == "foreground"


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.zeros_like(organs()), "case a: the label map must hold an organ, got only background"),
        (np.where(organs(), 0, IGNORED), "case a: the label map must hold an organ, got only background"),
        (np.where(organs(), 14, IGNORED), "case a: the labels of the label map must be 0 to 13, got 0 to 14"),
        (organs() + 1, "case a: the labels of the label map must be 0 to 13, got 0 to 14"),
        (np.pad(organs(), [(0, 0), (1, 0), (0, 0)]), r"case a: labels must lie on the CT's grid, got \(9, 15, 20\)"),
    ],
)
def test_labels_that_cannot_be_are_refused_by_name(tmp_path, labels, told):
    pair(tmp_path)
    write_labels(tmp_path / "labels" / "a.nii.gz", labels)
    with pytest.raises(ValueError, match=told):
        prepare_cases(find_cases(tmp_path), tmp_path / "cache", AS_THEY_ARE)


def test_around_must_be_known(tmp_path):
    with pytest.raises(ValueError, match="around must be one of foreground, organs, got 'heart'"):
        prepare_cases([], tmp_path, AS_THEY_ARE, around="heart")


def test_a_damaged_case_is_named_and_made_anew(tmp_path, monkeypatch):
    pair(tmp_path, "a")
    pair(tmp_path, "b", ct=hu(1))
    cases, cache, notes = find_cases(tmp_path), tmp_path / "cache", []
    image = np.array(prepare_cases(cases, cache, AS_THEY_ARE, on_note=notes.append)[0].image_hu)
    assert notes == []
    (of_recipe,) = cache.iterdir()
    for name, content in (("image.npy", b"\x93NUMPY"), ("case.json", b"{"), ("class_locations.npy", b"")):
        (of_recipe / "a" / name).write_bytes(content)
        made = counted(monkeypatch)
        again = prepare_cases(cases, cache, AS_THEY_ARE, on_note=notes.append)
        assert made == ["a"]
        assert f"{of_recipe / 'a'} is damaged and prepared again (" in notes.pop()
        np.testing.assert_array_equal(again[0].image_hu, image)


def test_all_cases_that_cannot_be_prepared_are_named_and_the_others_are_prepared(tmp_path, monkeypatch):
    for name in "abcdefgh":
        pair(tmp_path, name)
        if name != "e":
            (tmp_path / "images" / f"{name}_0000.nii.gz").write_bytes(b"no CT")
    with pytest.raises(ValueError, match=r"^case a: .*; case b: .*; case c: .*; case d: .*; case f: .*; and 2 more$"):
        prepare_cases(find_cases(tmp_path), tmp_path / "cache", AS_THEY_ARE)
    (of_recipe,) = (tmp_path / "cache").iterdir()
    assert sorted(path.name for path in of_recipe.iterdir()) == ["e", "recipe.json"]


def test_labels_without_an_organ_are_passed_over_by_name_where_a_net_made_them(tmp_path):
    for name in ("a", "b", "c"):
        pair(tmp_path, name, labels=np.zeros_like(organs()) if name == "b" else organs())
    told = []
    for _ in range(2):  # what is there already does not hide it
        cases = prepare_cases(
            find_cases(tmp_path), tmp_path / "cache", AS_THEY_ARE, pass_over_empty=True, on_note=told.append
        )
        assert [case.name for case in cases] == ["a", "c"]
    assert told == ["1 of 3 cases have no organ in their labels and are passed over: b"] * 2
