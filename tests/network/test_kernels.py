"""Torch's faster kernels: the same logits and gradients, really in use, and only where they are meant to be."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flare_lib.machine.precision import FLOAT32, Precision
from flare_lib.network import kernels
from flare_lib.network.kernels import inferring, learning
from flare_lib.network.unet import UNet

CPU = torch.device("cpu")
BFLOAT16 = Precision("bfloat16", "a test")
onednn = pytest.mark.skipif(not kernels.has_x86_onednn(), reason="elsewhere the kernels are torch's own choice")


def random(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = UNet(2, 5, (4, 6, 8), ((1, 2, 2), (2, 2, 1)), n_heads=2, up_and_head_bias=True)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)  # no bias is 0, no scale 1
    return net


def operations(run):
    """Return {name: how often} of the operations that `run` calls."""
    with torch.profiler.profile() as profile:
        run()
    return {event.key.removeprefix("aten::"): event.count for event in profile.key_averages()}


def inferred(run, precision=FLOAT32, device=CPU):
    with inferring(device, precision):
        return run()


@pytest.mark.parametrize("n", [1, 3])
def test_the_logits_are_the_same_to_rounding(net, n):
    patches = random(n, 2, 8, 12, 16)
    with torch.no_grad():
        expected = net.finest(patches)
    assert expected.std() > 0.5
    torch.testing.assert_close(inferred(lambda: net.finest(patches)), expected, atol=2e-5, rtol=0)


@onednn
def test_every_convolution_is_onednns_and_no_normalisation_that_of_a_batch(net):
    patch = random(1, 2, 8, 12, 16)
    n_blocks = 2 * (3 + 2)
    count = operations(lambda: inferred(lambda: net.finest(patch)))
    assert count["mkldnn_convolution"] == n_blocks + 1  # and the finest head
    assert count["native_group_norm"] == n_blocks
    assert {"slow_conv3d", "native_batch_norm"}.isdisjoint(count)
    plain = operations(lambda: net.finest(patch))
    assert plain["slow_conv3d"] > n_blocks / 2  # why all this: patches are small for torch
    assert plain["native_batch_norm"] == n_blocks
    assert "native_group_norm" not in plain


@pytest.mark.parametrize(("n_channels", "n_slices"), [(1, 1), (1, 2), (2, 1), (1, 4)])
def test_in_bfloat16_a_window_deeper_than_its_input_reads_nothing_beyond(n_channels, n_slices):
    patch, weight = random(1, n_channels, n_slices, 9, 11), random(4, n_channels, 3, 3, 3)
    found = inferred(lambda: F.conv3d(patch, weight, padding=1), BFLOAT16).float()
    exact = F.conv3d(patch, weight, padding=1)
    assert (found - exact).abs().max() < 0.03 * exact.abs().max()


def test_in_bfloat16_maps_lie_channels_last_and_logits_are_as_near_to_float32_as_autocasts(net):
    patches = random(3, 2, 8, 12, 16)
    with torch.no_grad():
        exact = net.finest(patches)
        with torch.autocast("cpu", torch.bfloat16):
            plain = net.finest(patches)
    found = inferred(lambda: net.finest(patches), BFLOAT16)
    assert found.dtype == torch.bfloat16
    assert 0 < (found - exact).std() < 1.3 * (plain - exact).std()
    if kernels.has_x86_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert found.is_contiguous(memory_format=torch.channels_last_3d)
        count = operations(lambda: inferred(lambda: net.finest(patches), BFLOAT16))
        assert count["native_group_norm"] == 2 * (3 + 2)
        assert {"slow_conv3d", "native_batch_norm"}.isdisjoint(count)
    ready = kernels.plain_float32(found)
    assert (ready.dtype, ready.is_contiguous()) == (torch.float32, True)
    assert ready.equal(found.float())


def test_where_a_net_turns_autocast_off_it_computes_in_float32():
    x, weight = random(1, 4, 9, 13, 11), random(6, 4, 3, 3, 3)

    def convolve():
        with torch.autocast("cpu", enabled=False):
            return F.conv3d(x, weight)

    assert inferred(convolve, BFLOAT16).equal(convolve())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(4, 6, (3, 1, 5), stride=(2, 1, 3), padding=(1, 0, 2)),
        nn.Conv3d(4, 6, 3, dilation=(1, 2, 3), groups=2, bias=False),
        nn.Conv3d(4, 6, (1, 3, 5), padding="same"),
        nn.Conv3d(4, 6, 3, padding=(1, 2, 0), padding_mode="replicate"),
        nn.InstanceNorm3d(4),
        nn.InstanceNorm3d(4, affine=True, eps=0.5),
        nn.InstanceNorm3d(4, track_running_stats=True).eval(),
    ],
    ids=repr,
)
def test_layers_of_all_kinds_give_what_they_give_without(layer):
    x = 3 * random(2, 4, 9, 13, 11) + 2
    with torch.no_grad():
        torch.testing.assert_close(inferred(lambda: layer(x)), layer(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(inferred(lambda: layer(x[0])), layer(x[0]), atol=1e-5, rtol=1e-5)  # not a batch
        with torch.autocast("cpu", torch.bfloat16):
            expected = layer(x)
        torch.testing.assert_close(inferred(lambda: layer(x), BFLOAT16), expected, atol=0.05, rtol=0.01)


def test_functions_called_by_name_or_with_one_number_for_three_axes_are_understood():
    x, weight = random(1, 4, 9, 13, 11), random(6, 4, 3, 3, 3)
    by_name = inferred(lambda: F.conv3d(x, weight, stride=2, padding=1))
    torch.testing.assert_close(by_name, F.conv3d(x, weight, None, (2, 2, 2), (1, 1, 1)), atol=1e-4, rtol=0)
    named = inferred(lambda: F.conv3d(input=x, weight=weight, stride=np.int64(2), padding=(1,)))
    torch.testing.assert_close(named, by_name, atol=1e-5, rtol=0)
    torch.testing.assert_close(inferred(lambda: F.instance_norm(input=x, eps=0.1)), F.instance_norm(x, eps=0.1))


def test_an_empty_batch_gives_an_empty_batch():
    x, weight = random(0, 4, 9, 13, 11), random(6, 4, 3, 3, 3)
    assert inferred(lambda: F.conv3d(x, weight, padding=1)).shape == (0, 6, 9, 13, 11)
    assert inferred(lambda: F.instance_norm(x)).shape == x.shape


def test_what_torch_refuses_is_refused_in_the_same_words():
    for run in (
        lambda: F.instance_norm(random(1, 4, 1, 1, 1)),
        lambda: F.instance_norm(random(1, 4, 5, 6, 7), weight=random(3)),
        lambda: F.conv3d(random(1, 3, 4, 5, 6), random(6, 4, 3, 3, 3).double()),
        lambda: F.conv3d(random(1, 4, 4, 5, 6), random(6, 4, 3, 3, 3), random(6).double()),
        lambda: F.conv3d(random(1, 3, 4, 5, 6), random(6, 4, 3, 3, 3)),
        lambda: F.conv3d(random(1, 4, 4, 5, 2), random(6, 4, 3, 3, 3)),
        lambda: F.conv3d(random(1, 4, 4, 5, 6), random(6, 4, 3, 3, 3), stride=0),
    ):
        with pytest.raises((ValueError, RuntimeError)) as plain:
            run()
        with pytest.raises(type(plain.value)) as found:
            inferred(run)
        assert str(found.value) == str(plain.value)
        with pytest.raises((ValueError, RuntimeError)):
            inferred(run, BFLOAT16)


@pytest.mark.parametrize("why", ["another number format", "no oneDNN", "another device"])
def test_elsewhere_torch_chooses(net, monkeypatch, why):
    precision = Precision("float16", "a test") if why == "another number format" else FLOAT32
    device = torch.device("cuda") if why == "another device" else CPU
    if why == "no oneDNN":
        monkeypatch.setattr(kernels, "has_x86_onednn", lambda: False)
    x = random(1, 4, 5, 6, 7)
    count = operations(lambda: inferred(lambda: F.instance_norm(x), precision, device))
    assert "native_batch_norm" in count
    assert "native_group_norm" not in count


def test_the_net_and_what_is_computed_after_the_block_are_untouched(net):
    before, x = copy.deepcopy(net.state_dict()), random(1, 2, 8, 12, 16).requires_grad_()
    inferred(lambda: net.finest(x.detach()))
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())
    net.finest(x).square().mean().backward()  # a convolution that knows no gradients would raise an error
    assert x.grad is not None
    assert all(p.grad is not None and p.grad.any() for name, p in net.named_parameters() if "heads.1" not in name)


@onednn
@pytest.mark.parametrize(
    "how",
    [
        {"padding": 1},
        {"padding": (2, 1, 0), "dilation": (2, 1, 1)},
        {"padding": (0, 1, 2), "stride": (2, 1, 3)},
        {"padding": (1, 1, 1), "stride": (3, 2, 1), "groups": 2},
        {"padding": (3, 0, 0)},  # windows that see no slice
        {"padding": (0, 0, 0), "stride": (9, 1, 1)},
    ],
)
@pytest.mark.parametrize("piece", [1, 3000, 9000])
def test_convolutions_in_pieces_are_those_of_the_whole(monkeypatch, how, piece):
    x, weight, bias = random(2, 4, 11, 9, 8), random(6, 4 // how.get("groups", 1), 3, 3, 3, seed=2), random(6, seed=3)
    whole = inferred(lambda: F.conv3d(x, weight, bias, **how))
    torch.testing.assert_close(whole, F.conv3d(x, weight, bias, **how), atol=1e-4, rtol=0)
    monkeypatch.setattr(kernels, "PIECE_BYTES", piece)
    torch.testing.assert_close(inferred(lambda: F.conv3d(x, weight, bias, **how)), whole, atol=1e-5, rtol=0)


@onednn
def test_a_large_convolution_is_given_few_slices_at_a_time(monkeypatch):
    x, convolve = random(1, 4, 32, 8, 8), torch.mkldnn_convolution
    monkeypatch.setattr(kernels, "PIECE_BYTES", x.nbytes / 8)
    for n_out, slices in ((3, [6] * 8), (8, [4] * 16)):  # 4 or, if more is written, 2 slices, and 2 more
        given = []
        monkeypatch.setattr(
            torch, "mkldnn_convolution", lambda x, *rest, given=given: given.append(x.shape[2]) or convolve(x, *rest)
        )
        assert inferred(lambda n=n_out: F.conv3d(x, random(n, 4, 3, 3, 3), padding=1)).shape == (1, n_out, 32, 8, 8)
        assert given == slices


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
    chosen, ours = kernels._Convolution.apply, []
    monkeypatch.setattr(kernels._Convolution, "apply", lambda *given: ours.append(1) or chosen(*given))

    def convolve(*them):
        return F.conv3d(*them, **how)

    with torch.no_grad():
        expected = convolve(*tensors)
    _, exact = gradients(convolve, *tensors, dtype=torch.float64)
    found, mine = gradients(convolve, *tensors, context=learning(CPU, FLOAT32))
    assert found.equal(expected)
    assert len(mine) == len(exact) == sum(t is not None and t.requires_grad for t in tensors)
    assert len(ours) == (name in LEARNT and kernels.has_x86_onednn())
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
    if kernels.has_x86_onednn():
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
        found, mine = gradients(
            lambda *them: F.conv3d(*them, **how), *tensors, context=learning(CPU, Precision("bfloat16", "a test"))
        )
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
