"""The GPU kernel in Triton's interpreter: the labels of torch, voxel by voxel, on small grids."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="pip install 'flare-lib[triton]', 290 MB: the kernels run in its interpreter")
from flare_lib.inference import slice_triton
from flare_lib.inference.slice_interpolation import resize_argmax

CPU = torch.device("cpu")


def smooth_scores(seed, n_classes, shape):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, n_classes, 2, 3, 2, generator=generator)
    return torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0].contiguous()


def expected(scores, shape_zyx, align_corners=False):
    resized = torch.nn.functional.interpolate(scores[None], shape_zyx, mode="trilinear", align_corners=align_corners)
    return resized[0].argmax(0).numpy()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("shape", "shape_zyx", "n_classes"),
    [((3, 4, 5), (4, 5, 9), 3), ((4, 3, 6), (2, 2, 3), 3), ((1, 1, 2), (2, 3, 4), 2), ((2, 3, 4), (2, 3, 4), 5)],
)
def test_the_labels_are_those_of_the_whole_volume(shape, shape_zyx, n_classes, align_corners):
    scores = smooth_scores(1, n_classes, shape)
    labels = resize_argmax(scores, shape_zyx, align_corners=align_corners, method="triton")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected(scores, shape_zyx, align_corners))


def test_rows_longer_than_a_block_slices_in_turn_and_half_precision(monkeypatch):
    monkeypatch.setattr(slice_triton, "BLOCK", 4)
    scores = smooth_scores(2, 3, (3, 3, 5)).half().transpose(1, 3).contiguous().transpose(1, 3)  # not contiguous
    labels = resize_argmax(scores, (3, 2, 11), memory_bytes=2 * 2 * 11, method="triton")
    np.testing.assert_array_equal(labels, expected(scores.float(), (3, 2, 11)))


def test_where_corners_agree_no_score_is_read(monkeypatch):
    scores = torch.zeros(2, 2, 2, 3)
    scores[1] = 1.0
    taps = tuple(slice_triton.linear_taps(n, m) for n, m in zip((2, 2, 3), (3, 4, 5), strict=True))
    labels = np.empty((3, 4, 5), np.uint8)
    monkeypatch.setattr(slice_triton, "_along_x", None)  # calling it would fail
    assert slice_triton.paint_with_triton(scores, taps, labels, 2**20, 1.0)
    assert (labels == 1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(bad):
    scores = smooth_scores(4, 3, (2, 3, 4))
    scores[1, 1, 2, 3] = bad
    with pytest.raises(ValueError, match="finite"):
        resize_argmax(scores, (2, 4, 5), method="triton")


def test_ties_go_to_the_lower_class():
    assert not resize_argmax(torch.ones(3, 2, 2, 3), (3, 2, 4), method="triton").any()


def test_kernels_that_differ_from_torch_are_not_used(monkeypatch):
    slice_triton._compare_on.cache_clear()
    monkeypatch.setattr(slice_triton, "paint_with_torch", lambda scores, taps, out, *_: out.fill(9))
    with pytest.raises(RuntimeError, match=r"on cpu the labels of method triton must be those of torch, got \d+ of"):
        slice_triton.check_once_on(CPU)


def labels_of_scores_on_the_cpu():
    return resize_argmax(torch.ones(2, 2, 2, 3), (3, 2, 4), method="triton")


@pytest.mark.slow("a process of its own")
def test_without_the_interpreter_a_cpu_is_refused(fresh_processes):
    refused = r"^method triton needs scores on a GPU, got scores on the CPU$"
    with fresh_processes(1) as pool, pytest.raises(ValueError, match=refused):
        pool.submit(labels_of_scores_on_the_cpu).result()
