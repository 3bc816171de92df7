"""The consistency of the heads: values by hand, direction, gradients, and what collapses."""

import math

import numpy as np
import pytest
import torch

from flare_lib.network.consistency import consistency_loss, pseudo_label, ramp_up


def logits_of(probability):
    """Two classes in a block of 2 x 2 x 2 voxels, the first with this probability in every voxel."""
    p = torch.tensor([probability, 1 - probability], dtype=torch.float64).log()
    return p[None, :, None, None, None].expand(1, 2, 2, 2, 2).clone()


def heads(seed=0, *, dtype=torch.float64, scale=2.0):
    """Four heads of 3 classes, each half as fine as the one before."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(8, 16, 24), (4, 8, 12), (2, 4, 6), (1, 2, 3)]
    return [(scale * torch.randn(2, 3, *s, generator=generator, dtype=torch.float64)).to(dtype) for s in shapes]


def test_the_pseudo_label_is_the_mean_of_the_probabilities_not_of_the_logits():
    mean = pseudo_label([logits_of(0.9), logits_of(0.5)])
    np.testing.assert_allclose(mean[0, 0], 0.7, rtol=1e-6)
    np.testing.assert_allclose(mean.sum(dim=1), 1.0, rtol=1e-6)


def test_a_coarse_head_is_brought_to_the_finest_grid():
    coarse = torch.zeros(1, 2, 1, 1, 1)
    coarse[0, 0] = math.log(3)  # probability 3/4 everywhere
    np.testing.assert_allclose(pseudo_label([logits_of(0.25), coarse])[0, 0], 0.5, rtol=1e-6)


def test_kl_is_as_computed_by_hand():
    # P = 0.7; KL(P || 0.9) + KL(P || 0.5), the same in all eight voxels
    expected = sum(0.7 * math.log(0.7 / q) + 0.3 * math.log(0.3 / (1 - q)) for q in (0.9, 0.5))
    assert float(consistency_loss([logits_of(0.9), logits_of(0.5)])) == pytest.approx(expected, rel=1e-5)


def test_urpc_is_as_computed_by_hand_over_voxels_that_differ():
    first, second = logits_of(0.9), logits_of(0.5)
    second[..., 1] = logits_of(0.8)[..., 1]  # half of the voxels nearly agree
    expected = 0.0
    for own in ((0.9, 0.9), (0.5, 0.8)):
        means = (0.7, 0.85)
        kl = [p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) for p, q in zip(means, own, strict=True)]
        weights = [math.exp(-d) for d in kl]
        squares = [(p - q) ** 2 for p, q in zip(means, own, strict=True)]  # the same for both classes
        expected += sum(s * w for s, w in zip(squares, weights, strict=True)) / sum(weights) + sum(kl) / 2
    assert float(consistency_loss([first, second], kind="urpc")) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["kl", "urpc"])
def test_heads_that_agree_cost_nothing_and_learn_nothing(kind):
    same = [heads()[0].float().requires_grad_() for _ in range(4)]
    loss = consistency_loss(same, kind=kind)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert all(head.grad.abs().max() < 1e-6 for head in same)


@pytest.mark.parametrize("kind", ["kl", "urpc"])
def test_agreement_on_nothing_costs_nothing_too(kind):
    background = torch.zeros(1, 3, 4, 4, 4)
    background[:, 0] = 30.0  # every head sees background everywhere: this is why labels are needed in every step
    assert float(consistency_loss([background, background[..., ::2, ::2, ::2]], kind=kind)) == pytest.approx(
        0, abs=1e-6
    )


def test_the_direction_is_from_the_pseudo_label_to_the_head():
    # one sure head, one that knows nothing: P = 0.745
    sure, unsure = 0.99, 0.5
    p = (sure + unsure) / 2
    forward = sum(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) for q in (sure, unsure))
    backward = sum(q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p)) for q in (sure, unsure))
    loss = float(consistency_loss([logits_of(sure), logits_of(unsure)]))
    assert loss == pytest.approx(forward, rel=1e-4)
    assert abs(forward - backward) > 0.1


@pytest.mark.parametrize("detached", [True, False])
def test_gradients_are_those_of_the_plain_formula(detached):
    ours = [h.float().requires_grad_() for h in heads()]
    consistency_loss(ours, gradient_through_target=not detached).backward()
    plain = [h.requires_grad_() for h in heads()]
    soft = [
        torch.nn.functional.interpolate(h.softmax(1), (8, 16, 24), mode="trilinear", align_corners=False) for h in plain
    ]
    mean = sum(soft) / 4
    mean = mean.detach() if detached else mean
    sum(torch.nn.functional.kl_div(s.log(), mean, reduction="none").sum(1).mean() for s in soft).backward()
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a.grad, b.grad, rtol=1e-3, atol=1e-8)


def test_the_target_moves_with_urpc_as_released_and_stands_still_with_kl():
    for kind, moves in (("kl", False), ("urpc", True)):
        grads = []
        for through in (None, moves):
            leaves = [h.float().requires_grad_() for h in heads()]
            consistency_loss(leaves, kind=kind, gradient_through_target=through).backward()
            grads.append(leaves[0].grad)
        assert torch.equal(*grads)


@pytest.mark.parametrize("kind", ["kl", "urpc"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_huge_logits_stay_finite(kind, dtype):
    leaves = [h.requires_grad_() for h in heads(dtype=dtype, scale=200.0)]
    loss = consistency_loss(leaves, kind=kind)
    loss.backward()
    assert loss.dtype == torch.float32
    assert math.isfinite(float(loss.detach()))
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_a_step_down_the_gradient_brings_the_heads_together():
    leaves = [h.float().requires_grad_() for h in heads()]
    before = consistency_loss(leaves)
    before.backward()
    after = consistency_loss([(h - 50 * h.grad).detach() for h in leaves])
    assert float(after) < float(before.detach())


def test_the_weight_rises_to_its_highest_and_stays():
    assert ramp_up(0, 100) == pytest.approx(0.1 * math.exp(-5))
    assert ramp_up(50, 100) == pytest.approx(0.1 * math.exp(-1.25))
    assert ramp_up(100, 100) == ramp_up(1000, 100) == 0.1
    assert ramp_up(3, 12, highest=4.0) == pytest.approx(4 * math.exp(-5 * 0.75**2))
    assert ramp_up(1, 1) == 0.1
    for step, n_steps in ((-1, 100), (0, 0)):
        with pytest.raises(ValueError, match=f"step must be 0 or more and n_steps 1 or more, got {step} and {n_steps}"):
            ramp_up(step, n_steps)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="kind must be one of kl, urpc, got 'js'"):
        consistency_loss(heads(), kind="js")
    with pytest.raises(ValueError, match=r"^head_logits must hold one head or more, got none$"):
        consistency_loss([])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 2, 4, 4, 4), (1, 3, 2, 2, 2)),
        ((1, 2, 4, 4, 4), (2, 2, 2, 2, 2)),
        ((1, 2, 4, 4, 4), (1, 2, 4, 4)),
        ((1, 2, 4, 4), (1, 2, 4, 4)),
    ],
)
def test_heads_that_do_not_belong_together_are_refused_with_all_their_shapes(first, second):
    with pytest.raises(ValueError) as refused:
        pseudo_label([torch.zeros(first), torch.zeros(second)])
    assert str(refused.value) == f"all heads must be (B, C, Z, Y, X) with the same B and C, got {first}, {second}"
