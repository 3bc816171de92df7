"""Resize + argmax: the same labels as torch gives for the whole volume, on every path, whole or as a stream."""

import re
from itertools import pairwise

import numpy as np
import pytest
import skimage.transform
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_lib.inference import slice_interpolation
from flare_lib.inference.slice_interpolation import mean_slabs, resize_argmax, resized_slices
from flare_lib.inference.sliding_window import Slab

METHODS = ("torch", "torch_pruned", "numba_dense", "numba_pruned", "auto")


def smooth_scores(seed, shape):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, shape[0], 3, 4, 3, generator=generator)
    return torch.nn.functional.interpolate(coarse, shape[1:], mode="trilinear")[0].contiguous()


def whole(scores, shape_zyx, align_corners, dtype=torch.float32):
    return torch.nn.functional.interpolate(
        scores[None].to(dtype), shape_zyx, mode="trilinear", align_corners=align_corners
    )[0]


def assert_same_winner(labels, scores, shape_zyx, align_corners):
    """Equal to the float32 argmax; where not, the two classes must tie within rounding in float64."""
    expected = whole(scores, shape_zyx, align_corners).argmax(0).numpy()
    differ = labels != expected
    exact = whole(scores, shape_zyx, align_corners, torch.float64).numpy()
    ours = np.take_along_axis(exact, labels[None].astype(int), 0)[0][differ]
    theirs = np.take_along_axis(exact, expected[None], 0)[0][differ]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert differ.mean() < 0.01


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 8)),
    st.tuples(st.integers(1, 15), st.integers(1, 17), st.integers(1, 19)),
    st.integers(2, 6),
    st.booleans(),
    st.integers(1, 20000),
    st.integers(0, 9),
)
def test_every_path_gives_the_labels_of_the_whole_volume(method, shape, shape_zyx, n_classes, align, memory, seed):
    scores = smooth_scores(seed, (n_classes, *shape))
    labels = resize_argmax(scores, shape_zyx, align_corners=align, memory_bytes=memory, method=method)
    assert labels.dtype == np.uint8
    assert labels.shape == shape_zyx
    assert_same_winner(labels, scores, shape_zyx, align)


@pytest.mark.parametrize("method", METHODS)
def test_random_scores_too(method):
    scores = torch.randn(5, 6, 7, 8, generator=torch.Generator().manual_seed(1))
    assert_same_winner(resize_argmax(scores, (13, 15, 20), method=method), scores, (13, 15, 20), False)


@settings(max_examples=20)
@given(st.integers(1, 12), st.lists(st.integers(1, 4), min_size=1, max_size=6), st.booleans())
def test_a_stream_of_slabs_gives_what_the_whole_gives(n_out, heights, align):
    scores = smooth_scores(3, (4, sum(heights), 5, 6))
    starts = np.cumsum([0, *heights])
    slabs = (Slab(int(a), scores[:, a:b]) for a, b in pairwise(starts))
    shape_zyx = (n_out, 9, 11)
    streamed = resize_argmax(slabs, shape_zyx, in_shape_zyx=scores.shape[1:], align_corners=align)
    np.testing.assert_array_equal(streamed, resize_argmax(scores, shape_zyx, align_corners=align))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_the_float32_it_stands_for(dtype):
    scores = smooth_scores(2, (4, 5, 6, 7)).to(dtype)
    np.testing.assert_array_equal(resize_argmax(scores, (9, 11, 13)), resize_argmax(scores.float(), (9, 11, 13)))


def test_numpy_and_non_contiguous_scores_are_read_alike():
    scores = smooth_scores(2, (4, 5, 6, 7))
    strange = scores.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    expected = resize_argmax(scores, (9, 11, 13))
    np.testing.assert_array_equal(resize_argmax(strange, (9, 11, 13)), expected)
    np.testing.assert_array_equal(resize_argmax(scores.numpy(), (9, 11, 13)), expected)


