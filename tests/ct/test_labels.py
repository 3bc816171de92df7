"""The organ table, and how other data sets' numbers become FLARE's."""

import re

import nibabel as nib
import numpy as np
import pytest
import torch

from flare_lib.ct.labels import (
    DATA_SETS,
    IGNORED,
    N_CLASSES,
    N_ORGANS,
    ORGANS,
    as_label_map,
    ids_in,
    label_counts,
    left_right_problems,
    numbering_problems,
    organ,
    present_organs,
    to_flare,
    without_ignored,
)
from flare_lib.ct.volume import Volume

# Written out once more, from the data sets' own lists, organ by organ in FLARE's order; None: not labelled by itself.
THEIR_IDS = {
    "flare22": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
    "amos22": [6, 2, 1, 10, 8, 9, 11, 12, 4, 5, 7, 13, 3],
    "btcv": [6, 2, 1, 11, 8, 9, 12, 13, 4, 5, 7, None, 3],
    "word": [1, 4, 2, 8, None, None, None, None, 6, 7, 5, 9, 3],
    "totalsegmentator": [5, 2, 1, 7, 52, 63, 8, 9, 4, 15, 6, 19, 3],
    "abdomenct-1k": [1, None, 3, 4, None, None, None, None, None, None, None, None, None],
}


def test_there_are_13_organs_numbered_from_1_in_the_order_of_the_challenge():
    assert [o.id for o in ORGANS] == list(range(1, 14))
    assert (N_ORGANS, N_CLASSES) == (13, 14)
    abbreviations = "Liv RK Spl Pan Aor IVC RAG LAG Gall Eso Sto Duo LK"
    assert [o.abbreviation for o in ORGANS] == abbreviations.split()
    assert (organ(2).name, organ(13).name) == ("right kidney", "left kidney")


def test_tolerances_are_those_of_the_evaluation_script():
    assert [o.tolerance_mm for o in ORGANS] == [5, 3, 3, 5, 2, 2, 2, 2, 2, 3, 5, 7, 3]


def test_names_abbreviations_and_colours_are_unique():
    for field in ("name", "abbreviation", "color"):
        assert len({getattr(o, field).lower() for o in ORGANS}) == N_ORGANS
    assert all(re.fullmatch("#[0-9a-f]{6}", o.color) for o in ORGANS)


@pytest.mark.parametrize("key", [6, "IVC", "ivc", "Inferior Vena Cava"])
def test_an_organ_is_found_by_id_name_or_abbreviation_in_any_case(key):
    assert organ(key) is ORGANS[5]


@pytest.mark.parametrize("key", [0, 14, "bladder", ""])
def test_an_unknown_organ_is_refused_with_the_list_of_known_ones(key):
    with pytest.raises(ValueError, match=r"1 Liv, 2 RK.*13 LK.*got " + re.escape(repr(key))):
        organ(key)


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_every_id_of_every_data_set_becomes_the_organ_it_stands_for(data_set):
    theirs = THEIR_IDS[data_set]
    expected = {their_id: our_id for our_id, their_id in enumerate(theirs, start=1) if their_id is not None}
    assert ids_in(data_set) == expected
    every_id = np.arange(256, dtype=np.uint8).reshape(2, 8, 16)
    renumbered = to_flare(every_id, data_set)
    assert renumbered.dtype == np.uint8
    assert renumbered.shape == (2, 8, 16)
    assert {int(i): int(o) for i, o in zip(every_id.flat, renumbered.flat, strict=True) if o} == expected


def test_all_data_sets_are_checked_here():
    assert set(DATA_SETS) == set(THEIR_IDS)


def test_a_label_map_with_ids_above_255_is_renumbered_too():
    np.testing.assert_array_equal(
        to_flare(np.array([5000, 5, 0, 63], dtype=np.int32), "totalsegmentator"), [0, 1, 0, 6]
    )


def test_an_empty_label_map_stays_empty():
    assert to_flare(np.zeros((0, 3, 2), dtype=np.int16), "amos22").shape == (0, 3, 2)


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match=r"data_set must be one of flare22, .*got 'lits'"):
        ids_in("lits")


def test_labels_must_be_integers_and_not_negative():
    with pytest.raises(TypeError, match="must hold integers, got float32"):
        to_flare(np.zeros(3, dtype=np.float32), "flare22")
    with pytest.raises(ValueError, match="0 or more, got -1"):
        to_flare(np.array([-1, 2]), "flare22")


