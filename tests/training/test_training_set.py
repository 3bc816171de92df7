"""What a run learns from: every source in its place, none of them held out as well, what is missing told first."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_runs import PAINTED, REAL, REAL_AND_PAINTED, TINY

from flare_lib.ct.files import load_ct, save_ct, save_label_map
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Volume
from flare_lib.data.cohort import find_cases
from flare_lib.data.listing import list_cts
from flare_lib.display.cohort_page import save_thumbnail
from flare_lib.inference import coarse_to_fine, methods, stages
from flare_lib.inference.cohort_run import segment_cohort
from flare_lib.training import training_set
from flare_lib.training.recipes import preset
from flare_lib.training.training_set import N_VALIDATION_PHANTOMS, gather, moments_of_sources, validation_batches
from flare_lib.training.validation import N_PATCHES


def test_people_between_two_people_are_painted_beside_them(tmp_path):
    names = {str(i): name for i, name in enumerate(("liver", "spleen", "stomach", "aorta"), start=1)}
    (tmp_path / "names.json").write_text(json.dumps(names))
    for k, shift in enumerate((0, 1)):
        array = np.zeros((14, 20, 24), np.uint8)
        array[3:9, 5:11, 14 : 20 + shift], array[4:9, 5:9, 3:6], array[8 : 12 - shift, 13:17, 5:9] = 1, 2, 3
        array[2:12, 3:5, 10:12] = 4
        save_label_map(tmp_path / f"s{k}_totalseg117.nii.gz", array, Volume.from_array(array, (8.0, 8.0, 8.0)))
    recipe = preset("release", "fine", **PAINTED, n_between=1)
    told = []
    gathered = gather(recipe, label_maps=tmp_path, progress=lambda *where: told.append(where))
    *bodies, between = gathered.sources["label_maps"]
    assert len(bodies) == 8 and told == [("morphing", 1, 1)]
    volumes = [sorted({int(body.mask("stomach").sum()) for body in bodies}), int(between.mask("stomach").sum())]
    assert volumes[0][0] <= volumes[1] <= volumes[0][1] and volumes[0] == [3 * 4 * 4, 4 * 4 * 4]


def test_the_training_sets_mean_and_sd_lie_within_the_window(label_maps):
    recipe = preset("release", "fine", **PAINTED)
    notes = []
    sources = gather(recipe, label_maps=label_maps, on_note=notes.append).sources
    assert len(sources["label_maps"]) == 4
    assert notes == ["no two label maps have enough in common for the 30 people between people"]
    moments = moments_of_sources(sources, recipe, n_patches=8)
    assert -325 < moments.mean < 200
    assert 20 < moments.sd < 325


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Three CTs without labels, and the labels that flare segment's nets, here stand-ins, made of two of them."""

    def find_a_liver(ct, coarse, fine, **_):
        if ct.array_zyx.max() > 900:
            raise ValueError("a CT must be without metal, got some")
        labels = np.zeros(ct.shape_zyx, np.uint8)
        labels[2:5, 3:7, 2:8] = 1
        return coarse_to_fine.Segmentation(labels, ct, Box((0, 0, 0), ct.shape_zyx), {}, ())

    monkeypatch.setattr(stages, "load_stages", lambda folder, **_: ("coarse", "fine"))
    monkeypatch.setattr(coarse_to_fine, "segment", find_a_liver)
    methods.open_method.cache_clear()
    for k in range(3):
        hu = np.full((9, 12, 14), -1000, np.int16)
        hu[1:8, 2:10, 1:13] = 40 + k
        hu[4, 4, 4] = 1000 if k == 1 else 50
        (tmp_path / "archive" / "images").mkdir(parents=True, exist_ok=True)
        save_ct(tmp_path / "archive" / "images" / f"c{k}_0000.nii.gz", Volume.from_array(hu, (12.0, 11.0, 10.0)))
    cases = list_cts([tmp_path / "archive" / "images"])
    entries = segment_cohort(cases, tmp_path / "archive" / "labels", also=save_thumbnail)
    assert [entry.get("error", "") for entry in entries] == ["", "a CT must be without metal, got some", ""]
    yield tmp_path / "archive"
    methods.open_method.cache_clear()


def test_what_segment_made_of_an_archive_is_learnt_from_and_never_held_out(cohort, archive, tmp_path):
    recipe = preset("paper", "coarse", **REAL, n_unlabelled=1)
    gathered = gather(recipe, cohort=cohort, unlabelled=archive, pseudo_labelled=archive, cache=tmp_path / "cache")
    assert [case.name for case in gathered.sources["cases"]][2:] == ["c0", "c2"]
    assert all((case.labels == 1).any() for case in gathered.sources["cases"][2:])
    assert [case.name for case in gathered.unlabelled][2:] == ["c0", "c1", "c2"]
    assert all(case.labels is None for case in gathered.unlabelled)
    assert len(gathered.held_out["cases"]) == 1
    assert gathered.card() == {
        "sources": {"cases": 4},
        "pseudo_labelled": 2,
        "unlabelled": 5,
        "held_out": [gathered.held_out["cases"][0].name],
    }