def test_the_same_grid_is_a_plain_argmax_and_ties_go_to_the_lower_class():
    scores = smooth_scores(4, (6, 5, 4, 3))
    np.testing.assert_array_equal(resize_argmax(scores, (5, 4, 3)), scores.argmax(0).numpy())
    assert not resize_argmax(torch.ones(3, 2, 4, 5), (5, 6, 7)).any()


def test_one_class_wins_everywhere():
    assert not resize_argmax(torch.randn(1, 2, 3, 4), (5, 4, 6)).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(method, bad):
    scores = smooth_scores(4, (3, 4, 5, 6))
    scores[1, 2, 3, 4] = bad
    with pytest.raises(ValueError, match="finite"):
        resize_argmax(scores, (8, 9, 10), method=method)


@pytest.mark.parametrize("shape_zyx", [(0, 9, 10), (8, 9), (8, 9, 10, 11), (8, -1, 10)])
def test_a_grid_must_be_3_positive_numbers(shape_zyx):
    scores = smooth_scores(4, (3, 4, 5, 6))
    for name, shapes in (("shape_zyx", (shape_zyx, (4, 5, 6))), ("in_shape_zyx", ((4, 5, 6), shape_zyx))):
        with pytest.raises(ValueError) as refused:
            resize_argmax(iter([Slab(0, scores)]), shapes[0], in_shape_zyx=shapes[1])
        assert str(refused.value) == f"{name} must be 3 positive whole numbers, got {shape_zyx}"


def test_methods_and_shapes_that_cannot_be_are_refused():
    scores = smooth_scores(4, (3, 4, 5, 6))
    with pytest.raises(ValueError, match=r"method must be one of .*'torch_pruned', .*, got 'magic'"):
        resize_argmax(scores, (8, 9, 10), method="magic")
    with pytest.raises(ValueError, match=r"in_shape_zyx must be that of the scores, \(4, 5, 6\), got \(1, 2, 3\)"):
        resize_argmax(scores, (8, 9, 10), in_shape_zyx=(1, 2, 3))
    with pytest.raises(ValueError, match="or slabs together with in_shape_zyx, got list without in_shape_zyx"):
        resize_argmax([Slab(0, scores)], (8, 9, 10))
    with pytest.raises(TypeError, match=r"a stream of scores must be of Slab\(start_z, scores\), got tuple"):
        resize_argmax([(0, scores)], (8, 9, 10), in_shape_zyx=(4, 5, 6))
    given = resize_argmax(scores, (8, 9, 10), in_shape_zyx=[4, 5, 6])
    np.testing.assert_array_equal(given, resize_argmax(scores, (8, 9, 10)))


@pytest.mark.parametrize(
    ("scores", "error", "said"),
    [
        (np.zeros((2, 3, 4, 5)), TypeError, "must be float32, float16 or bfloat16, got float64"),
        (torch.zeros(2, 3, 4, 5).short(), TypeError, "must be float32, float16 or bfloat16, got torch.int16"),
        (torch.zeros(3, 4, 5), ValueError, "must be (C, z, y, x) and not empty, got shape (3, 4, 5)"),
        (np.zeros((2, 0, 4, 5), np.float32), ValueError, "must be (C, z, y, x) and not empty, got shape (2, 0, 4, 5)"),
        (torch.zeros(256, 1, 1, 1), ValueError, "must have at most 255 classes, got 256"),
    ],
)
def test_what_are_no_scores_is_refused(scores, error, said):
    with pytest.raises(error) as refused:
        resize_argmax(scores, (8, 9, 10))
    assert str(refused.value) == f"scores {said}"


def test_255_classes_are_told_apart():
    scores = torch.zeros(255, 2, 1, 1)
    scores[254, 1] = 1.0
    assert resize_argmax(scores, (2, 1, 1)).ravel().tolist() == [0, 254]


@pytest.mark.parametrize("turn", [lambda a: a[:, ::-1], lambda a: a.astype(np.float16), lambda a: a])
def test_arrays_that_torch_does_not_take_as_they_are_are_read_all_the_same(turn):
    array = turn(smooth_scores(2, (4, 5, 6, 7)).numpy())
    array.flags.writeable = False
    expected = resize_argmax(torch.from_numpy(np.array(array, np.float32, order="C")), (9, 11, 13))
    np.testing.assert_array_equal(resize_argmax(array, (9, 11, 13)), expected)


