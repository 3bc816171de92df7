"""Resize + argmax: the same labels as torch gives for the whole volume, on every path, whole or as a stream."""

from itertools import pairwise

import numpy as np
import pytest
import skimage.transform
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_lib.inference.slice_interpolation import resize_argmax
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


def test_shapes_and_methods_that_cannot_be_are_refused():
    scores = smooth_scores(4, (3, 4, 5, 6))
    with pytest.raises(ValueError, match="shape_zyx"):
        resize_argmax(scores, (0, 9, 10))
    with pytest.raises(ValueError, match="method must be one of"):
        resize_argmax(scores, (8, 9, 10), method="magic")
    with pytest.raises(ValueError, match="in_shape_zyx must be that of the scores"):
        resize_argmax(scores, (8, 9, 10), in_shape_zyx=(1, 2, 3))


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
