"""Sliding window: nnU-Net's tiles, averages by hand, constant in gives constant out, and memory that stays bounded."""

import math
import re
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from scipy.ndimage import gaussian_filter
from torch.utils._python_dispatch import TorchDispatchMode

from flare_lib.inference.sliding_window import fitted_patch, n_tiles, sliding_window, tile_starts, tile_weights

STEPS = (1.0, 0.5, 0.3)


def image_of(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def identity(patch):
    return patch.clone()


def wavy(patch):
    """Three scores that depend on where in the patch a voxel lies, so that overlapping tiles disagree."""
    ramp = torch.linspace(-1, 1, patch[0, 0].numel()).reshape(patch.shape[2:])
    return torch.cat([patch[:, :1] * ramp, patch[:, :1] + ramp, ramp.expand_as(patch[:, :1])], dim=1)


def whole(slabs):
    """Put slabs together; they must come in order and leave nothing out."""
    parts, next_z = [], 0
    for slab in slabs:
        assert slab.start_z == next_z
        assert slab.scores.shape[1] > 0
        assert slab.scores.dtype == torch.float32
        next_z += slab.scores.shape[1]
        parts.append(slab.scores)
    return torch.cat(parts, dim=1)


def accumulate_then_divide(image, predict_patch, patch_size, tile_step, weights):
    """The plain way: two volumes, all tiles, one division at the end; for images no smaller than the patch."""
    weight = tile_weights(patch_size, weights).double()
    sums, total = 0.0, torch.zeros(image.shape[1:], dtype=torch.float64)
    axes = [tile_starts(n, p, tile_step) for n, p in zip(image.shape[1:], patch_size, strict=True)]
    for z in axes[0]:
        for y in axes[1]:
            for x in axes[2]:
                box = (slice(z, z + patch_size[0]), slice(y, y + patch_size[1]), slice(x, x + patch_size[2]))
                scores = predict_patch(image[(slice(None), *box)][None])[0].double()
                if not torch.is_tensor(sums):
                    sums = torch.zeros((len(scores), *image.shape[1:]), dtype=torch.float64)
                sums[(slice(None), *box)] += scores * weight
                total[box] += weight
    return sums / total


# --- where the tiles are


def test_worked_examples():
    assert tile_starts(110, 64, 0.5) == (0, 23, 46)
    assert tile_starts(424, 128, 0.5) == (0, 59, 118, 178, 237, 296)


def test_step_1_tiles_just_touch_where_the_size_is_a_multiple_of_the_patch():
    assert tile_starts(288, 96, 1.0) == (0, 96, 192)
    assert tile_starts(289, 96, 1.0) == (0, 64, 129, 193)


def test_an_axis_up_to_the_patch_takes_one_tile():
    assert [tile_starts(size, 7, 0.5) for size in (1, 6, 7)] == [(0,)] * 3
    assert tile_starts(8, 7, 0.5) == (0, 1)


def test_a_step_below_one_voxel_is_one_voxel():
    assert tile_starts(5, 1, 0.1) == (0, 1, 2, 3, 4)
    assert tile_starts(6, 2, 1e-9) == (0, 1, 2, 3, 4)


@given(patch=st.integers(1, 200), size=st.integers(1, 900), tile_step=st.floats(0.05, 1.0))
def test_tiles_are_nnunets(patch, size, tile_step):
    size = max(size, patch)
    target = max(patch * tile_step, 1.0)
    count = int(np.ceil((size - patch) / target)) + 1
    actual = (size - patch) / (count - 1) if count > 1 else 99999999999
    expected = [int(np.round(actual * i)) for i in range(count)]
    assert list(tile_starts(size, patch, tile_step)) == expected


@given(patch=st.integers(1, 60), size=st.integers(1, 400), tile_step=st.floats(1e-6, 1.0))
def test_tiles_ascend_stay_inside_and_leave_no_gap(patch, size, tile_step):
    starts = np.array(tile_starts(size, patch, tile_step))
    assert starts[0] == 0
    assert starts[-1] == max(size - patch, 0)
    assert (np.diff(starts) >= 1).all()
    assert (np.diff(starts) <= patch).all()


def test_n_tiles_is_the_product_over_the_axes_and_what_progress_counts_to():
    assert n_tiles((110, 64, 20), (64, 32, 32), 0.5) == 3 * 3 * 1
    seen = []
    shape, patch_size = (9, 7, 4), (4, 3, 5)
    slabs = sliding_window(
        image_of(*shape), identity, patch_size=patch_size, tile_step=0.5, progress=lambda *n: seen.append(n)
    )
    whole(slabs)
    total = n_tiles(shape, patch_size, 0.5)
    assert total == 4 * 4 * 1
    assert seen == [(k + 1, total) for k in range(total)]


# --- how much a voxel counts


def test_uniform_weights_are_1():
    assert torch.equal(tile_weights((2, 3, 5), "uniform"), torch.ones(2, 3, 5))


@pytest.mark.parametrize("patch_size", [(8, 12, 16), (5, 6, 9), (1, 24, 7)])
def test_gaussian_weights_are_a_filtered_point_scaled_to_1(patch_size):
    point = np.zeros(patch_size)
    point[tuple(p // 2 for p in patch_size)] = 1.0
    expected = gaussian_filter(point, [p / 8 for p in patch_size], mode="constant")
    expected /= expected.max()
    weights = tile_weights(patch_size, "gaussian")
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=0)


def test_no_gaussian_weight_is_0():
    weights = tile_weights((96, 128, 160), "gaussian")
    assert weights.max() == 1
    assert weights[48, 64, 80] == 1
    assert float(weights.min()) == pytest.approx(math.exp(-24), rel=1e-5)
    assert weights.min() == weights[0, 0, 0]


# --- what comes out


@pytest.mark.parametrize("weights", ["uniform", "gaussian"])
@pytest.mark.parametrize("tile_step", STEPS)
def test_constant_in_gives_constant_out(weights, tile_step):
    image = torch.full((2, 23, 17, 13), 0.7)
    scores = whole(sliding_window(image, identity, patch_size=(8, 6, 10), tile_step=tile_step, weights=weights))
    torch.testing.assert_close(scores, image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", ["uniform", "gaussian"])
@pytest.mark.parametrize("tile_step", STEPS)
def test_the_identity_gives_the_image_back(weights, tile_step):
    image = image_of(2, 31, 14, 19).sigmoid()  # as large as probabilities are
    scores = whole(sliding_window(image, identity, patch_size=(9, 7, 8), tile_step=tile_step, weights=weights))
    torch.testing.assert_close(scores, image, rtol=0, atol=1e-6)


def test_overlapping_tiles_are_averaged_by_hand():
    answers = iter((0.0, 1.0, 2.0, 3.0))
    slabs = sliding_window(
        torch.zeros(3, 1, 5),
        lambda patch: torch.full_like(patch, next(answers)),
        patch_size=(2, 1, 4),
        tile_step=0.5,
    )
    # z tiles start at 0 and 1, x tiles at 0 and 1; tiles 0 and 1 are the upper row, 2 and 3 the lower one
    expected = torch.tensor([[0, 0.5, 0.5, 0.5, 1], [1, 1.5, 1.5, 1.5, 2], [2, 2.5, 2.5, 2.5, 3]])
    assert torch.equal(whole(slabs)[0, :, 0], expected)


def test_a_gaussian_average_by_hand():
    answers = iter((0.0, 1.0))
    slabs = sliding_window(
        torch.zeros(1, 1, 6),
        lambda patch: torch.full_like(patch, next(answers)),
        patch_size=(1, 1, 4),
        tile_step=0.5,
        weights="gaussian",
    )
    w = [math.exp(-0.5 * ((i - 2) / 0.5) ** 2) for i in range(4)]  # tiles at x = 0 and x = 2
    expected = [0, 0, w[0] / (w[0] + w[2]), w[1] / (w[1] + w[3]), 1, 1]
    torch.testing.assert_close(whole(slabs)[0, 0, 0], torch.tensor(expected), rtol=1e-6, atol=1e-9)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(5, 20), st.integers(4, 9), st.integers(3, 8)),
    patch_size=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3)),
    tile_step=st.floats(0.2, 1.0),
    weights=st.sampled_from(["uniform", "gaussian"]),
)
def test_slabs_equal_accumulate_then_divide(shape, patch_size, tile_step, weights):
    image = image_of(1, *shape)
    scores = whole(sliding_window(image, wavy, patch_size=patch_size, tile_step=tile_step, weights=weights))
    expected = accumulate_then_divide(image, wavy, patch_size, tile_step, weights)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)