def test_scores_that_still_record_gradients_are_read():
    scores = smooth_scores(2, (4, 5, 6, 7))
    labels = resize_argmax(scores.clone().requires_grad_(), (9, 11, 13))
    np.testing.assert_array_equal(labels, resize_argmax(scores, (9, 11, 13)))


@pytest.mark.parametrize(
    ("cuts", "said"),
    [
        ([(1, slice(0, 4))], "the next slab must start at slice 0 with slices of (5, 6), got slice 1 and (5, 6)"),
        ([(0, slice(0, 2)), (3, slice(2, 4))], "must start at slice 2 with slices of (5, 6), got slice 3 and (5, 6)"),
        ([(0, slice(0, 2)), (1, slice(2, 4))], "must start at slice 2 with slices of (5, 6), got slice 1 and (5, 6)"),
        ([(0, slice(0, 3))], "the slabs must cover 4 slices, got 3"),
        ([], "the slabs must cover 4 slices, got 0"),
    ],
)
def test_slabs_must_follow_each_other_from_the_first_slice_to_the_last(cuts, said):
    scores = smooth_scores(4, (3, 4, 5, 6))
    slabs = (Slab(start, scores[:, cut]) for start, cut in cuts)
    with pytest.raises(ValueError, match=f"{re.escape(said)}$"):
        resize_argmax(slabs, (8, 9, 10), in_shape_zyx=(4, 5, 6))


def test_slabs_must_have_the_same_classes_and_slices():
    first, second = smooth_scores(4, (3, 2, 5, 6)), smooth_scores(4, (2, 2, 5, 6))
    with pytest.raises(ValueError, match="every slab must have 3 classes, got 2"):
        resize_argmax(iter([Slab(0, first), Slab(2, second)]), (8, 9, 10), in_shape_zyx=(4, 5, 6))
    with pytest.raises(ValueError, match=r"with slices of \(5, 7\), got slice 0 and \(5, 6\)"):
        resize_argmax(iter([Slab(0, first)]), (8, 9, 10), in_shape_zyx=(2, 5, 7))


def test_the_slices_with_scores_that_are_no_numbers_are_named():
    scores = smooth_scores(4, (3, 6, 5, 6))
    scores[1, 4, 3, 4] = np.nan
    slabs = (Slab(a, scores[:, a : a + 3]) for a in (0, 3))
    with pytest.raises(ValueError, match="scores must be finite, got NaN or infinity in slices 3 to 5"):
        resize_argmax(slabs, (8, 9, 10), in_shape_zyx=(6, 5, 6))


@pytest.mark.parametrize(
    ("method", "engine", "dense_above"),
    [
        ("auto", "paint_with_numba", 0.15),
        ("numba_dense", "paint_with_numba", -1.0),
        ("numba_pruned", "paint_with_numba", 1.0),
        ("torch", "paint_with_torch", -1.0),
        ("torch_pruned", "paint_with_torch", 1.0),
    ],
)
def test_a_method_is_an_engine_with_its_share_and_memory(monkeypatch, method, engine, dense_above):
    asked = []

    def paint(scores, taps_zyx, out_zyx, memory_bytes, share):
        asked.append((memory_bytes, share))
        return True

    monkeypatch.setattr(slice_interpolation, engine, paint)
    for memory in ({}, {"memory_bytes": 5}):
        resize_argmax(torch.zeros(2, 3, 4, 5), (6, 7, 8), method=method, **memory)
    assert asked == [(32 * 2**20, dense_above), (5, dense_above)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape_zyx", [(17, 19, 26), (5, 9, 4)])
def test_scikit_image_class_by_class_gives_the_same_labels(method, shape_zyx):
    scores = smooth_scores(4, (5, 8, 9, 11))
    slow = [
        skimage.transform.resize(c, shape_zyx, order=1, mode="edge", anti_aliasing=False, preserve_range=True)
        for c in scores.numpy().astype(np.float64)
    ]
    labels = resize_argmax(scores, shape_zyx, method=method)
    first, second = np.sort(slow, axis=0)[::-1][:2]
    clear = first - second > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(labels[clear], np.argmax(slow, axis=0)[clear])


@settings(max_examples=20)
@given(st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9)), st.lists(st.integers(1, 4), min_size=1))
def test_slices_on_another_grid_are_those_of_the_whole(shape_zyx, heights):
    scores = smooth_scores(3, (4, sum(heights), 5, 6))
    slabs = (Slab(int(a), scores[:, a:b]) for a, b in pairwise(np.cumsum([0, *heights])))
    numbers, slices = zip(*resized_slices(slabs, scores.shape[1:], shape_zyx), strict=True)
    assert numbers == tuple(range(shape_zyx[0]))
    torch.testing.assert_close(torch.stack(slices, dim=1), whole(scores, shape_zyx, False), atol=1e-5, rtol=0)


