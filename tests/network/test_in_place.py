"""The U-Net that writes over its own maps: the same logits, whatever the pieces, in the memory of one large map."""

from types import SimpleNamespace

import pytest
import torch

from flare_lib.machine.device import has_x86_onednn
from flare_lib.machine.precision import FLOAT32, Precision
from flare_lib.network import in_place, kernels
from flare_lib.network.complexity import LiveBytes, peak_bytes
from flare_lib.network.in_place import finest_in_place
from flare_lib.network.kernels import inferring
from flare_lib.network.unet import UNet

CPU = torch.device("cpu")
onednn = pytest.mark.skipif(not has_x86_onednn(), reason="elsewhere maps lie in the plain order")
PAPERS_PATCH = (96, 128, 160)


def net_of(strides=((1, 2, 2), (2, 2, 1)), bias=True):
    torch.manual_seed(0)
    net = UNet(2, 5, (4, 6, 8)[: len(strides) + 1], strides, n_heads=1, up_and_head_bias=bias)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)  # no bias is 0, no scale 1
    return net


def images(n=1, shape=(12, 8, 16)):
    return torch.randn((n, 2, *shape), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("piece", [1, 5000, 9000, 14000, 2**24])
@pytest.mark.parametrize("strides", [((1, 2, 2), (2, 2, 1)), ((2, 1, 2), (3, 2, 2)), ((4, 2, 1),)])
def test_the_logits_are_the_same_in_pieces_of_any_size(monkeypatch, strides, piece):
    net, image = net_of(strides), images()
    with torch.no_grad():
        expected = net.finest(image)
    assert expected.std() > 0.5
    monkeypatch.setattr(kernels, "PIECE_BYTES", piece)
    torch.testing.assert_close(finest_in_place(net, image), expected, atol=2e-5, rtol=0)
    with inferring(CPU, FLOAT32):
        torch.testing.assert_close(finest_in_place(net, image), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("depth", [2, 4, 6, 10])
def test_a_last_piece_of_any_thickness_is_padded_by_zeros(monkeypatch, depth):
    net, image = net_of(((2, 2, 2),)), images(3, (depth, 4, 6))
    monkeypatch.setattr(kernels, "PIECE_BYTES", 4 * 3 * (3 * 4 * 4 * 6))  # 3 slices of the second convolution's input
    with torch.no_grad():
        torch.testing.assert_close(finest_in_place(net, image), net.finest(image), atol=2e-5, rtol=0)


def test_what_was_freed_is_given_back_beside_large_maps_alone(monkeypatch):
    calls, net, image = [], net_of(), images()
    monkeypatch.setattr(in_place, "give_back_freed", lambda: calls.append(1))
    finest_in_place(net, image)
    assert not calls
    monkeypatch.setattr(kernels, "PIECE_BYTES", 1)
    finest_in_place(net, image)
    assert calls


@pytest.mark.parametrize(("n_classes", "n_maps"), [(3, 4), (4, 4), (5, 5)])
def test_logits_lie_in_the_map_that_they_are_made_from_if_it_has_a_channel_for_every_class(
    monkeypatch, n_classes, n_maps
):
    torch.manual_seed(0)
    net, image = UNet(2, n_classes, (4, 6), ((2, 2, 1),), n_heads=1), images(2)
    with torch.no_grad():
        expected = net.finest(image)
    monkeypatch.setattr(kernels, "PIECE_BYTES", 5 * 4 * 2 * 4 * 8 * 16)  # 5 of 12 slices of the map
    logits = finest_in_place(net, image)
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)
    assert logits.untyped_storage().nbytes() == 4 * 2 * n_maps * 12 * 8 * 16


def test_beside_a_map_of_many_pieces_room_is_also_made_between_the_small_ones(monkeypatch):
    net, image, calls = net_of(((4, 2, 4), (2, 2, 2))), images(shape=(16, 8, 16)), []
    largest = 4 * 4 * 16 * 8 * 16  # bytes; the maps of the second stage have a twentieth
    monkeypatch.setattr(in_place, "give_back_freed", lambda: calls.append(1))
    monkeypatch.setattr(in_place, "PIECES", 100)
    for pieces, n_calls in ((7, 5), (9, 6)):
        calls.clear()
        monkeypatch.setattr(kernels, "PIECE_BYTES", largest // pieces)
        finest_in_place(net, image)
        assert len(calls) == n_calls


def test_image_and_net_stay_as_they_are():
    net, image = net_of(bias=False), images()
    before, parameters = image.clone(), [p.detach().clone() for p in net.parameters()]
    first, second = finest_in_place(net, image), finest_in_place(net, image)
    assert first.equal(second)
    assert image.equal(before)
    assert all(now.equal(then) for now, then in zip(net.parameters(), parameters, strict=True))
    assert not first.requires_grad


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("piece", [1, 3000, 7000, 2**24])
def test_in_bfloat16_the_logits_are_the_same_in_pieces_of_any_size(monkeypatch, piece, ours):
    if not ours:
        monkeypatch.setattr("flare_lib.network.replaced_functions.has_x86_onednn", lambda: False)
    net, image, bfloat16 = net_of(((1, 2, 2), (2, 2, 1))), images(2), Precision("bfloat16", "a test")
    with torch.no_grad():
        exact = net.finest(image)
    with inferring(CPU, bfloat16):
        whole = net.finest(image)
        monkeypatch.setattr(kernels, "PIECE_BYTES", piece)
        pieces = finest_in_place(net, image)
    assert pieces.dtype == torch.bfloat16
    assert (pieces - whole).abs().max() <= 0.5 * (whole - exact).abs().max()  # no more than rounding


@onednn
def test_in_bfloat16_no_more_than_two_maps_at_full_size_exist_at_a_time(monkeypatch):
    net, image = UNet(2, 3, (8, 6), ((2, 2, 2),), n_heads=1), images(shape=(48, 16, 16))
    one_map = 2 * 8 * 48 * 16 * 16  # bytes
    monkeypatch.setattr(kernels, "PIECE_BYTES", 1)
    held = {}
    for finest in (finest_in_place, UNet.finest):
        with inferring(CPU, Precision("bfloat16", "a test")), LiveBytes() as counted:
            finest(net, image)
        held[finest] = counted.peak / one_map
    assert 2 < held[finest_in_place] < 2.5
    assert held[UNet.finest] > 4


def test_elsewhere_the_net_computes_as_it_is_written(monkeypatch):
    on_a_card, image = SimpleNamespace(device=torch.device("cuda")), images()
    monkeypatch.setattr(UNet, "finest", lambda self, given: given)
    assert finest_in_place(net_of(), on_a_card) is on_a_card
    assert finest_in_place(net_of(), image) is not image


def test_what_the_net_refuses_is_refused():
    with pytest.raises(ValueError, match=r"size ZYX must be a multiple of \(2, 4, 2\), got \(12, 8, 15\)"):
        finest_in_place(net_of(), images()[..., 1:])


def test_the_papers_net_holds_one_map_at_full_size_and_a_few_pieces(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with torch.device("meta"):
        net = UNet()
    channel = 4 * 96 * 128 * 160  # bytes, float32
    weights_and_image = 4 * net.n_parameters + channel
    one_map, below = 32 * channel, 64 * channel // 8
    held = peak_bytes(net, PAPERS_PATCH, finest_in_place) - weights_and_image
    pieces = 6 * kernels.PIECE_BYTES + channel
    assert one_map + below < held < one_map + below + pieces
    assert 2 * held < peak_bytes(net, PAPERS_PATCH) - weights_and_image