def test_equals_monai_where_its_tiles_are_the_same():
    # sizes at which a fixed interval of half a patch ends exactly at the border
    image, patch_size = image_of(1, 20, 12, 15), (8, 6, 10)
    theirs = sliding_window_inference(image[None], patch_size, 1, wavy, overlap=0.5, mode="constant")[0]
    ours = whole(sliding_window(image, wavy, patch_size=patch_size, tile_step=0.5))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


# --- images smaller than the patch, or as large


def test_an_image_as_large_as_the_patch_is_one_tile_seen_whole():
    image, seen = image_of(2, 6, 5, 4), []

    def remember(patch):
        seen.append(patch.clone())
        return patch * 2

    slabs = list(sliding_window(image, remember, patch_size=(6, 5, 4), tile_step=0.5, weights="gaussian"))
    assert len(slabs) == len(seen) == 1
    assert torch.equal(seen[0], image[None])
    torch.testing.assert_close(slabs[0].scores, image * 2)


def test_a_small_image_is_padded_on_both_sides_and_cropped_back():
    image, seen = image_of(3, 2, 5), []

    def remember(patch):
        seen.append(patch.clone())
        return patch

    for pad in ({"pad_value": -4.0}, {}):
        scores = whole(sliding_window(image, remember, patch_size=(8, 6, 5), tile_step=1.0, **pad))
        expected = torch.full((8, 6, 5), pad.get("pad_value", 0.0))
        expected[2:5, 2:4] = image  # 5 slices missing: 2 before, 3 after; 4 rows missing: 2 before, 2 after
        assert torch.equal(seen.pop()[0, 0], expected)
        assert torch.equal(scores[0], image)