def cut_into_slabs(scores, heights):
    return [Slab(int(a), scores[:, a:b].clone()) for a, b in pairwise(np.cumsum([0, *heights]))]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.lists(st.integers(1, 5), max_size=4))
def test_the_mean_of_streams_is_that_of_their_wholes_on_the_first_ones_grid(heights, others):
    first = smooth_scores(3, (4, sum(heights), 5, 6))
    streams = [smooth_scores(k, (4, n + 2, 4 + k, 9 - k)) for k, n in enumerate(others)]
    slabs = list(
        mean_slabs(
            cut_into_slabs(first, heights),
            first.shape[1:],
            [(cut_into_slabs(s, [2, s.shape[1] - 2]), s.shape[1:]) for s in streams],
        )
    )
    assert [(slab.start_z, slab.scores.shape[1]) for slab in slabs] == [
        (sum(heights[:k]), n) for k, n in enumerate(heights)
    ]
    expected = torch.stack([first, *(whole(s, first.shape[1:], False) for s in streams)]).mean(dim=0)
    torch.testing.assert_close(torch.cat([slab.scores for slab in slabs], dim=1), expected, atol=1e-5, rtol=0)


def test_slices_on_a_grid_that_is_none_or_of_slabs_that_are_too_few_are_refused():
    slab = Slab(0, smooth_scores(4, (3, 2, 5, 6)))
    with pytest.raises(ValueError, match=r"^shape_zyx must be 3 positive whole numbers, got \(4, 0, 5\)$"):
        next(resized_slices([slab], (2, 5, 6), (4, 0, 5)))
    with pytest.raises(ValueError, match=r"^in_shape_zyx must be 3 positive whole numbers, got \(2, 5\)$"):
        next(resized_slices([slab], (2, 5), (4, 5, 5)))
    with pytest.raises(ValueError, match="the slabs must cover 3 slices, got 2"):
        list(resized_slices([slab], (3, 5, 6), (4, 5, 5)))


@pytest.mark.parametrize(
    "shape", [(9.7, 10, 11), (float("nan"), 1, 1), (9, 10), "abc", None, 5, (9.5, 3, 4, 5), iter((3, 4, 5))]
)
def test_a_shape_is_three_whole_numbers_and_never_cut_to_them(shape):
    with pytest.raises(ValueError, match=r"^shape_zyx must be 3 positive whole numbers, got "):
        resize_argmax(np.zeros((2, 3, 4, 5), np.float32), shape)
    labels = resize_argmax(np.zeros((2, 3, 4, 5), np.float32), np.array([2.0, 3.0, 4.0]))
    assert labels.shape == (2, 3, 4)


def test_masked_scores_and_no_memory_are_refused():
    scores = np.zeros((2, 3, 4, 5), np.float32)
    with pytest.raises(ValueError, match=r"^scores must have a value in every voxel, got 1 masked ones"):
        resize_argmax(np.ma.array(scores, mask=np.arange(120).reshape(scores.shape) == 7), (2, 3, 4))
    for memory in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=r"^memory_bytes must be above 0, got "):
            resize_argmax(scores, (2, 3, 4), memory_bytes=memory)
