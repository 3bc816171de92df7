"""Dice: by hand, by its formula organ by organ, as MONAI computes it, and where organs are missing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import compute_dice

from flare_lib.ct.labels import label_counts
from flare_lib.ct.roi import Box
from flare_lib.evaluation.metrics import dice_scores, shares_inside


def random_labels(seed, shape=(7, 8, 9), labels=range(14)):
    return np.random.default_rng(seed).choice(list(labels), size=shape).astype(np.uint8)


def test_two_of_three_voxels_in_common():
    prediction, reference = np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.uint8)
    prediction[1, 1, 0:3] = 4
    reference[1, 1, 1:4] = 4
    scores = dice_scores(prediction, reference)
    assert scores.shape == (13,)
    assert scores.dtype == np.float64
    assert scores[3] == pytest.approx(2 / 3)


def test_an_organ_both_lack_scores_1_and_one_that_only_one_has_scores_0():
    prediction, reference = np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.uint8)
    prediction[0, 0, 0] = 1
    reference[1, 2, 3] = 13
    expected = np.ones(13)
    expected[[0, 12]] = 0
    np.testing.assert_array_equal(dice_scores(prediction, reference), expected)


def test_an_organ_called_by_the_name_of_another_counts_against_both():
    prediction = np.array([[2, 2, 2, 13]])
    reference = np.array([[2, 2, 13, 13]])
    scores = dice_scores(prediction, reference)
    assert scores[1] == pytest.approx(4 / 5)
    assert scores[12] == pytest.approx(2 / 3)


@given(
    seeds=st.tuples(st.integers(0, 999), st.integers(0, 999)),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4)),
    labels=st.sets(st.integers(0, 13), min_size=1),
)
def test_equals_the_formula_organ_by_organ(seeds, shape, labels):
    prediction, reference = (random_labels(seed, shape, sorted(labels)) for seed in seeds)
    expected = []
    for label in range(1, 14):
        p, r = prediction == label, reference == label
        expected.append(2 * (p & r).sum() / (p.sum() + r.sum()) if p.any() or r.any() else 1.0)
    np.testing.assert_allclose(dice_scores(prediction, reference), expected, rtol=1e-15)


def test_equals_monai():
    prediction, reference = random_labels(1), random_labels(2)
    reference[:4] = prediction[:4]
    one_hot = [
        torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), 14).permute(3, 0, 1, 2)[None]
        for labels in (prediction, reference)
    ]
    theirs = compute_dice(*one_hot, include_background=False)[0]
    np.testing.assert_allclose(dice_scores(prediction, reference), theirs, rtol=1e-6)


@given(seed=st.integers(0, 999))
def test_symmetric_between_0_and_1_and_1_with_itself(seed):
    prediction, reference = random_labels(seed), random_labels(seed + 1)
    scores = dice_scores(prediction, reference)
    np.testing.assert_array_equal(scores, dice_scores(reference, prediction))
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_array_equal(dice_scores(prediction, prediction), np.ones(13))


def test_integer_type_and_memory_order_make_no_difference():
    prediction, reference = random_labels(3), random_labels(4)
    expected = dice_scores(prediction, reference)
    np.testing.assert_array_equal(dice_scores(prediction.astype(np.int64), np.asfortranarray(reference)), expected)


def test_no_voxels_at_all_count_as_both_empty():
    nothing = np.zeros((0, 3, 4), np.uint8)
    np.testing.assert_array_equal(dice_scores(nothing, nothing), np.ones(13))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3, 4\) and \(2, 4, 3\)"):
        dice_scores(np.zeros((2, 3, 4), np.uint8), np.zeros((2, 4, 3), np.uint8))


def test_what_is_no_label_map_is_refused():
    good = np.zeros((2, 3, 4), np.uint8)
    with pytest.raises(TypeError, match="prediction must hold integers, got float64"):
        dice_scores(good.astype(float), good)
    with pytest.raises(TypeError, match="reference must hold integers, got bool"):
        dice_scores(good, good.astype(bool))
    with pytest.raises(ValueError, match="labels of reference must be 0 to 13, got 0 to 14"):
        dice_scores(good, good + 14)
    with pytest.raises(ValueError, match="labels of prediction must be 0 to 13, got -1 to 0"):
        dice_scores(good.astype(np.int8) - 1, good)
    with pytest.raises(ValueError, match="prediction must have at least one axis"):
        dice_scores(np.uint8(3), np.uint8(3))


def test_a_box_holds_the_share_of_an_organ_that_counting_says():
    label_map = np.zeros((6, 7, 8), np.uint8)
    label_map[0:2, 0:2, 0:2] = 1
    label_map[2:6, 3, 3] = 5
    for box, liver, aorta in (
        (Box((0, 0, 0), (6, 7, 8)), 1, 1),
        (Box((0, 0, 0), (3, 7, 8)), 1, 0.25),
        (Box((0, 1, 0), (4, 7, 8)), 0.5, 0.5),
        (Box((5, 5, 5), (6, 7, 8)), 0, 0),
    ):
        shares = shares_inside(label_map, box)
        assert (shares[0], shares[4]) == (liver, aorta)
        assert np.isnan(np.delete(shares, [0, 4])).all()
        np.testing.assert_array_equal(shares, shares_inside(label_map, box, totals=label_counts(label_map)))


def test_a_box_beyond_the_label_map_is_refused():
    with pytest.raises(ValueError, match="a box must lie in the volume"):
        shares_inside(np.zeros((6, 7, 8), np.uint8), Box((0, 0, 0), (6, 7, 9)))
