"""The rules of FLARE 2022, one by one, on cases made by hand."""

import numpy as np
import pytest

from flare_lib.ct.labels import ORGANS
from flare_lib.evaluation.flare_rules import CLEAN, OFFICIAL, Rules, flare_scores
from flare_lib.evaluation.metrics import dice_scores
from flare_lib.evaluation.surface import surface_distances

SPACING = (2.5, 1.5, 0.8)
SHAPE = (12, 14, 16)


def labels(**blocks):
    """A label map with blocks: o4=((z0, z1), (y0, y1), (x0, x1)) is pancreas."""
    made = np.zeros(SHAPE, np.uint8)
    for name, box in blocks.items():
        made[tuple(slice(*b) for b in box)] = int(name[1:])
    return made


def both(prediction, reference, organ, rules=OFFICIAL):
    scores = flare_scores(prediction, reference, SPACING, rules=rules)
    return scores.dice[organ - 1], scores.nsd[organ - 1]


def test_an_organ_both_lack_has_1_and_1_and_one_that_only_one_has_0_and_0():
    nothing, liver = labels(), labels(o1=((2, 8), (3, 9), (4, 12)))
    assert both(nothing, nothing, 1) == (1, 1)
    assert both(liver, nothing, 1) == (0, 0)
    assert both(nothing, liver, 1) == (0, 0)
    assert both(nothing, liver, 2) == (1, 1)


@pytest.mark.parametrize("organ", [o.id for o in ORGANS])
def test_the_same_labels_score_1_and_1(organ):
    there = labels(**{f"o{organ}": ((2, 8), (3, 9), (4, 12))})
    assert both(there, there, organ) == (1, 1)


@pytest.mark.parametrize("organ", [1, 4, 9])
def test_most_organs_are_scored_everywhere(organ):
    reference = labels(**{f"o{organ}": ((3, 8), (3, 9), (4, 12))})
    longer = labels(**{f"o{organ}": ((3, 11), (3, 9), (4, 12))})
    assert both(longer, reference, organ)[0] == round(2 * 5 / 13, 4)


@pytest.mark.parametrize("organ", [5, 6, 10])
def test_long_organs_are_scored_between_the_references_first_and_last_slice(organ):
    reference = labels(**{f"o{organ}": ((3, 8), (3, 9), (4, 12))})
    longer = labels(**{f"o{organ}": ((1, 11), (3, 9), (4, 12))})
    assert both(longer, reference, organ) == (1, 1)
    assert both(longer, reference, organ, CLEAN)[0] == 2 * 5 / 15


@pytest.mark.parametrize("organ", [5, 6, 10])
def test_the_last_slice_is_dropped_by_the_script(organ):
    reference = labels(**{f"o{organ}": ((3, 8), (3, 9), (4, 12))})
    without_last = labels(**{f"o{organ}": ((3, 7), (3, 9), (4, 12))})
    without_first = labels(**{f"o{organ}": ((4, 8), (3, 9), (4, 12))})
    assert both(without_last, reference, organ) == (1, 1)
    assert both(without_first, reference, organ)[0] == round(2 * 3 / 7, 4)
    kept = Rules(long_organs_within="reference")
    assert both(without_last, reference, organ, kept)[0] == 2 * 4 / 9


def test_of_a_long_organ_in_one_slice_nothing_is_left():
    one_slice = labels(o5=((3, 4), (3, 9), (4, 12)))
    assert np.isnan(both(one_slice, one_slice, 5)).all()
    assert np.isnan(both(labels(), one_slice, 5)).all()
    assert both(one_slice, one_slice, 5, CLEAN) == (1, 1)
    assert both(one_slice, one_slice, 5, Rules("reference")) == (1, 1)
    elsewhere = labels(o4=((3, 4), (3, 9), (4, 12)))
    assert both(elsewhere, elsewhere, 4) == (1, 1)


def test_a_dice_below_a_fifth_has_no_surface_score():
    reference = labels(o4=((2, 8), (3, 9), (2, 12)))
    shifted = labels(o4=((2, 8), (3, 9), (11, 14)))
    dice, nsd = both(shifted, reference, 4)
    assert dice == round(2 * 1 / 13, 4)
    assert nsd == 0
    assert both(shifted, reference, 4, CLEAN)[1] > 0.3
    just = labels(o4=((2, 8), (3, 9), (10, 14)))  # 2 * 2 / 14 is above it
    assert both(just, reference, 4)[1] > 0.3


def test_each_organ_has_its_own_tolerance():
    for organ in ORGANS:
        reference = labels(**{f"o{organ.id}": ((3, 8), (3, 9), (4, 12))})
        moved = labels(**{f"o{organ.id}": ((3, 8), (5, 11), (4, 12))})  # 3 mm
        nsd = both(moved, reference, organ.id)[1]
        assert (nsd == 1) == (organ.tolerance_mm >= 3), organ.name


def test_without_rules_it_is_the_plain_scores_of_whole_label_maps():
    rng = np.random.default_rng(3)
    coarse = [rng.integers(0, 14, (3, 4, 4)) for _ in range(2)]
    a, b = (np.kron(c, np.ones((4, 3, 4), int)) for c in (coarse[0], np.where(rng.random((3, 4, 4)) < 0.7, *coarse)))
    scores = flare_scores(a, b, SPACING, rules=CLEAN)
    np.testing.assert_allclose(scores.dice, dice_scores(a, b))
    for organ in ORGANS:
        found, true = a == organ.id, b == organ.id
        if found.any() and true.any():
            expected = surface_distances(found, true, SPACING).surface_dice(organ.tolerance_mm)
            assert scores.nsd[organ.id - 1] == pytest.approx(expected)


def test_official_scores_have_four_places():
    reference, found = labels(o1=((2, 8), (3, 9), (4, 12))), labels(o1=((2, 8), (3, 9), (4, 11)))
    assert both(found, reference, 1)[0] == 0.9333
    assert both(found, reference, 1, CLEAN)[0] == pytest.approx(14 / 15)


@pytest.mark.parametrize(
    ("prediction", "reference", "error", "message"),
    [
        (np.zeros(SHAPE), np.zeros(SHAPE, int), TypeError, "prediction must hold integers, got float64"),
        (np.zeros(SHAPE, int), np.full(SHAPE, 14), ValueError, "labels of reference must be 0 to 13, got 0 to 14"),
        (np.zeros(SHAPE, int), np.zeros((3, 4, 5), int), ValueError, r"must be \(Z, Y, X\) of one shape"),
        (np.zeros((3, 4), int), np.zeros((3, 4), int), ValueError, r"must be \(Z, Y, X\) of one shape"),
    ],
)
def test_what_does_not_fit_is_refused(prediction, reference, error, message):
    with pytest.raises(error, match=message):
        flare_scores(prediction, reference, SPACING)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="long_organs_within must be one of"):
        Rules("somewhere")