def test_a_ct_that_is_held_out_is_learnt_from_under_no_other_name(cohort, tmp_path):
    """A copy as a float32 .nii with other axes in the cohort, among pseudo-labelled and among unlabelled CTs."""
    recipe = preset("paper", "coarse", **REAL, n_unlabelled=1)
    mixed = shutil.copytree(cohort, tmp_path / "mixed")
    [held_out] = gather(recipe, cohort=mixed, cache=tmp_path / "cache").held_out["cases"]
    others = [case for case in find_cases(mixed) if case.label_path and case.name != held_out.name]
    nets, more = tmp_path / "nets", tmp_path / "more"
    for folder, name in ((nets / "images", "again"), (more, "again")):
        folder.mkdir(parents=True)
        image = nib.as_closest_canonical(nib.load(mixed / "images" / f"{held_out.name}_0000.nii.gz"))
        turned = image.as_reoriented([[1, -1], [2, 1], [0, -1]])
        nib.save(nib.Nifti1Image(turned.get_fdata(dtype=np.float32), turned.affine), folder / f"{name}.nii")
        shutil.copy(others[0].ct_path, folder)
    (nets / "labels").mkdir()
    shutil.copy(others[0].label_path, nets / "labels")
    canonical = load_ct(nets / "images" / "again.nii")
    save_label_map(nets / "labels" / "again.nii.gz", np.ones(canonical.shape_zyx, np.uint8), canonical)
    notes = []
    gathered = gather(
        recipe, cohort=mixed, unlabelled=more, pseudo_labelled=nets, cache=tmp_path / "cache", on_note=notes.append
    )
    assert [case.name for case in gathered.held_out["cases"]] == [held_out.name]
    assert [case.name for case in gathered.sources["cases"]] == [*(case.name for case in others), others[0].name]
    assert "again" not in [case.name for case in gathered.unlabelled]
    assert (gathered.n_pseudo_labelled, len(gathered.unlabelled)) == (1, 3)
    assert notes == [
        "held out for validation, so not learnt from: again (1 of 2 pseudo-labelled CTs)",
        "held out for validation, so not learnt from: again (1 of 4 unlabelled CTs)",
    ]
    (nets / "labels" / others[0].label_path.name).unlink()
    with pytest.raises(
        ValueError, match="pseudo-labelled CTs must not all be held out for validation as well, got again"
    ):
        gather(recipe, cohort=mixed, pseudo_labelled=nets, cache=tmp_path / "cache")


def test_a_pool_is_open_while_cases_are_prepared_and_no_longer(cohort, archive, tmp_path):
    opened = []

    @contextmanager
    def pool():
        opened.append("open")
        yield None
        opened.append("closed")

    recipe = preset("paper", "coarse", **REAL, n_unlabelled=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="must hold CTs"):
        gather(recipe, cohort=tmp_path / "empty", cache=tmp_path / "cache", pool=pool())
    assert opened == []
    gather(recipe, cohort=cohort, unlabelled=archive, cache=tmp_path / "cache", pool=pool())
    assert opened == ["open", "closed"]
    gather(preset("course", "coarse", n_phantoms=1, n_unlabelled=0), pool=pool())
    assert opened == ["open", "closed"]


def test_pseudo_labels_that_are_not_there_or_that_nothing_draws_from_are_refused(cohort, tmp_path):
    (tmp_path / "alone").mkdir()
    shutil.copy(next((cohort / "images").iterdir()), tmp_path / "alone")
    with pytest.raises(ValueError, match=r"alone must hold CTs with labels, .*, got CTs only"):
        gather(preset("paper", "fine", **REAL), cohort=cohort, pseudo_labelled=tmp_path / "alone", cache=tmp_path)
    with pytest.raises(ValueError, match="as the preset real does, or from cases, got one that draws from phantoms"):
        gather(preset("course", "coarse", n_unlabelled=0), pseudo_labelled=cohort)