def _paired_organs() -> np.ndarray:
    """Return a canonical label map: x grows to the patient's right, so the right-sided organs have the larger x."""
    label_map = np.zeros((3, 4, 10), dtype=np.uint8)
    for name, x in (("liver", 8), ("right kidney", 7), ("right adrenal gland", 6)):
        label_map[1, 2, x] = organ(name).id
    for name, x in (("spleen", 1), ("left kidney", 2), ("left adrenal gland", 3)):
        label_map[1, 1, x] = organ(name).id
    return label_map


def test_organs_on_their_own_sides_are_no_problem():
    assert left_right_problems(_paired_organs()) == []


def test_a_mirrored_patient_has_all_three_pairs_on_the_wrong_sides():
    problems = left_right_problems(_paired_organs()[:, :, ::-1])
    assert [p.split(" must")[0] for p in problems] == ["the liver", "the right kidney", "the right adrenal gland"]
    assert problems[0].endswith("got x = 1.0 and 8.0")


def test_swapped_kidneys_are_noticed_alone():
    label_map = _paired_organs()
    right, left = label_map == organ("RK").id, label_map == organ("LK").id
    label_map[right], label_map[left] = organ("LK").id, organ("RK").id
    assert left_right_problems(label_map) == [
        "the right kidney must lie to the patient's right of the left kidney, got x = 2.0 and 7.0"
    ]


def test_organs_that_are_numbered_otherwise_are_named_and_those_that_merely_differ_are_not():
    ours = np.zeros((3, 10, 14), np.uint8)
    for k in (1, 2, 4, 6, 13):
        ours[:, :5, k] = k
    swapped = ours.copy()
    swapped[ours == 2], swapped[ours == 13] = 13, 2
    assert numbering_problems(ours, swapped) == [
        "the right kidney lies where the reference has the left kidney: is one of them numbered otherwise?",
        "the left kidney lies where the reference has the right kidney: is one of them numbered otherwise?",
    ]
    amos = np.select([ours == id_ for id_ in (1, 2, 4)], (6, 2, 10)).astype(np.uint8)
    assert [problem.split(":")[0] for problem in numbering_problems(ours, amos)] == [
        "the liver lies where the reference has the inferior vena cava",
        "the pancreas lies where the reference has the esophagus",
    ]
    near, far = ours.copy(), ours.copy()
    near[:2, :5, 1], far[:1, :5, 1] = 11, 11  # a DSC of 0.8 with the liver, and of 0.5
    assert len(numbering_problems(ours, near)) == 1
    assert numbering_problems(ours, far) == numbering_problems(ours, ours) == numbering_problems(ours, 0 * ours) == []


def test_a_pair_with_one_organ_missing_is_not_judged():
    label_map = _paired_organs()[:, :, ::-1].copy()
    label_map[np.isin(label_map, [organ("Spl").id, organ("LK").id, organ("RAG").id])] = 0
    assert left_right_problems(label_map) == []
    assert left_right_problems(np.zeros((2, 3, 4), dtype=np.uint8)) == []


def test_left_and_right_need_three_axes():
    with pytest.raises(ValueError, match=r"3 axes, got shape \(2, 3\)"):
        left_right_problems(np.zeros((2, 3), dtype=np.uint8))


# linear RGB as someone without the second (deutan) or first (protan) cone sees it: Machado, Oliveira, Fernandes 2009
SIGHTS = {
    "full": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}
TOUCHING = (
    *("Liv RK", "Liv IVC", "Liv RAG", "Liv Gall", "Liv Sto", "Liv Duo", "Liv Eso", "Spl Sto", "Spl LK", "Spl Pan"),
    *("Pan Duo", "Pan Sto", "Pan Aor", "Pan IVC", "Aor IVC", "Aor Eso", "IVC Duo", "IVC RAG", "LAG LK", "LAG Spl"),
    *("LAG Pan", "LAG Aor", "Gall Duo", "Eso Sto", "Sto Duo", "RK RAG", "RK Duo", "Aor Duo", "LK Pan", "LK Sto"),
)


