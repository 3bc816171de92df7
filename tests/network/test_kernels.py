"""The kernels of inference: the same logits, really in use, in pieces or as a whole."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_kernels import BFLOAT16, CPU, onednn, operations, random, small_net

from flare_lib.machine.device import has_x86_onednn
from flare_lib.machine.precision import FLOAT32
from flare_lib.network import kernels
from flare_lib.network.kernels import inferring


@pytest.fixture
def net():
    return small_net()


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
    if has_x86_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
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
