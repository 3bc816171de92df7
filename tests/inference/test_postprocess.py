"""Clean-up: cases drawn by hand, and the same answers as scipy gives organ by organ."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from flare_lib.ct.labels import organ
from flare_lib.ct.volume import Volume
from flare_lib.inference.postprocess import (
    ORGANS_IN_PIECES,
    Report,
    keep_largest_components,
    postprocess,
    reference_point,
    region_distances,
    remove_far_components,
    without_specks,
)

LIVER, RIGHT_KIDNEY, SPLEEN, AORTA, VENA_CAVA = 1, 2, 3, 5, 6
SPACING = (5.0, 2.0, 1.0)  # mm along z, y, x


def empty(shape=(9, 8, 10)):
    return np.zeros(shape, np.uint8)


def person():
    """Great vessels along z around (y, x) = (4, 10), a kidney beside them and a bladder 40 slices below it."""
    labels = empty((60, 9, 21))
    labels[20:50, 3:6, 7:9] = AORTA
    labels[20:50, 3:6, 12:14] = VENA_CAVA
    labels[32:38, 3:7, 15:19] = RIGHT_KIDNEY
    bladder = empty(labels.shape)
    bladder[0:2, 2:6, 8:13] = 1
    return labels, bladder.astype(bool)


@st.composite
def label_maps(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 8), st.integers(1, 7)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.choice([1, 2, 5, 6, 13], size=shape)
    return np.where(rng.random(shape) < draw(st.floats(0, 0.7)), labels, 0).astype(np.uint8)


def largest_with_scipy(mask):
    """The largest 26-connected component, of equals the first; scipy numbers them by their first voxels."""
    components, n = ndimage.label(mask, np.ones((3, 3, 3)))
    return components == 1 + np.argmax(np.bincount(components.ravel(), minlength=n + 1)[1:]) if n else mask


# --- the largest component


def test_of_every_organ_the_largest_component_stays():
    labels = empty()
    labels[1:3, 1:3, 1:4] = LIVER
    labels[6, 6, 6:8] = LIVER
    labels[0:2, 5, 5] = SPLEEN
    labels[5:8, 2, 5] = SPLEEN
    expected = empty()
    expected[1:3, 1:3, 1:4] = LIVER
    expected[5:8, 2, 5] = SPLEEN
    np.testing.assert_array_equal(keep_largest_components(labels), expected)


def test_voxels_that_share_only_a_corner_are_connected():
    labels = empty()
    labels[1, 1, 1] = labels[2, 2, 2] = labels[3, 1, 3] = LIVER
    labels[6, 6, 6:8] = LIVER
    cleaned = keep_largest_components(labels)
    assert cleaned[1, 1, 1] == cleaned[2, 2, 2] == cleaned[3, 1, 3] == LIVER
    assert np.count_nonzero(cleaned) == 3


def test_organs_that_touch_are_components_of_their_own():
    labels = empty()
    labels[2, 2, 1:4] = LIVER
    labels[2, 2, 4:6] = SPLEEN
    labels[2, 2, 6:8] = LIVER  # joined to the rest of the liver by the spleen alone
    cleaned = keep_largest_components(labels)
    np.testing.assert_array_equal(cleaned[2, 2], [0, 1, 1, 1, 3, 3, 0, 0, 0, 0])


def test_of_equal_components_the_first_one_in_z_then_y_then_x_stays():
    labels = empty()
    labels[3, 2, 7] = labels[3, 4, 1] = labels[5, 0, 0] = LIVER
    labels[6, 1:3, 9] = labels[6, 5:7, 2] = SPLEEN
    expected = empty()
    expected[3, 2, 7] = LIVER
    expected[6, 1:3, 9] = SPLEEN
    np.testing.assert_array_equal(keep_largest_components(labels), expected)


@given(labels=label_maps())
def test_the_largest_components_are_scipys_organ_by_organ(labels):
    expected = np.zeros_like(labels)
    for label in np.unique(labels[labels > 0]):
        expected[largest_with_scipy(labels == label)] = label
    np.testing.assert_array_equal(keep_largest_components(labels), expected)


@given(labels=label_maps())
def test_cleaning_twice_changes_nothing_more(labels):
    once = keep_largest_components(labels)
    np.testing.assert_array_equal(keep_largest_components(once), once)


@pytest.mark.parametrize("name", ["pancreas", "stomach"])  # thin, or in two halves where it contracts
def test_pieces_of_some_organs_stay_that_are_not_much_smaller_than_the_largest(name):
    labels = empty()
    for label, y in ((organ(name).id, 1), (LIVER, 5)):
        labels[1, y, 0:10] = label
        labels[4, y, 0:4] = label
        labels[7, y, 0:3] = label
    kept = keep_largest_components(labels, min_share=0.4)
    expected = labels.copy()
    expected[7] = 0
    expected[4, 5] = 0  # a liver is one piece, whatever the share
    np.testing.assert_array_equal(kept, expected)
    cleaned, report = postprocess(labels, SPACING, min_share=0.4)
    np.testing.assert_array_equal(cleaned, expected)
    assert report.smaller_components_ml == {"liver": pytest.approx(0.07), name: pytest.approx(0.03)}


@given(labels=label_maps(), min_share=st.floats(0.01, 1.0))
def test_what_stays_are_the_components_that_scipy_finds_large_enough(labels, min_share):
    expected = np.zeros_like(labels)
    for label in np.unique(labels[labels > 0]):
        expected[largest_with_scipy(labels == label)] = label
        if organ(int(label)) in ORGANS_IN_PIECES and min_share < 1:
            components, n = ndimage.label(labels == label, np.ones((3, 3, 3)))
            sizes = np.bincount(components.ravel(), minlength=n + 1)
            sizes[0] = 0
            expected[(sizes >= min_share * sizes.max())[components] & (components > 0)] = label
    np.testing.assert_array_equal(keep_largest_components(labels, min_share), expected)


@pytest.mark.parametrize("min_share", [0.0, -0.2, 1.01, math.nan])
def test_a_share_that_is_none_is_refused(min_share):
    for clean in (keep_largest_components, lambda labels, share: postprocess(labels, SPACING, min_share=share)):
        with pytest.raises(ValueError, match="min_share must be above 0 and at most 1, got"):
            clean(empty(), min_share)


# --- the reference point


def test_the_reference_point_lies_midway_between_aorta_and_vena_cava():
    labels = empty()
    labels[2:5, 2, 1] = AORTA  # centroid (3, 2, 1)
    labels[4:7, 6, 4:7] = VENA_CAVA  # centroid (5, 6, 5); three times the voxels count no more
    point = reference_point(labels, SPACING)
    np.testing.assert_allclose(point.point_zyx_mm, [4 * 5.0, 4 * 2.0, 3 * 1.0])
    assert point.source == "aorta and inferior vena cava"


def test_an_island_of_the_aorta_does_not_move_the_reference_point():
    labels = empty()
    labels[2:5, 2, 1] = AORTA
    labels[4:7, 6, 5] = VENA_CAVA
    before = reference_point(labels, SPACING).point_zyx_mm
    labels[8, 7, 8:10] = AORTA
    np.testing.assert_array_equal(reference_point(labels, SPACING).point_zyx_mm, before)


@pytest.mark.parametrize("vessel", [AORTA, VENA_CAVA])
def test_with_one_vessel_alone_the_liver_is_the_reference(vessel):
    labels = empty()
    labels[2:5, 2, 1] = vessel
    labels[1:4, 5, 2:7] = LIVER
    point = reference_point(labels, SPACING)
    np.testing.assert_allclose(point.point_zyx_mm, [2 * 5.0, 5 * 2.0, 4 * 1.0])
    assert point.source == "liver"


def test_without_vessels_and_liver_there_is_no_reference_and_nothing_is_removed():
    labels = empty()
    labels[0, 0, 0] = SPLEEN
    labels[8, 7, 9] = AORTA
    assert reference_point(labels, SPACING) is None
    np.testing.assert_array_equal(remove_far_components(labels, SPACING, 1.0), labels)


# --- the distance rule


def test_a_bladder_taken_for_a_kidney_is_removed():
    labels, bladder = person()
    expected = labels.copy()
    labels[bladder] = RIGHT_KIDNEY
    # the vessels' midpoint is slice 34.5, the bladder's centroid slice 0.5: 170 mm below and a little aside
    for near in (remove_far_components(labels, SPACING, 170.0), remove_far_components(labels, SPACING)):
        np.testing.assert_array_equal(near, expected)
    np.testing.assert_array_equal(postprocess(labels, SPACING)[0], expected)
    np.testing.assert_array_equal(remove_far_components(labels, SPACING, 171.0), labels)


@pytest.mark.parametrize(("axis", "voxels"), [(0, 4), (1, 10), (2, 20)])
def test_the_distance_counts_in_millimetres_and_may_be_reached_but_not_passed(axis, voxels):
    labels = np.zeros((30, 29, 31), np.uint8)
    centre = np.array([5, 4, 6])
    labels[tuple(centre)] = LIVER
    island = centre.copy()
    island[axis] += voxels  # 20 mm on every axis
    labels[tuple(island)] = SPLEEN
    np.testing.assert_array_equal(remove_far_components(labels, SPACING, 20.0), labels)
    assert remove_far_components(labels, SPACING, 19.9)[tuple(island)] == 0


def test_a_far_part_stays_when_any_organ_connects_it_with_what_is_near():
    labels, bladder = person()
    labels[bladder] = RIGHT_KIDNEY
    labels[2:20, 4, 8] = SPLEEN  # from the bladder up to the aorta
    np.testing.assert_array_equal(remove_far_components(labels, SPACING, 100.0), labels)


def test_a_far_region_goes_with_all_the_organs_in_it():
    labels, bladder = person()
    expected = labels.copy()
    labels[bladder] = RIGHT_KIDNEY
    labels[2, 4, 8:10] = SPLEEN  # on top of the bladder
    np.testing.assert_array_equal(remove_far_components(labels, SPACING, 150.0), expected)


@given(labels=label_maps(), max_distance_mm=st.floats(1.0, 25.0))
def test_the_regions_removed_are_those_that_scipy_finds_far(labels, max_distance_mm):
    def centroid(mask):
        return np.array(ndimage.center_of_mass(mask)) * SPACING

    aorta, vena_cava, liver = (largest_with_scipy(labels == k) for k in (AORTA, VENA_CAVA, LIVER))
    expected = labels.copy()
    if (aorta.any() and vena_cava.any()) or liver.any():
        both = aorta.any() and vena_cava.any()
        reference = (centroid(aorta) + centroid(vena_cava)) / 2 if both else centroid(liver)
        regions, n = ndimage.label(labels > 0, np.ones((3, 3, 3)))
        for k in range(1, n + 1):
            distance = math.dist(centroid(regions == k), reference)
            if abs(distance - max_distance_mm) < 1e-6:
                return  # too close to call between two ways of rounding
            if distance > max_distance_mm:
                expected[regions == k] = 0
    np.testing.assert_array_equal(remove_far_components(labels, SPACING, max_distance_mm), expected)


# --- the two together


def test_both_rules_report_the_millilitres_they_removed_of_each_organ():
    labels, bladder = person()
    expected = labels.copy()
    labels[58, 1, 1:4] = AORTA
    bladder[0:3, 1:7, 7:14] = True  # 126 voxels: larger than the kidney's 96, but gone before the two are compared
    labels[bladder] = RIGHT_KIDNEY
    cleaned, report = postprocess(labels, SPACING, max_distance_mm=150.0)
    np.testing.assert_array_equal(cleaned, expected)
    assert report.far_components_ml == pytest.approx({"right kidney": 1.26})
    assert report.smaller_components_ml == pytest.approx({"aorta": 0.03})
    assert report.reference == "aorta and inferior vena cava"


def test_in_the_other_order_a_kidney_smaller_than_the_bladder_would_be_lost_with_it():
    labels, bladder = person()
    expected = labels.copy()
    expected[expected == RIGHT_KIDNEY] = 0
    bladder[0:3, 1:7, 7:14] = True
    labels[bladder] = RIGHT_KIDNEY
    largest = keep_largest_components(labels)
    np.testing.assert_array_equal(remove_far_components(largest, SPACING, 150.0), expected)


@given(labels=label_maps())
def test_the_rules_follow_each_other_and_what_was_there_is_kept_or_reported(labels):
    before = labels.copy()
    cleaned, report = postprocess(labels, SPACING, max_distance_mm=9.0)
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(cleaned, keep_largest_components(remove_far_components(labels, SPACING, 9.0)))
    assert ((cleaned == labels) | (cleaned == 0)).all()
    for label in (1, 2, 5, 6, 13):
        name = organ(label).name
        removed = report.smaller_components_ml.get(name, 0) + report.far_components_ml.get(name, 0)
        assert removed == pytest.approx(0.01 * (np.sum(labels == label) - np.sum(cleaned == label)))


# --- specks


@pytest.mark.parametrize(
    ("name", "mm", "border", "stays"),
    [
        ("spleen", 16, False, False),  # 4.1 mL
        ("spleen", 18, False, True),  # 5.8 mL
        ("spleen", 16, True, True),
        ("left adrenal gland", 16, False, True),
        ("pancreas", 4, False, True),
    ],
)
def test_a_speck_is_less_than_5_ml_of_a_large_organ_that_the_scan_does_not_cut(name, mm, border, stays):
    labels, ct = np.zeros((24, 26, 28), np.uint8), np.zeros((24, 26, 28), np.int16)
    start = 0 if border else 2
    labels[2 : 2 + mm, 3 : 3 + mm, start : start + mm] = organ(name).id
    labels[23, 25] = organ("liver").id  # 0.03 mL, cut
    before = labels.copy()
    cleaned, removed = without_specks(labels, Volume.from_array(ct, (1.0, 1.0, 1.0)))
    expected = labels if stays else np.where(labels == organ(name).id, 0, labels)
    np.testing.assert_array_equal(cleaned, expected)
    np.testing.assert_array_equal(labels, before)
    assert removed == ({} if stays else {name: pytest.approx(mm**3 / 1000)})


# --- edges


def test_an_empty_label_map_stays_empty():
    cleaned, report = postprocess(empty(), SPACING)
    assert cleaned.shape == (9, 8, 10)
    assert not cleaned.any()
    assert (report.smaller_components_ml, report.far_components_ml, report.reference) == ({}, {}, None)
    assert postprocess(np.zeros((0, 4, 5), np.uint8), SPACING)[0].shape == (0, 4, 5)
    for nothing in (empty(), np.zeros((0, 4, 5), np.uint8)):
        ids, distances_mm = region_distances(nothing, SPACING)
        assert (ids.shape, ids.any(), distances_mm.tolist()) == (nothing.shape, False, [0.0])


def test_a_single_organ_of_a_single_voxel_stays():
    labels = empty()
    labels[8, 7, 9] = LIVER
    cleaned, report = postprocess(labels, SPACING)
    np.testing.assert_array_equal(cleaned, labels)
    assert report.reference == "liver"


def test_a_label_map_full_of_one_organ_stays():
    labels = np.full((3, 4, 5), 13, np.uint8)
    np.testing.assert_array_equal(postprocess(labels, SPACING)[0], labels)


@pytest.mark.parametrize("arrange", [np.asfortranarray, lambda a: a[::-1, :, ::-1], lambda a: a.astype(np.int64)])
def test_memory_order_views_and_other_integers_make_no_difference(arrange):
    labels = arrange(np.random.default_rng(4).choice([0, 0, 1, 5, 6], size=(7, 8, 9)).astype(np.uint8))
    cleaned = postprocess(labels, SPACING, max_distance_mm=6.0)[0]
    plain = postprocess(np.ascontiguousarray(labels, np.uint8), SPACING, max_distance_mm=6.0)[0]
    assert cleaned.dtype == np.uint8
    np.testing.assert_array_equal(cleaned, plain)


@pytest.mark.parametrize("clean", [keep_largest_components, lambda a: remove_far_components(a, SPACING)])
def test_what_is_no_label_map_is_refused(clean):
    with pytest.raises(TypeError, match="must hold integers, got float32"):
        clean(np.zeros((3, 4, 5), np.float32))
    with pytest.raises(TypeError, match="must hold integers, got bool"):
        clean(np.zeros((3, 4, 5), bool))
    with pytest.raises(ValueError, match=r"3 axes, got shape \(4, 5\)"):
        clean(np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match="labels of label_map_zyx must be 0 to 13, got 0 to 14"):
        clean(np.full((3, 4, 5), 14, np.uint8))
    with pytest.raises(ValueError, match="labels of label_map_zyx must be 0 to 13, got -1 to 0"):
        clean(np.full((3, 4, 5), -1, np.int16))


@pytest.mark.parametrize("max_distance_mm", [0.0, -170.0, math.nan])
def test_a_distance_that_is_not_positive_is_refused(max_distance_mm):
    with pytest.raises(ValueError, match="max_distance_mm must be positive"):
        remove_far_components(empty(), SPACING, max_distance_mm)
    with pytest.raises(ValueError, match="max_distance_mm must be positive"):
        postprocess(empty(), SPACING, max_distance_mm=max_distance_mm)


def test_a_spacing_that_is_not_positive_is_refused():
    for clean in (postprocess, remove_far_components):
        with pytest.raises(ValueError, match="spacing_zyx_mm must be 3 positive numbers"):
            clean(empty(), (1.0, 0.0, 2.0))


def test_a_report_is_told_in_one_line_most_first():
    report = Report({"liver": 1.5}, {"liver": 0.25, "stomach": 2.0}, "aorta and inferior vena cava")
    assert report.summary() == (
        "far from aorta and inferior vena cava: 1.5 mL (liver 1.5); smaller pieces: 2.2 mL (stomach 2.0, liver 0.2)"
    )
    nothing = Report({}, {}, None)
    assert nothing.summary() == "far away (nothing to measure from): none; smaller pieces: none"


def test_regions_come_with_their_distances_from_the_reference_point():
    labels = np.zeros((10, 12, 14), np.uint8)
    labels[2:8, 6, 5] = organ("aorta").id
    labels[2:8, 6, 9] = organ("inferior vena cava").id
    labels[9, 0, 7] = organ("spleen").id
    ids, distances_mm = region_distances(labels, (3.0, 2.0, 1.5))
    point = np.array((4.5, 6.0, 7.0)) * (3.0, 2.0, 1.5)
    for where, centroid in (((2, 6, 5), (4.5, 6, 5)), ((3, 6, 9), (4.5, 6, 9)), ((9, 0, 7), (9, 0, 7))):
        expected = np.linalg.norm(np.array(centroid) * (3.0, 2.0, 1.5) - point)
        assert distances_mm[ids[where]] == pytest.approx(expected)
    assert ids.shape == labels.shape
    assert (ids > 0).sum() == (labels > 0).sum()
    assert distances_mm[0] == 0.0
    kept = np.where(distances_mm[ids] <= 10.0, labels, 0)
    np.testing.assert_array_equal(kept, remove_far_components(labels, (3.0, 2.0, 1.5), 10.0))
    labels[:, 6] = 0
    ids, distances_mm = region_distances(labels, (3.0, 2.0, 1.5))
    assert (ids > 0).sum() == 1
    np.testing.assert_array_equal(distances_mm, [0.0, 0.0])