def cielab(linear_rgb):
    """Return CIELAB (D65) of linear sRGB, (n, 3) in 0 to 1."""
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    t = np.clip(linear_rgb, 0, 1) @ to_xyz.T / (0.9505, 1.0, 1.0890)
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("sight", SIGHTS)
def test_organs_are_told_apart_by_readers_who_do_not_see_red_or_green(sight):
    srgb = np.array([[int(o.color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for o in ORGANS])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab = cielab(linear @ np.transpose(SIGHTS[sight]))
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1)
    assert apart[np.triu_indices(len(ORGANS), 1)].min() > 12
    for pair in TOUCHING:
        a, b = (organ(name).id - 1 for name in pair.split())
        assert apart[a, b] > 20, pair


def test_ignored_voxels_become_background_and_nothing_else_changes():
    labels = np.array([[3, IGNORED], [0, 13]], np.uint8)
    assert without_ignored(labels).tolist() == [[3, 0], [0, 13]]
    assert without_ignored(labels).dtype == np.uint8
    assert labels[0, 1] == IGNORED
    for kept in (np.array([0, 13, 254], np.int16), np.array([-1, 3], np.int8), np.zeros((0, 4), np.uint8)):
        assert without_ignored(kept) is kept


def test_a_voxel_to_be_ignored_in_training_is_no_label_to_be_judged():
    with pytest.raises(ValueError, match="the labels of reference must be 0 to 13, got 0 to 255"):
        as_label_map(np.array([0, 2, IGNORED]), "reference")


def test_a_label_map_is_taken_as_it_is():
    labels = np.array([[0, 13], [5, 1]], np.int16)
    assert as_label_map(labels) is labels
    assert as_label_map(labels, shape=(2, 2)) is labels
    assert as_label_map([[3, 0, 2]]).tolist() == [[3, 0, 2]]
    assert as_label_map([20], n_classes=21).tolist() == [20]
    assert as_label_map(np.zeros((0, 4), np.uint8)).shape == (0, 4)


@pytest.mark.parametrize(
    ("values", "asked", "error", "said"),
    [
        ([0.0, 1.0], {}, TypeError, "it must hold integers, got float64"),
        ("labels.nii.gz", {}, TypeError, "it must hold integers, got str"),
        (Volume.from_array(np.zeros((2, 3, 4)), (1, 2, 3)), {}, TypeError, "it must hold integers, got Volume"),
        (3, {}, ValueError, "it must have at least one axis, got a single number"),
        ([1, 2], {"shape": (3,)}, ValueError, r"it must have the CT's shape \(3,\), got \(2,\)"),
        ([1, 14], {}, ValueError, "the labels of it must be 0 to 13, got 0 to 14"),
        ([-1, 2], {}, ValueError, "the labels of it must be 0 to 13, got -1 to 2"),
        ([5, 21], {"n_classes": 21}, ValueError, "the labels of it must be 0 to 20, got 0 to 21"),
    ],
)
def test_what_is_no_label_map_is_refused(values, asked, error, said):
    with pytest.raises(error, match=said):
        as_label_map(values, "it", **asked)


def test_a_mask_over_labels_is_never_dropped_without_a_word():
    labels = np.ma.masked_equal(np.array([[0, 1, 2, 2]]), 2)
    for use in (as_label_map, label_counts, lambda array: to_flare(array, DATA_SETS[0])):
        with pytest.raises(ValueError, match=r"must have a value in every voxel, got 2 masked ones"):
            use(labels)
    assert label_counts(np.ma.array([[0, 1, 2, 2]])).tolist()[:3] == [1, 1, 2]


def test_a_label_far_beyond_a_data_sets_is_background_and_takes_no_memory():
    found = to_flare(np.array([5, 2**40, 1]), "totalsegmentator")
    assert found.tolist() == [*to_flare(np.array([5, 0, 1]), "totalsegmentator")]


def test_labels_in_any_array_are_the_same_labels(tmp_path):
    labels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4) % 14
    wide = np.zeros((4, 3, 8), np.uint8)
    wide[::2, :, ::2] = labels
    fixed, mapped = labels.copy(), np.memmap(tmp_path / "labels", np.uint8, "w+", shape=labels.shape)
    fixed.flags.writeable, mapped[:] = False, labels
    nib.Nifti1Image(labels, np.eye(4)).to_filename(tmp_path / "labels.nii")
    forms = [labels.astype(dtype) for dtype in ("i1", "u2", ">i2", "i4", ">u4", "i8", "u8")]
    forms += [wide[::2, :, ::2], labels[::-1, :, ::-1].copy()[::-1, :, ::-1], np.asfortranarray(labels)]
    forms += [fixed, mapped, torch.from_numpy(labels), nib.load(tmp_path / "labels.nii").dataobj, labels.tolist()]
    for form in forms:
        np.testing.assert_array_equal(as_label_map(form), labels)
        np.testing.assert_array_equal(label_counts(form), np.bincount(labels.ravel(), minlength=14))


def test_an_organ_is_present_if_one_of_several_label_maps_holds_it():
    one, other = np.zeros((2, 3, 4), np.uint8), np.zeros((5, 1), np.int16)
    one[1, 2, 3], one[0, 0, 0], other[4] = 13, 2, 5
    assert present_organs(one, None, other) == [2, 5, 13]
    assert present_organs() == present_organs(None, one * 0) == []
