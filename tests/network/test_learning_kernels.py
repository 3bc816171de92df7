"""The kernels of training: torch's own answers, gradients exact to rounding, and really in use."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch_kernels import BFLOAT16, CPU, onednn, operations, random, small_net

from flare_lib.machine.device import has_x86_onednn
from flare_lib.machine.precision import FLOAT32
from flare_lib.network import learning_kernels
from flare_lib.network.learning_kernels import learning


@pytest.fixture
def net():
    return small_net()


def gradients(run, *tensors, context=None, dtype=torch.float32):
    """Return what `run` gives for copies of the tensors, and the gradients of those that have one.

    The answer is weighted by a number for each voxel, or every gradient behind a normalisation would be 0.
    """
    copies = [t if t is None else t.detach().to(dtype).requires_grad_(t.requires_grad) for t in tensors]
    with context or nullcontext():
        answer = run(*copies)
    (answer * random(*answer.shape, seed=9).to(dtype)).sum().backward()
    return answer.detach(), [t.grad for t in copies if t is not None and t.requires_grad]


def learnt(*shape, seed=1):
    return random(*shape, seed=seed).requires_grad_()


LEARNT = {  # (image, weights, bias), and how they are convolved
    "padded": ((learnt(2, 4, 7, 9, 11), learnt(6, 4, 3, 3, 3), learnt(6)), {"padding": 1}),
    "batch of 3, no bias": ((learnt(3, 2, 7, 9, 11), learnt(6, 2, 3, 3, 3), None), {"padding": 1}),
    "a large batch of 1": ((learnt(1, 32, 27, 25, 4), learnt(2, 32, 3, 3, 3), learnt(2)), {"padding": 1}),
    "every axis different": (
        (learnt(2, 4, 13, 9, 15), learnt(5, 4, 3, 1, 2), learnt(5)),
        {"padding": (2, 1, 0)},
    ),
    "one channel comes out": ((learnt(2, 4, 11, 9, 12), learnt(1, 4, 3, 3, 3), learnt(1)), {}),
    "an image, not to be learnt": ((random(2, 4, 7, 9, 11), learnt(6, 4, 3, 3, 3), learnt(6)), {"padding": 1}),
    "a frozen bias": ((learnt(2, 4, 7, 9, 11), learnt(6, 4, 3, 3, 3), random(6)), {"padding": 1}),
    "channels last": (
        (
            learnt(2, 4, 7, 9, 11).detach().to(memory_format=torch.channels_last_3d).requires_grad_(),
            learnt(6, 4, 3, 3, 3).detach().to(memory_format=torch.channels_last_3d).requires_grad_(),
            None,
        ),
        {"padding": 1},
    ),
}
LONE = {  # batches of one that torch would keep from oneDNN
    "padded": ((learnt(1, 4, 9, 12, 15), learnt(6, 4, 3, 3, 3), learnt(6)), {"padding": 1}),
    "every axis different": ((learnt(1, 4, 13, 9, 15), learnt(5, 4, 3, 1, 2), learnt(5)), {"padding": (2, 1, 0)}),
    "few voxels, no bias": ((learnt(1, 4, 2, 3, 4), learnt(6, 4, 3, 3, 3), None), {"padding": 1}),
    "an image, not to be learnt": ((random(1, 4, 9, 12, 15), learnt(6, 4, 3, 3, 3), learnt(6)), {"padding": 1}),
    "channels last, a frozen bias": (
        (
            learnt(1, 4, 7, 9, 11).detach().to(memory_format=torch.channels_last_3d).requires_grad_(),
            learnt(6, 4, 3, 3, 3).detach().to(memory_format=torch.channels_last_3d).requires_grad_(),
            random(6),
        ),
        {"padding": 1},
    ),
    "one channel comes out": ((learnt(1, 4, 11, 9, 12), learnt(1, 4, 3, 3, 3), learnt(1)), {}),
}
LEFT_TO_TORCH = {
    "a stride": ((learnt(2, 4, 17, 19, 23), learnt(6, 4, 3, 3, 3), learnt(6)), {"stride": (2, 1, 3)}),
    "dilated": ((learnt(2, 4, 13, 12, 15), learnt(6, 4, 3, 3, 3), learnt(6)), {"padding": 1, "dilation": (1, 2, 1)}),
    "groups": ((learnt(2, 4, 9, 12, 15), learnt(6, 2, 3, 3, 3), learnt(6)), {"groups": 2}),
    "one channel goes in": ((learnt(2, 1, 9, 12, 15), learnt(6, 1, 3, 3, 3), learnt(6)), {}),
    "a kernel of one voxel": ((learnt(2, 4, 9, 12, 15), learnt(6, 4, 1, 1, 1), learnt(6)), {}),
    "frozen weights": ((learnt(2, 4, 9, 12, 15), random(6, 4, 3, 3, 3), learnt(6)), {}),
    "padding by name": ((learnt(2, 4, 9, 12, 15), learnt(6, 4, 3, 3, 3), learnt(6)), {"padding": "same"}),
    "one voxel": ((learnt(2, 4, 1, 1, 1), learnt(6, 4, 3, 3, 3), learnt(6)), {"padding": 1}),
    "999 voxels": ((learnt(3, 4, 3, 3, 37), learnt(6, 4, 3, 3, 3), learnt(6)), {"padding": 1}),
    "a small batch of 1, with a stride": ((learnt(1, 4, 9, 12, 15), learnt(6, 4, 3, 3, 3), None), {"stride": 2}),
    "not a batch": ((learnt(4, 9, 12, 15), learnt(6, 4, 3, 3, 3), learnt(6)), {"padding": 1}),
    "an empty batch": ((learnt(0, 4, 9, 12, 15), learnt(6, 4, 3, 3, 3), learnt(6)), {"padding": 1}),
}


@pytest.mark.parametrize("name", [*LEARNT, *LEFT_TO_TORCH])
def test_a_learnt_convolution_is_torchs_and_its_gradients_are_exact_to_rounding(monkeypatch, name):
    tensors, how = (LEARNT | LEFT_TO_TORCH)[name]
    chosen, ours = learning_kernels._Convolution.apply, []
    monkeypatch.setattr(learning_kernels._Convolution, "apply", lambda *given: ours.append(1) or chosen(*given))

    def convolve(*them):
        return F.conv3d(*them, **how)

    with torch.no_grad():
        expected = convolve(*tensors)
    _, exact = gradients(convolve, *tensors, dtype=torch.float64)
    found, mine = gradients(convolve, *tensors, context=learning(CPU, FLOAT32))
    assert found.equal(expected)
    assert len(mine) == len(exact) == sum(t is not None and t.requires_grad for t in tensors)
    assert len(ours) == (name in LEARNT and has_x86_onednn())
    for of_ours, true in zip(mine, exact, strict=True):
        assert of_ours.shape == true.shape
        assert (of_ours - true).norm() <= 5e-6 * true.norm()  # float32 holds 7 digits, and thousands are summed up


@pytest.mark.parametrize("name", LONE)
def test_a_lone_batchs_convolution_and_gradients_are_exact_to_rounding_and_really_onednns(name):
    tensors, how = LONE[name]

    def convolve(*them):
        return F.conv3d(*them, **how)

    exact, true_gradients = gradients(convolve, *tensors, dtype=torch.float64)
    found, mine = gradients(convolve, *tensors, context=learning(CPU, FLOAT32))
    assert len(mine) == len(true_gradients) == sum(t is not None and t.requires_grad for t in tensors)
    for ours, true in zip([found, *mine], [exact, *true_gradients], strict=True):
        assert (ours.shape, ours.layout) == (true.shape, torch.strided)
        assert (ours - true).norm() <= 5e-6 * true.norm()
    if has_x86_onednn():
        count = operations(lambda: gradients(convolve, *tensors, context=learning(CPU, FLOAT32)))
        assert count["mkldnn_convolution"] == 1
        assert not any("slow_conv" in operation for operation in count)


@pytest.mark.parametrize("n", [1, 3])
def test_a_nets_gradients_are_those_of_double_precision_to_rounding(net, n):
    patches = random(n, 2, 8, 12, 16)

    def of(net, patches, context):
        net.zero_grad()
        with context:
            head_logits = net(patches)
        sum((logits * random(*logits.shape, seed=9).to(logits)).sum() for logits in head_logits).backward()
        # a bias before a normalisation changes nothing: what its gradient holds is rounding alone
        return {name: p.grad.double() for name, p in net.named_parameters() if not name.endswith("conv.bias")}

    mine = of(net, patches, learning(CPU, FLOAT32))
    exact = of(net.double(), patches.double(), nullcontext())
    for name, true in exact.items():
        assert (mine[name] - true).norm() <= 2e-5 * true.norm(), name


@onednn
def test_what_is_learnt_goes_through_these_kernels(net):
    def step(context):
        with context:
            head_logits = net(random(2, 2, 8, 12, 16))
        sum(logits.square().mean() for logits in head_logits).backward()

    n_blocks = 2 * (3 + 2)
    count = operations(lambda: step(learning(CPU, FLOAT32)))
    assert count["_Convolution"] == count["_ConvolutionBackward"] == 4  # of 1,000 voxels and more, without a stride
    assert count["native_group_norm_backward"] == n_blocks
    assert "native_batch_norm" not in count
    plain = operations(lambda: step(learning(CPU, BFLOAT16)))
    assert {"_Convolution", "native_group_norm"}.isdisjoint(plain)
    assert plain["native_batch_norm"] == n_blocks


@onednn
@pytest.mark.parametrize(("n_slices", "depth"), [(2, 3), (3, 5), (3, 3)])
def test_in_bfloat16_a_window_deeper_than_the_input_is_learnt_in_float32(n_slices, depth):
    tensors, how = (learnt(2, 4, n_slices, 5, 7), learnt(6, 4, depth, 3, 3), learnt(6)), {"padding": (depth // 2, 1, 1)}
    expected, exact = gradients(lambda *them: F.conv3d(*them, **how), *tensors, dtype=torch.float64)
    for _ in range(3):
        written = [torch.full((n,), torch.nan) for n in 20 * (100, 1000, 10_000)]
        del written  # what nobody writes is not a number from here on
        found, mine = gradients(lambda *them: F.conv3d(*them, **how), *tensors, context=learning(CPU, BFLOAT16))
        assert found.dtype == (torch.float32 if depth > n_slices else torch.bfloat16)
        tolerance = 5e-6 if depth > n_slices else 0.02
        for ours, true in zip([found, *mine], [expected, *exact], strict=True):
            assert (ours.double() - true).norm() <= tolerance * true.norm()


@onednn
@pytest.mark.parametrize("n", [1, 2])
def test_a_second_derivative_is_refused_not_wrong(n):
    x, weight = learnt(n, 4, 7, 9, 11), learnt(6, 4, 3, 3, 3)
    with learning(CPU, FLOAT32):
        answer = F.conv3d(x, weight, padding=1)
    (of_weight,) = torch.autograd.grad(answer.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        of_weight.sum().backward()


@pytest.mark.parametrize("n", [1, 2])
def test_a_gradient_that_is_one_number_for_all_voxels_is_understood(n):
    x, weight = learnt(n, 4, 7, 9, 11), learnt(6, 4, 3, 3, 3)
    with learning(CPU, FLOAT32):
        F.conv3d(x, weight, padding=1).sum().backward()
    inside = x.detach().sum(dim=(0, 2, 3, 4))
    torch.testing.assert_close(weight.grad[:, :, 1, 1, 1], inside.expand(6, 4), atol=1e-4, rtol=1e-4)