def test_patches_are_predicted_on_the_device_asked_for_else_where_the_image_is():
    asked = []

    def answer(patch):
        asked.append(patch.device.type)
        return torch.ones(1, 2, 4, 3, 2)

    for image, device in ((torch.zeros(6, 5, 4), "meta"), (torch.zeros(6, 5, 4, device="meta"), None)):
        slabs = list(sliding_window(image, answer, patch_size=(4, 3, 2), tile_step=1.0, device=device))
        assert set(asked) == {"meta"}
        assert {slab.scores.device.type for slab in slabs} == {"cpu"}  # where the scores are
        asked.clear()
    list(sliding_window(torch.zeros(6, 5, 4), answer, patch_size=(4, 3, 2), tile_step=1.0))
    assert set(asked) == {"cpu"}


def test_an_image_is_moved_to_the_device_once_however_many_tiles_there_are():
    class Moves(TorchDispatchMode):
        shapes = ()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            answer = func(*args, **(kwargs or {}))
            if func is torch.ops.aten._to_copy.default and answer.device.type == "meta":
                self.shapes += (tuple(answer.shape),)
            return answer

    with Moves() as moves:
        slabs = sliding_window(
            torch.zeros(9, 7, 5),
            lambda patch: torch.ones(1, 2, *patch.shape[2:]),
            patch_size=(4, 7, 3),
            tile_step=0.5,
            device="meta",
        )
        assert whole(slabs).shape == (2, 9, 7, 5)
    assert moves.shapes == ((1, 9, 7, 5),)


