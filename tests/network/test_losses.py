"""The supervised loss against hand-computed voxels, the plain formula and MONAI's DiceCELoss."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from monai.losses import DiceCELoss, MaskedDiceLoss
from without_float64 import DEVICE, WithoutFloat64

from flare_lib.ct.labels import IGNORED
from flare_lib.ct.resample import resample_nearest
from flare_lib.network import losses
from flare_lib.network.losses import dice_cross_entropy_loss, dice_loss, shrink_target

# eight voxels in a batch of two images: three of background, three of organ 1, two of organ 2. The true class is given
# the probability 1/2, the two others 1/4
EIGHT_TARGET = torch.tensor([[0, 0, 1, 1], [2, 0, 1, 2]], dtype=torch.uint8).reshape(2, 1, 1, 4)
EIGHT_LOGITS = torch.log(F.one_hot(EIGHT_TARGET.long(), 3).movedim(-1, 1) * 0.25 + 0.25)
DICE_1 = 2 * 1.5 / (2.75 + 3)  # sum(p y) = 3/2; sum(p) = 3/2 + 5/4; sum(y) = 3
DICE_2 = 2 * 1.0 / (2.5 + 2)  # sum(p y) = 2/2; sum(p) = 2/2 + 6/4; sum(y) = 2


def draw(seed=0, n_classes=4, shape=(2, 3, 4, 6)):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((shape[0], n_classes, *shape[1:]), generator=generator)
    return logits, torch.randint(0, n_classes, shape, generator=generator)


def plain_loss(logits, target):
    """The formula word by word, in float64."""
    p = logits.double().softmax(dim=1)
    y = F.one_hot(target.long(), logits.shape[1]).movedim(-1, 1).double()
    dice = [
        (2 * (p[:, c] * y[:, c]).sum() + 1e-5) / (p[:, c].sum() + y[:, c].sum() + 1e-5) for c in range(1, p.shape[1])
    ]
    return -(y * p.log()).sum(dim=1).mean() + 1 - sum(dice) / len(dice)


def test_eight_voxels_give_the_dice_loss_computed_by_hand():
    assert dice_loss(EIGHT_LOGITS, EIGHT_TARGET).item() == pytest.approx(1 - (DICE_1 + DICE_2) / 2, abs=1e-5)


def test_eight_voxels_give_the_sum_with_cross_entropy_computed_by_hand():
    loss = dice_cross_entropy_loss([EIGHT_LOGITS], EIGHT_TARGET)
    assert loss.item() == pytest.approx(math.log(2) + 1 - (DICE_1 + DICE_2) / 2, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_value_and_gradient_equal_the_plain_formulas(dtype):
    logits, target = draw()
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = dice_cross_entropy_loss([ours], target.to(dtype)), plain_loss(plain, target)
    loss.backward()
    expected.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-8)


def test_value_and_gradient_equal_monais():
    logits, target = draw(seed=3, n_classes=5)
    monai = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = dice_cross_entropy_loss([ours], target), monai(theirs, target[:, None])
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-8)


def test_the_heads_count_8_4_2_and_1_fifteenths():
    target = draw(shape=(2, 8, 16, 24))[1]
    shapes = [(8, 16, 24), (4, 8, 12), (2, 4, 6), (1, 2, 3)]
    heads = [draw(seed=k, shape=(2, *shape))[0] for k, shape in enumerate(shapes)]
    each = [plain_loss(h, shrink_target(target, shape)).item() for h, shape in zip(heads, shapes, strict=True)]
    expected = sum(weight * loss for weight, loss in zip((8, 4, 2, 1), each, strict=True)) / 15
    assert dice_cross_entropy_loss(heads, target).item() == pytest.approx(expected, abs=1e-6)
    assert dice_cross_entropy_loss(heads, target, (0, 3, 0, 1)).item() == pytest.approx(
        (3 * each[1] + each[3]) / 4, abs=1e-6
    )


def test_a_head_of_weight_0_gets_no_gradient():
    target = draw(shape=(1, 2, 4, 6))[1]
    heads = [draw(shape=shape)[0].requires_grad_() for shape in ((1, 2, 4, 6), (1, 1, 2, 3))]
    dice_cross_entropy_loss(heads, target, (1, 0)).backward()
    assert heads[0].grad.abs().sum() > 0
    assert heads[1].grad is None


def test_a_certain_and_right_prediction_costs_nearly_nothing():
    target = draw()[1]
    logits = 30.0 * F.one_hot(target, 4).movedim(-1, 1)
    assert dice_cross_entropy_loss([logits], target).item() == pytest.approx(0, abs=1e-5)


def test_an_organ_that_is_absent_costs_nothing_where_it_is_not_predicted():
    target = torch.zeros((2, 2, 3, 4), dtype=torch.uint8)
    target[:, :, 1] = 1
    logits = 40.0 * F.one_hot(target.long(), 3).movedim(-1, 1)
    assert dice_loss(logits, target).item() == pytest.approx(0, abs=1e-5)
    logits[0, 2, 0, 0, 0] = 80.0  # one voxel of organ 2 now: its half of the mean is lost
    assert dice_loss(logits, target).item() == pytest.approx(0.5, abs=1e-4)


def test_a_batch_of_background_alone_has_finite_loss_and_gradient():
    logits, target = draw()[0].requires_grad_(), torch.zeros((2, 3, 4, 6), dtype=torch.uint8)
    loss = dice_cross_entropy_loss([logits], target)
    loss.backward()
    assert 1 < loss.item() < 10
    assert logits.grad.isfinite().all()
    assert logits.grad[:, 0].max() < 0  # every voxel is told to be more of background


def test_huge_logits_give_a_finite_loss_and_gradient():
    logits, target = draw()
    logits = (1e30 * logits).requires_grad_()
    loss = dice_cross_entropy_loss([logits], target)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits, target = draw(n_classes=14, shape=(2, 6, 8, 10))
    low = logits.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dice_cross_entropy_loss([low], target)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain_loss(logits.to(dtype), target).item(), abs=1e-6)
    assert low.grad.dtype == dtype


@given(seed=st.integers(0, 1000), n_classes=st.integers(2, 6))
def test_the_order_of_images_and_voxels_does_not_matter(seed, n_classes):
    logits, target = draw(seed, n_classes)
    moved = dice_cross_entropy_loss([logits.flip(0).transpose(3, 4)], target.flip(0).transpose(2, 3))
    assert moved.item() == pytest.approx(dice_cross_entropy_loss([logits], target).item(), abs=1e-5)


def partly_ignored(target, seed=0):
    where = torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    return target.masked_fill(where, IGNORED)


def others_loss(logits, target):
    """PyTorch's cross entropy, which leaves an index out, and MONAI's Dice within a mask."""
    mask = (target != IGNORED)[:, None]
    labels = F.one_hot(target.masked_fill(~mask[:, 0], 0), logits.shape[1]).movedim(-1, 1)
    dice = MaskedDiceLoss(include_background=False, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)
    return F.cross_entropy(logits, target, ignore_index=IGNORED) + dice(logits.softmax(dim=1), labels, mask.float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_ignored_voxels_are_left_out_as_others_leave_them_out(dtype):
    logits, target = draw(seed=4, n_classes=5)
    target = partly_ignored(target)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = dice_cross_entropy_loss([ours], target.to(dtype)), others_loss(theirs, target)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-8)
    assert not ours.grad.movedim(1, -1)[target == IGNORED].any()


def test_whatever_a_net_says_of_ignored_voxels_costs_nothing():
    logits, target = draw(seed=5)
    target = partly_ignored(target)
    other = torch.where((target == IGNORED)[:, None], 1e30 * draw(seed=6)[0], logits)
    assert dice_cross_entropy_loss([other], target).item() == dice_cross_entropy_loss([logits], target).item()


def test_a_device_without_float64_learns_from_the_same_loss():
    logits, target = draw(seed=12)
    for labels in (target, partly_ignored(target)):
        here = logits.clone().requires_grad_()
        loss = dice_cross_entropy_loss([here], labels)
        loss.backward()
        with WithoutFloat64():
            there = logits.to(DEVICE).requires_grad_()
            loss_there = dice_cross_entropy_loss([there], labels.to(DEVICE))
            loss_there.backward()
            assert loss_there.device == there.grad.device == DEVICE
            assert loss_there.item() == loss.item()
            assert torch.equal(there.grad.cpu(), here.grad)


def test_every_head_ignores_what_its_own_voxels_show():
    target = partly_ignored(draw(shape=(2, 4, 8, 12))[1])
    shapes = [(4, 8, 12), (2, 4, 6)]
    heads = [draw(seed=k, shape=(2, *shape))[0] for k, shape in enumerate(shapes)]
    each = [others_loss(h, shrink_target(target, shape)).item() for h, shape in zip(heads, shapes, strict=True)]
    assert dice_cross_entropy_loss(heads, target).item() == pytest.approx((2 * each[0] + each[1]) / 3, abs=1e-6)


def test_a_batch_in_which_everything_is_ignored_teaches_nothing():
    heads = [draw(shape=shape)[0].requires_grad_() for shape in ((1, 2, 4, 6), (1, 1, 2, 3))]
    loss = dice_cross_entropy_loss(heads, torch.full((1, 2, 4, 6), IGNORED, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert all((head.grad == 0).all() for head in heads)


def test_where_255_is_a_class_it_is_one():
    logits, target = draw(n_classes=256, shape=(1, 2, 3, 4))
    target[0, 0] = IGNORED
    assert dice_cross_entropy_loss([logits], target).item() == pytest.approx(
        plain_loss(logits, target).item(), abs=1e-5
    )


def test_a_shrunk_target_takes_the_voxel_nearest_to_each_centre():
    target = torch.arange(4 * 6 * 3, dtype=torch.uint8).reshape(1, 4, 6, 3)
    shrunk = shrink_target(target, (2, 2, 3))  # of 2 voxels the later one, of 3 the middle one, of 1 itself
    assert torch.equal(shrunk, target[:, [1, 3]][:, :, [1, 4]])
    assert shrunk.dtype == torch.uint8
    assert shrink_target(target, (4, 6, 3)) is target


@pytest.mark.parametrize("shape", [(4, 8, 5), (3, 4, 10), (7, 5, 3)])
def test_a_shrunk_target_is_the_label_map_resampled(shape):
    target = draw(n_classes=14, shape=(1, 8, 16, 10))[1].to(torch.uint8)
    assert shrink_target(target, shape)[0].tolist() == resample_nearest(target[0].numpy(), shape).tolist()


@pytest.mark.parametrize(
    ("logits_shape", "target", "error", "message"),
    [
        ((1, 3, 2, 3, 4), torch.zeros(1, 2, 3, 4), TypeError, "integer type, got torch.float32"),
        ((1, 3, 2, 3, 4), torch.zeros(1, 2, 3, 4, dtype=torch.bool), TypeError, "integer type, got torch.bool"),
        ((1, 3, 2, 3, 4), torch.full((1, 2, 3, 4), 3), ValueError, "class numbers 0 to 2 or 255, ignored, got 3 to 3"),
        (
            (1, 3, 2, 3, 4),
            torch.full((1, 2, 3, 4), -1),
            ValueError,
            "class numbers 0 to 2 or 255, ignored, got -1 to -1",
        ),
        ((1, 3, 1, 1, 3), torch.tensor([[[[1, 255, 3]]]]), ValueError, "or 255, ignored, got 1 to 3"),
        ((1, 3, 1, 1, 3), torch.tensor([[[[1, 255, -1]]]]), ValueError, "or 255, ignored, got -1 to 1"),
        ((1, 3, 1, 1, 3), torch.tensor([[[[1, 255, 256]]]]), ValueError, "or 255, ignored, got 1 to 256"),
        ((2, 3, 2, 3, 4), torch.zeros(1, 2, 3, 4, dtype=torch.uint8), ValueError, r"got \(1, 2, 3, 4\)"),
        ((1, 3, 2, 3, 4), torch.zeros(1, 1, 2, 3, 4, dtype=torch.uint8), ValueError, r"got \(1, 1, 2, 3, 4\)"),
        ((1, 1, 2, 3, 4), torch.zeros(1, 2, 3, 4, dtype=torch.uint8), ValueError, "2 classes or more"),
        ((1, 3, 2, 3, 4), torch.zeros(1, 2, 3, 4, dtype=torch.complex64), TypeError, "type, got torch.complex64"),
        ((0, 3, 2, 3, 4), torch.zeros(0, 2, 3, 4, dtype=torch.uint8), ValueError, r"got \(0, 3, 2, 3, 4\)"),
    ],
)
def test_logits_and_target_that_do_not_fit_are_refused(logits_shape, target, error, message):
    with pytest.raises(error, match=message):
        dice_cross_entropy_loss([torch.zeros(logits_shape)], target)


def test_what_does_not_fit_is_told_whole():
    for logits, target, told in (
        (torch.zeros(1, 3, 3, 4), torch.zeros(1, 3, 4).long(), "logits must have the shape (B, 2 classes or more, "),
        (torch.zeros(1, 3, 2, 3, 4), torch.zeros(2, 3, 4).long(), "target must have the shape (B, Z, Y, X) of (1, 3, "),
    ):
        with pytest.raises(ValueError) as refused:
            dice_loss(logits, target)
        shape = tuple(logits.shape if told.startswith("logits") else target.shape)
        assert str(refused.value).startswith(told)
        assert str(refused.value).endswith(f"got {shape}")
    with pytest.raises(ValueError, match=r"^target must have the shape \(B, Z, Y, X\), got \(2, 3, 4\)$"):
        shrink_target(torch.zeros(2, 3, 4).long(), (1, 2, 2))
    with pytest.raises(ValueError):
        shrink_target(torch.zeros(1, 2, 3, 4).long(), (1, 2, 2, 2))


@pytest.mark.parametrize("weights", [(1,), (0, 0), (-1, 2)])
def test_head_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError) as refused:
        dice_cross_entropy_loss([EIGHT_LOGITS, EIGHT_LOGITS], EIGHT_TARGET, weights)
    assert str(refused.value) == f"head_weights must be 2 numbers of 0 or more and not all 0, got {list(weights)}"


def test_no_heads_are_refused():
    with pytest.raises(ValueError, match=r"^head_logits must hold one head or more, got none$"):
        dice_cross_entropy_loss([], EIGHT_TARGET)


def test_two_processes_that_ignore_different_voxels_are_one_with_twice_the_batch(monkeypatch):
    logits, target = draw(seed=11)
    target = target.clone()
    target[0, 1] = IGNORED  # the second part ignores nothing
    assert len(target) == 2
    whole = dice_cross_entropy_loss([logits], target)
    sums = []
    monkeypatch.setattr(losses, "all_reduce_sum", lambda parts: sums.append(parts) or parts)
    for k in range(2):
        dice_cross_entropy_loss([logits[k : k + 1]], target[k : k + 1])
    both = sums[0] + sums[1]
    monkeypatch.setattr(losses, "all_reduce_sum", lambda _parts: both)
    monkeypatch.setattr(losses, "rank_and_count", lambda: (0, 2))
    parts = [dice_cross_entropy_loss([logits[k : k + 1]], target[k : k + 1]) for k in range(2)]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)


def test_a_target_on_another_grid_than_the_finest_heads_is_not_resized_to_it():
    logits, target = torch.zeros(2, 3, 4, 5, 6), torch.zeros(2, 3, 5, 6, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"^target must be on the grid of the finest head, \(4, 5, 6\) \(Z, Y, X\)"):
        dice_cross_entropy_loss([logits], target)