def test_unlabelled_cts_that_nothing_draws_from_are_refused_before_any_work(cohort, tmp_path):
    with pytest.raises(ValueError, match=r"\(n_unlabelled, 1 or more\), got 0; flare pseudo-label makes labels"):
        gather(preset("course", "fine"), unlabelled=cohort, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_person_held_out_is_none_to_learn_from(persons, tmp_path):
    recipe = preset("release", "fine", **PAINTED, n_between=0, n_validation=1)
    gathered = gather(recipe, label_maps=persons)
    whole = gather(replace(recipe, n_validation=0), label_maps=persons).sources["label_maps"]
    volumes = [{int(body.mask("liver").sum()) for body in some} for some in (whole, gathered.sources["label_maps"])]
    strangers = {int(body.mask("liver").sum()) for body in gathered.held_out["label_maps"]}
    assert volumes[0] == volumes[1] | strangers and not volumes[1] & strangers
    assert gathered.card()["held_out"] == gathered.held_out_names
    with pytest.raises(ValueError, match="n_validation must leave at least one of 2 people to learn from, got 2"):
        gather(replace(recipe, n_validation=2), label_maps=persons)


def test_what_real_cts_alone_are_normalised_by_and_a_share_that_nobody_brought(persons, tmp_path):
    alone = preset("real", "fine", **(REAL_AND_PAINTED | {"sources": {"pseudo_labelled": 1.0}}))
    gathered = gather(replace(alone, validate_every=0, keep="last"), pseudo_labelled=persons / "real", cache=tmp_path)
    [case] = gathered.sources["pseudo_labelled"]
    assert moments_of_sources(gathered.sources, alone) == case.moments
    with pytest.raises(ValueError, match="draws from pseudo_labelled needs the folder pseudo_labelled, got none"):
        gather(alone)


@pytest.mark.usefixtures("quick_phantoms")
def test_phantoms_held_out_stand_in_where_there_are_no_cases():
    recipe = preset("course", "coarse", n_steps=1, validate_every=1, n_unlabelled=0, n_phantoms=1)
    gathered = gather(recipe)
    held_out = gathered.held_out["phantoms"]
    assert (len(gathered.sources["phantoms"]), len(held_out)) == (1, N_VALIDATION_PHANTOMS)
    batches = validation_batches(held_out={"phantoms": held_out}, recipe=recipe)
    again = validation_batches(held_out={"phantoms": held_out}, recipe=recipe)
    assert len(batches) == N_PATCHES
    assert all(batch["target"].any() for batch in batches)
    assert torch.equal(batches[3]["image"], again[3]["image"])
    assert validation_batches({}, recipe) == []


def test_a_folder_of_unlabelled_cts_is_used_and_its_labels_are_not(cohort, label_maps, tmp_path):
    recipe = preset("release", "coarse", **PAINTED, n_unlabelled=1)
    gathered = gather(recipe, label_maps=label_maps, unlabelled=cohort, cache=tmp_path)
    assert len(gathered.unlabelled) == 5
    assert all(case.labels is None for case in gathered.unlabelled)


@pytest.mark.parametrize(
    ("settings", "given", "error"),
    [
        ({"sources": {"phantoms": 1.0}, "n_unlabelled": 1}, {}, ValueError),
        ({"sources": {"phantoms": 1.0, "cases": 1.0}}, {}, ValueError),
        ({"sources": {"phantoms": 1.0, "label_maps": 1.0}}, {"label_maps": "nowhere"}, FileNotFoundError),
        ({"sources": {"phantoms": 1.0}, "n_unlabelled": 1}, {"unlabelled": "nowhere"}, FileNotFoundError),
        ({"sources": {"phantoms": 1.0, "cases": 1.0}, "n_validation": 3}, {"cohort": "the cohort"}, ValueError),
    ],
)
def test_what_is_missing_is_said_before_a_phantom_is_made(cohort, tmp_path, monkeypatch, settings, given, error):
    made = []
    monkeypatch.setattr(training_set, "make_phantom", made.append)
    folders = {name: cohort if folder == "the cohort" else tmp_path / folder for name, folder in given.items()}
    with pytest.raises(error, match="got"):
        gather(preset("release", "coarse", **(TINY | settings)), cache=tmp_path / "cache", **folders)
    assert made == []
    assert not (tmp_path / "cache").exists()


def test_a_case_of_the_same_name_in_both_folders_is_two_cases(cohort, tmp_path):
    recipe = preset("paper", "coarse", **(REAL | {"n_validation": 0}), n_unlabelled=1)
    gathered = gather(recipe, cohort=cohort, unlabelled=_one_more(cohort, tmp_path), cache=tmp_path / "cache")
    labelled = {case.name: case.image_hu for case in gathered.sources["cases"]}
    (again,) = (case for case in gathered.unlabelled if case.name in labelled)
    assert not np.array_equal(again.image_hu, labelled[again.name])
    with pytest.raises(ValueError, match="every case must have a name of its own, got phantom_0003 twice"):
        gather(recipe, cohort=cohort, unlabelled=cohort, cache=tmp_path / "cache")


def _one_more(cohort, tmp_path):
    """Return a folder with another CT of the name of a labelled case: that of a case without labels."""
    (tmp_path / "more").mkdir()
    first, other = (find_cases(cohort)[k] for k in (0, 4))
    shutil.copy(other.ct_path, tmp_path / "more" / first.ct_path.name)
    return tmp_path / "more"