def test_a_device_that_has_no_room_for_the_image_is_told_in_a_line(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    slabs = sliding_window(torch.zeros(6, 5, 4), identity, patch_size=(4, 3, 2), tile_step=1.0)
    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(MemoryError, match=r"^cpu is full$"):
        next(slabs)


@pytest.mark.parametrize("shape", [(3, 14, 5), (14, 3, 9), (20, 9, 2), (1, 1, 1), (1, 17, 8)])
@pytest.mark.parametrize("weights", ["uniform", "gaussian"])
def test_any_axis_may_be_shorter_than_the_patch(shape, weights):
    image = image_of(1, *shape)
    scores = whole(sliding_window(image, identity, patch_size=(6, 5, 7), tile_step=0.5, weights=weights))
    torch.testing.assert_close(scores, image, rtol=0, atol=1e-6)


def test_patches_of_one_slice():
    image = image_of(1, 4, 6, 5)
    scores = whole(sliding_window(image, identity, patch_size=(1, 4, 3), tile_step=0.5))
    torch.testing.assert_close(scores, image, rtol=0, atol=1e-6)


def test_an_image_without_channels_is_one_channel():
    image = image_of(7, 6, 5)
    options = {"patch_size": (4, 3, 2), "tile_step": 0.5}
    assert torch.equal(
        whole(sliding_window(image, wavy, **options)), whole(sliding_window(image[None], wavy, **options))
    )


def test_a_predictor_that_works_in_place_does_not_change_the_image():
    image = image_of(1, 9, 6, 5)
    before = image.clone()
    whole(sliding_window(image, lambda patch: patch.mul_(2), patch_size=(4, 3, 2), tile_step=0.5))
    assert torch.equal(image, before)


def test_half_precision_scores_are_averaged_in_single_precision():
    image = image_of(1, 9, 6, 5).bfloat16().float()
    scores = whole(sliding_window(image, lambda patch: patch.bfloat16(), patch_size=(4, 3, 2), tile_step=0.3))
    torch.testing.assert_close(scores, image, rtol=0, atol=1e-6)


def test_scores_of_a_net_that_still_records_gradients_come_without_them():
    net = torch.nn.Conv3d(1, 2, 1)
    slabs = list(sliding_window(image_of(6, 5, 4), net, patch_size=(4, 3, 2), tile_step=0.5))
    assert not any(slab.scores.requires_grad for slab in slabs)


# --- memory


def test_a_slab_comes_as_soon_as_no_later_tile_touches_it():
    done = []
    image, patch_size = image_of(40, 6, 5), (8, 6, 5)
    slabs = sliding_window(
        image, identity, patch_size=patch_size, tile_step=0.5, progress=lambda n, total: done.append(n)
    )
    seen = [(slab.start_z, slab.scores.shape[1], done[-1]) for slab in slabs]
    assert seen == [(4 * k, 4, k + 1) for k in range(8)] + [(32, 8, 9)]


def test_a_slab_is_never_thicker_than_16_slices():
    slabs = sliding_window(image_of(90, 3, 4), identity, patch_size=(40, 3, 4), tile_step=0.5)
    # tiles at 0, 17, 33 and 50: rows finish 17, 16, 17 and 40 slices
    assert [slab.scores.shape[1] for slab in slabs] == [16, 1, 16, 16, 1, 16, 16, 8]


def test_nothing_grows_with_the_length_of_the_patient():
    class LargestTensor(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if torch.is_tensor(result) and result.shape[-3:] != image.shape[-3:]:  # the image and its views are given
                self.numel = max(self.numel, result.numel())
            return result

    def fourteen(patch):
        return patch.expand(1, 14, *patch.shape[2:])

    image, patch_size = torch.zeros(1, 120, 9, 7), (6, 5, 4)
    with LargestTensor() as largest:
        for _ in sliding_window(image, fourteen, patch_size=patch_size, tile_step=0.5):
            pass
    assert largest.numel == 14 * 6 * 9 * 7


def test_a_tiles_scores_are_gone_before_the_next_ones_are_made():
    made, gone = [], []

    def predict(patch):
        gone.append([storage() is None for storage in made])
        scores = patch.clone()
        made.append(weakref.ref(scores.untyped_storage()))
        return scores

    whole(sliding_window(image_of(9, 7, 4), predict, patch_size=(4, 7, 4), tile_step=0.5))
    assert gone == [[True] * k for k in range(4)]


def test_slabs_may_be_kept():
    image = image_of(1, 30, 5, 6)
    slabs = list(sliding_window(image, identity, patch_size=(7, 5, 4), tile_step=0.3))
    torch.testing.assert_close(whole(slabs), image, rtol=0, atol=1e-6)


# --- what cannot be


# --- tiles fitted to an image


def fitted(shape, patch, step=0.5, multiple_of=(2, 4, 1), cap=2.0):
    return fitted_patch(shape, patch, step, multiple_of=multiple_of, cap=cap)


def n_computed(shape, patch, step):
    return n_tiles(shape, patch, step) * math.prod(patch)


def test_one_larger_tile_takes_the_place_of_two_or_three():
    patch, multiples = (64, 64, 80), (16, 16, 16)
    assert fitted((60, 72, 110), patch, multiple_of=multiples) == (64, 80, 112)  # instead of 1 x 2 x 2 tiles
    assert fitted((60, 72, 110), patch, multiple_of=multiples, cap=1.3) == (64, 80, 80)  # 2 tiles of 1.25 patches
    assert fitted((60, 72, 110), patch, multiple_of=multiples, cap=1.0) == patch
    assert fitted((50, 31, 80), patch, multiple_of=multiples, cap=8.0) == patch
    assert fitted((128, 64, 80), patch, 1.0, multiple_of=multiples) == patch  # two tiles that touch are no more work
    assert fitted((200, 300, 90), patch, multiple_of=multiples, cap=math.inf) == (208, 304, 96)


@given(
    shape=st.tuples(*[st.integers(1, 90)] * 3),
    patch=st.tuples(st.integers(1, 10), st.integers(1, 5), st.integers(1, 20)),
    step=st.floats(0.2, 1.0),
    cap=st.floats(1.0, 4.0),
)
def test_a_fitted_patch_is_the_best_of_all_that_are_allowed(shape, patch, step, cap):
    multiples = (2, 4, 1)
    patch = tuple(n * m for n, m in zip(patch, multiples, strict=True))
    found = fitted(shape, patch, step, multiples, cap)
    assert all(size >= least for size, least in zip(found, patch, strict=True))
    assert not any(size % multiple for size, multiple in zip(found, multiples, strict=True))
    assert math.prod(found) <= cap * math.prod(patch)
    cost = n_computed(shape, found, step), math.prod(found)
    assert cost <= (n_computed(shape, patch, step), math.prod(patch))
    if all(size <= whole for size, whole in zip(shape, patch, strict=True)):
        assert found == patch
    # along one axis alone nothing larger or smaller is better
    for axis in range(3):
        for size in range(patch[axis], int(cap * patch[axis]) + 1, multiples[axis]):
            other = (*found[:axis], size, *found[axis + 1 :])
            if math.prod(other) <= cap * math.prod(patch):
                assert cost <= (n_computed(shape, other, step), math.prod(other))


def test_constant_in_gives_constant_out_and_the_identity_the_image_with_fitted_tiles():
    shape, patch = (17, 9, 26), (8, 12, 20)
    size = fitted(shape, patch)
    assert size == (12, 12, 26)
    for image in (torch.full((1, *shape), 2.5), image_of(1, *shape)):
        scores = whole(sliding_window(image, identity, patch_size=size, tile_step=0.5, weights="gaussian"))
        torch.testing.assert_close(scores, image)


def test_a_cap_multiple_or_image_that_fits_nothing_is_refused():
    for cap in (0.9, -2.0, math.nan):
        with pytest.raises(ValueError, match=f"^the cap of a fitted patch must be 1 or more patches, got {cap}$"):
            fitted((5, 6, 7), (2, 4, 3), cap=cap)
    for along_y in (3, 0):
        with pytest.raises(ValueError, match=rf"patch_size must be a multiple of \(2, {along_y}, 1\), got \(2, 4, 3\)"):
            fitted((5, 6, 7), (2, 4, 3), multiple_of=(2, along_y, 1))
    with pytest.raises(ValueError, match="size and patch must be at least 1 voxel, got 0 and 4"):
        fitted((5, 0, 7), (2, 4, 3))
    with pytest.raises(ValueError, match="patch_size must be 3 positive integers"):
        fitted((5, 6, 7), (2, 4))


# --- what is refused


@pytest.mark.parametrize("tile_step", [0.0, -0.5, 1.01, math.nan])
def test_a_step_outside_0_to_1_is_refused(tile_step):
    with pytest.raises(ValueError, match=f"^tile_step must be above 0 and at most 1, got {tile_step}$"):
        tile_starts(10, 4, tile_step)


@pytest.mark.parametrize(("size", "patch"), [(0, 4), (-1, 4), (4, 0)])
def test_no_size_and_no_patch_is_below_1(size, patch):
    with pytest.raises(ValueError, match=f"^size and patch must be at least 1 voxel, got {size} and {patch}$"):
        tile_starts(size, patch, 0.5)


@pytest.mark.parametrize("patch_size", [(4, 4), (4, 0, 4), (4, 4, 2.5)])
def test_a_patch_that_is_not_3_positive_integers_is_refused(patch_size):
    said = re.escape(f"patch_size must be 3 positive integers (z, y, x), got {patch_size}")
    with pytest.raises(ValueError, match=f"^{said}$"):
        sliding_window(torch.zeros(5, 6, 7), identity, patch_size=patch_size, tile_step=1)


@pytest.mark.parametrize("shape", [(5, 6), (1, 1, 5, 6, 7)])
def test_an_image_of_another_number_of_axes_is_refused_before_anything_is_predicted(shape):
    said = re.escape(f"image must be (C, Z, Y, X) or (Z, Y, X), got shape {shape}")
    with pytest.raises(ValueError, match=f"^{said}$"):
        sliding_window(torch.zeros(shape), identity, patch_size=(2, 2, 2), tile_step=1)


def test_an_empty_axis_is_refused():
    with pytest.raises(ValueError, match="size and patch must be at least 1"):
        sliding_window(torch.zeros(5, 0, 7), identity, patch_size=(2, 2, 2), tile_step=1)


def test_unknown_weights_are_refused():
    with pytest.raises(ValueError, match="weights must be 'uniform' or 'gaussian', got 'round'"):
        sliding_window(torch.zeros(5, 6, 7), identity, patch_size=(2, 2, 2), tile_step=1, weights="round")


@pytest.mark.parametrize("shape", [(1, 1, 2, 3, 3), (1, 1, 3, 3, 4), (2, 1, 2, 3, 4), (1, 2, 3, 4), (1, 1, 1, 2, 3, 4)])
def test_scores_of_another_shape_are_refused(shape):
    slabs = sliding_window(torch.zeros(5, 6, 7), lambda _: torch.zeros(shape), patch_size=(2, 3, 4), tile_step=1)
    with pytest.raises(ValueError) as refused:
        next(slabs)
    assert str(refused.value) == f"predict_patch must return scores of shape (1, K, 2, 3, 4), got {shape}"


def test_a_number_of_scores_that_changes_is_refused():
    counts = iter((3, 2))
    slabs = sliding_window(
        torch.zeros(2, 3, 8), lambda p: p.expand(1, next(counts), *p.shape[2:]), patch_size=(2, 3, 4), tile_step=1
    )
    with pytest.raises(ValueError, match=r"of shape \(1, 3, 2, 3, 4\), got \(1, 2, 2, 3, 4\)"):
        next(slabs)


def test_the_list_that_a_net_of_several_heads_gives_is_refused():
    slabs = sliding_window(torch.zeros(2, 3, 4), lambda patch: [patch, patch], patch_size=(2, 3, 4), tile_step=1.0)
    with pytest.raises(TypeError, match="predict_patch must return a tensor of scores, got list"):
        next(slabs)


def test_an_image_that_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"^image must be a tensor, got ndarray$"):
        sliding_window(np.zeros((1, 4, 5, 6)), lambda patch: patch, patch_size=(4, 4, 4), tile_step=0.5)
