"""Boxes: found, widened in mm, carried to another grid, cropped to and pasted back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_lib.ct.roi import Box, bounding_box, box_around, crop, crop_volume, paste
from flare_lib.ct.volume import Volume


@st.composite
def shapes_and_boxes(draw):
    shape = tuple(draw(st.integers(1, 9)) for _ in range(3))
    start = tuple(draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    return shape, Box(start, stop)


@given(shapes_and_boxes(), st.integers(-5, 5))
def test_crop_and_paste_are_inverses(shape_and_box, fill):
    shape, box = shape_and_box
    array = np.arange(math.prod(shape), dtype=np.int16).reshape(shape) + 100
    part = crop(array, box)
    pasted = paste(part, box, shape, fill)
    np.testing.assert_array_equal(crop(pasted, box), part)
    inside = np.zeros(shape, dtype=bool)
    inside[box.slices] = True
    np.testing.assert_array_equal(pasted, np.where(inside, array, fill))
    assert pasted.dtype == np.int16


@given(shapes_and_boxes())
def test_the_bounding_box_of_a_filled_box_is_that_box(shape_and_box):
    shape, box = shape_and_box
    assert bounding_box(paste(np.ones(box.shape_zyx, dtype=bool), box, shape)) == box


def test_the_bounding_box_reaches_from_the_first_to_the_last_voxel_of_scattered_ones():
    mask = np.zeros((5, 7, 9), dtype=bool)
    mask[1, 6, 3] = mask[3, 2, 4] = mask[2, 4, 8] = True
    assert bounding_box(mask) == Box((1, 2, 3), (4, 7, 9))


def test_an_empty_mask_has_no_bounding_box():
    assert bounding_box(np.zeros((2, 3, 4), dtype=bool)) is None


def test_a_crop_is_a_view():
    array = np.zeros((3, 4, 5))
    crop(array, Box((1, 1, 1), (2, 3, 4)))[:] = 7
    assert array.sum() == 7 * 1 * 2 * 3


def test_a_margin_in_mm_becomes_voxels_per_axis_rounded_outwards():
    box = Box((10, 20, 30), (11, 22, 33)).widen(5.0, (5.0, 2.0, 0.7), (50, 60, 70))
    assert box == Box((9, 17, 22), (12, 25, 41))  # 5 mm: 1 slice of 5, 2.5 -> 3 rows, 7.14 -> 8 columns


def test_a_margin_of_whole_voxels_is_not_rounded_up_by_floating_point():
    assert 2.1 / 0.7 > 3  # the trap
    assert Box((5, 6, 7), (6, 7, 8)).widen(2.1, (2.1, 1.05, 0.7), (20, 21, 22)) == Box((4, 4, 4), (7, 9, 11))


def test_a_margin_stops_at_the_border():
    assert Box((1, 2, 3), (3, 4, 6)).widen(100, (1.0, 2.0, 3.0), (4, 5, 7)) == Box((0, 0, 0), (4, 5, 7))


def test_no_margin_changes_nothing():
    box = Box((1, 2, 3), (3, 4, 6))
    assert box.widen(0, (1.0, 2.0, 3.0), (4, 5, 7)) == box


def test_a_small_box_grows_evenly_and_away_from_the_border():
    box = Box((4, 0, 10), (6, 3, 12))
    assert box.grow((10.0, 10.0, 10.0), (2.0, 1.0, 2.5), (20, 9, 13)) == Box((3, 0, 9), (8, 9, 13))
    assert box.grow((18.0, 7.5, 30.0), (3.0, 1.5, 2.5), (20, 9, 13)) == Box((2, 0, 1), (8, 5, 13))
    assert box.grow((0.0, 3.0, 4.9), (2.0, 1.0, 2.5), (20, 9, 13)) == box


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=3),
    st.tuples(st.floats(0, 70), st.floats(0, 70), st.floats(0, 70)),
)
def test_a_grown_box_holds_the_box_and_the_size_or_the_whole_axis(axes, size_mm):
    spacing = (2.0, 1.5, 0.7)
    starts = [int(a * (n - 1)) for n, a, _ in axes]
    stops = [s + 1 + int(b * (n - 1 - s)) for s, (n, _, b) in zip(starts, axes, strict=True)]
    shape = tuple(n for n, _, _ in axes)
    box = Box(tuple(starts), tuple(stops))
    grown = box.grow(size_mm, spacing, shape)
    for a, b, c, d, n, mm, s in zip(
        grown.start_zyx, grown.stop_zyx, starts, stops, shape, size_mm, spacing, strict=True
    ):
        assert 0 <= a <= c
        assert d <= b <= n
        assert (b - a) * s >= min(mm, n * s) - 1e-5
        assert (b - a) in (d - c, n) or (b - a - 1) * s < mm


@pytest.mark.parametrize("size", [-1.0, math.inf, math.nan])
def test_an_impossible_size_is_refused(size):
    with pytest.raises(ValueError, match="size_mm must be 0 or more"):
        Box((0, 0, 0), (1, 2, 3)).grow((1.0, size, 1.0), (1.0, 2.0, 3.0), (4, 5, 6))


@given(shapes_and_boxes(), st.tuples(*[st.integers(1, 30)] * 3))
def test_a_rescaled_box_is_the_smallest_that_covers_the_same_region(shape_and_box, to_shape):
    shape, box = shape_and_box
    there = box.rescale(shape, to_shape)
    for axis in range(3):
        n, m = shape[axis], to_shape[axis]
        assert there.start_zyx[axis] * n <= box.start_zyx[axis] * m < (there.start_zyx[axis] + 1) * n
        assert (there.stop_zyx[axis] - 1) * n < box.stop_zyx[axis] * m <= there.stop_zyx[axis] * n


def test_a_box_of_whole_voxels_is_rescaled_exactly_there_and_back():
    box = Box((2, 3, 4), (4, 9, 12))
    finer = box.rescale((6, 12, 16), (12, 36, 64))
    assert finer == Box((4, 9, 16), (8, 27, 48))
    assert finer.rescale((12, 36, 64), (6, 12, 16)) == box


def test_the_box_around_a_voxel_lies_in_the_volume_and_as_central_as_it_can():
    assert box_around((10, 20, 30), (4, 5, 6), (40, 50, 60)) == Box((8, 18, 27), (12, 23, 33))
    assert box_around((0, 49, 59), (4, 5, 6), (40, 50, 60)) == Box((0, 45, 54), (4, 50, 60))
    assert box_around((3, 3, 3), (4, 5, 6), (4, 5, 6)) == Box((0, 0, 0), (4, 5, 6))
    with pytest.raises(ValueError, match=r"at least as many voxels .* as a box in it, \(64, 9, 9\), got \(50, 9, 9\)"):
        box_around((3, 3, 3), (64, 9, 9), (50, 9, 9))
    with pytest.raises(ValueError, match=r"a box in it, \(0, 9, 9\)"):
        box_around((3, 3, 3), (0, 9, 9), (50, 9, 9))


def test_a_shifted_box_keeps_its_shape():
    assert Box((1, 2, 3), (2, 4, 6)).shift((10, 20, 30)) == Box((11, 22, 33), (12, 24, 36))


def test_a_cropped_volume_keeps_every_voxel_at_its_place_in_the_world():
    affine = np.array([[0.7, 0.1, 0, -11], [-0.1, 0.7, 0, 22], [0, 0, 3, 33], [0, 0, 0, 1.0]])
    volume = Volume(np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5), (3.0, 0.5**0.5, 0.5**0.5), affine)
    part = crop_volume(volume, Box((1, 2, 3), (3, 4, 5)))
    assert part.array_zyx[1, 0, 1] == volume.array_zyx[2, 2, 4]
    np.testing.assert_allclose(part.affine @ (1, 0, 1, 1), volume.affine @ (4, 2, 2, 1))
    assert part.spacing_zyx_mm == volume.spacing_zyx_mm
    assert part.file_grid is None
    np.testing.assert_array_equal(volume.affine[:3, 3], [-11, 22, 33])  # the original's is untouched


def test_a_box_of_numpy_integers_equals_one_of_plain_integers():
    box = Box(np.array([1, 2, 3]), np.array([2, 4, 6]))
    assert box == Box((1, 2, 3), (2, 4, 6))
    assert all(type(i) is int for i in box.start_zyx + box.stop_zyx)
    assert box.shape_zyx == (1, 2, 3)


@pytest.mark.parametrize(("start", "stop"), [((0, 0, 0), (1, 0, 1)), ((-1, 0, 0), (1, 1, 1)), ((0, 3, 0), (1, 2, 1))])
def test_a_box_without_voxels_or_below_0_is_refused(start, stop):
    with pytest.raises(ValueError, match="0 <= start < stop"):
        Box(start, stop)


@pytest.mark.parametrize("stop", [(1, 1), (1, 1.5, 2)])
def test_a_box_needs_3_integers(stop):
    with pytest.raises(ValueError, match="3 integers"):
        Box((0, 0, 0), stop)


def test_what_reaches_outside_the_volume_is_refused_with_both_shapes():
    box = Box((0, 0, 0), (2, 3, 5))
    for use in (
        lambda: crop(np.zeros((2, 3, 4)), box),
        lambda: paste(np.zeros((2, 3, 5)), box, (2, 3, 4)),
        lambda: box.widen(1, (1, 1, 1), (2, 3, 4)),
        lambda: box.rescale((2, 3, 4), (4, 6, 8)),
    ):
        with pytest.raises(ValueError, match=r"volume of shape \(2, 3, 4\), got Box\(start_zyx=\(0, 0, 0\), stop"):
            use()


def test_an_array_of_another_shape_than_the_box_cannot_be_pasted():
    with pytest.raises(ValueError, match=r"box's shape \(1, 2, 3\), got \(3, 2, 1\)"):
        paste(np.zeros((3, 2, 1)), Box((0, 0, 0), (1, 2, 3)), (4, 4, 4))


def test_impossible_margins_shapes_and_masks_are_refused():
    box = Box((0, 0, 0), (1, 2, 3))
    with pytest.raises(ValueError, match="margin_mm must be 0 or more, got -1"):
        box.widen(-1, (1, 1, 1), (4, 5, 6))
    with pytest.raises(ValueError, match="3 positive numbers"):
        box.widen(1, (1, 0, 1), (4, 5, 6))
    with pytest.raises(ValueError, match="3 positive integers"):
        box.rescale((4, 5, 6), (4, 0, 6))
    with pytest.raises(ValueError, match="3 axes"):
        bounding_box(np.zeros((2, 3), dtype=bool))
