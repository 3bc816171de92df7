"""The UNet against MONAI's DynUNet, values and gradients, and against the paper's numbers."""

import json
import math
import re

import numpy as np
import pytest
import torch
from monai.networks.nets import DynUNet
from torch.utils.flop_counter import FlopCounterMode

from flare_lib.network.unet import ConvBlock, UNet, _initialize

FEATURES = (3, 4, 6, 5)
STRIDES = ((2, 2, 2), (1, 2, 2), (2, 1, 2))
N_HEADS = 3


def small_net(seed=0, **changes):
    torch.manual_seed(seed)
    settings = {
        "in_channels": 2,
        "n_classes": 5,
        "features_per_stage": FEATURES,
        "strides": STRIDES,
        "n_heads": N_HEADS,
    }
    net = UNet(**(settings | changes))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm" in name:  # ones and zeros would hide a mistake
                parameter += 0.3 * torch.randn_like(parameter)
    return net


def image(seed=1, shape=(2, 2, 8, 12, 16)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def monai_twin(net):
    """Return MONAI's net with our weights, and (ours, theirs) for each parameter that both have."""
    twin = DynUNet(
        spatial_dims=3,
        in_channels=2,
        out_channels=5,
        kernel_size=[3] * len(FEATURES),
        strides=[1, *STRIDES],
        upsample_kernel_size=STRIDES,
        filters=FEATURES,
        norm_name=("INSTANCE", {"affine": True, "eps": 1e-5}),
        act_name=("leakyrelu", {"negative_slope": 0.01}),
        deep_supervision=True,
        deep_supr_num=N_HEADS - 1,
        trans_bias=False,
    )
    stages = [twin.input_block, *twin.downsamples, twin.bottleneck]
    ups = list(reversed(twin.upsamples))
    pairs = []
    for ours, theirs in zip([*net.encoder, *net.decoder], [*stages, *(up.conv_block for up in ups)], strict=True):
        for block, conv, norm in zip(ours, (theirs.conv1, theirs.conv2), (theirs.norm1, theirs.norm2), strict=True):
            pairs += [(block.conv.weight, conv.conv.weight)]
            pairs += [(block.norm.weight, norm.weight), (block.norm.bias, norm.bias)]
    pairs += [(ours.weight, up.transp_conv.conv.weight) for ours, up in zip(net.ups, ups, strict=True)]
    heads = [twin.output_block, *twin.deep_supervision_heads]
    pairs += [(ours.weight, theirs.conv.conv.weight) for ours, theirs in zip(net.heads, heads, strict=True)]
    with torch.no_grad():
        for ours, theirs in pairs:
            theirs.copy_(ours)
        for head in heads:
            head.conv.conv.bias.zero_()
    return twin.train(), pairs


def test_every_head_equals_monais_finest_first():
    net = small_net()
    twin, _ = monai_twin(net)
    full_size = twin(image()).unbind(dim=1)  # MONAI repeats each coarse voxel up to the full size
    steps = ((1, 1, 1), (2, 2, 2), (2, 4, 4))
    for ours, theirs, (z, y, x) in zip(net(image()), full_size, steps, strict=True):
        torch.testing.assert_close(ours, theirs[:, :, ::z, ::y, ::x], rtol=1e-4, atol=1e-5)


def test_the_gradients_equal_monais():
    net = small_net()
    twin, pairs = monai_twin(net)
    directions = [image(seed=k, shape=logits.shape) for k, logits in enumerate(net(image()))]
    sum((logits * d).sum() for logits, d in zip(net(image()), directions, strict=True)).backward()
    steps = ((1, 1, 1), (2, 2, 2), (2, 4, 4))
    theirs = twin(image()).unbind(dim=1)
    sum(
        (full[:, :, ::z, ::y, ::x] * d).sum() for full, d, (z, y, x) in zip(theirs, directions, steps, strict=True)
    ).backward()
    for our_parameter, their_parameter in pairs:
        torch.testing.assert_close(our_parameter.grad, their_parameter.grad, rtol=1e-3, atol=1e-3)


def test_the_heads_have_the_strides_shapes():
    shapes = [tuple(logits.shape) for logits in small_net()(image())]
    assert shapes == [(2, 5, 8, 12, 16), (2, 5, 4, 6, 8), (2, 5, 4, 3, 4)]


def test_a_bias_before_the_instance_normalisation_changes_nothing():
    net = small_net().eval()
    before = net.finest(image())
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("conv.bias"):
                parameter += 1.5
    torch.testing.assert_close(net.finest(image()), before, rtol=1e-3, atol=1e-4)


def test_finest_is_the_first_head_and_runs_no_other():
    net = small_net()
    ran = []
    for number, head in enumerate(net.heads):
        head.register_forward_hook(lambda *_, number=number: ran.append(number))
    finest = net.finest(image())
    assert ran == [0]
    assert torch.equal(finest, net(image())[0])


def test_upsampling_and_heads_have_a_bias_only_when_asked():
    def biased(net):
        return {name.split(".")[0] for name, _ in net.named_parameters() if name.endswith("bias") and "." in name}

    assert biased(small_net()) == {"encoder", "decoder"}
    assert biased(small_net(up_and_head_bias=True)) == {"encoder", "decoder", "ups", "heads"}


def test_the_first_weights_are_hes_and_the_first_biases_zero():
    torch.manual_seed(0)
    net = UNet(features_per_stage=(16, 32, 48), strides=((2, 2, 2), (1, 2, 2)), n_heads=2, up_and_head_bias=True)
    gain = math.sqrt(2 / (1 + 0.01**2))
    assert net.encoder[2][1].conv.weight.std().item() == pytest.approx(gain / math.sqrt(48 * 27), rel=0.02)
    # a transposed convolution's weight is (in, out, z, y, x), and He's fan is counted on its second axis
    assert net.ups[0].weight.std().item() == pytest.approx(gain / math.sqrt(16 * 8), rel=0.05)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name


@pytest.mark.parametrize("layer", [torch.nn.Conv3d, torch.nn.ConvTranspose3d])
def test_the_first_weights_are_drawn_for_the_slope_of_the_relu_that_follows(layer):
    ours, expected = layer(4, 6, 3), torch.empty_like(layer(4, 6, 3).weight)
    for draw in (lambda: _initialize(ours), lambda: torch.nn.init.kaiming_normal_(expected, a=0.01)):
        torch.manual_seed(3)
        draw()
    assert torch.equal(ours.weight, expected)
    assert not ours.bias.any()


def test_a_block_keeps_the_grid_unless_it_has_a_stride():
    block = ConvBlock(2, 3)
    assert block(image()).shape == (2, 3, 8, 12, 16)
    below = -block.norm(block.conv(image())).clamp(max=0)
    torch.testing.assert_close(-block(image()).clamp(max=0), 0.01 * below)
    assert ConvBlock(2, 3, (2, 1, 4))(image()).shape == (2, 3, 4, 12, 4)


def test_the_papers_net_has_its_30_79_million_parameters():
    with torch.device("meta"):
        assert UNet().n_parameters == 30_790_304
        assert UNet(n_heads=5).n_parameters == 30_794_784


def test_the_papers_patch_costs_897_56_gflop():
    with torch.device("meta"):
        net, patch = UNet(), torch.empty(1, 1, 96, 128, 160)
        with FlopCounterMode(display=False) as counter:
            head_logits = net(patch)
    assert counter.get_total_flops() == 897_560_739_840
    assert [tuple(logits.shape[2:]) for logits in head_logits] == [
        (96, 128, 160),
        (48, 64, 80),
        (24, 32, 40),
        (12, 16, 20),
    ]


def test_the_architecture_builds_the_same_net_again():
    net = small_net(up_and_head_bias=True)
    twin = UNet(**net.architecture)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin.finest(image()), net.finest(image()))


def test_the_architecture_is_what_was_asked_for_in_numbers_that_json_knows():
    net = small_net(features_per_stage=np.array(FEATURES), strides=np.array(STRIDES))
    assert json.loads(json.dumps(net.architecture)) == {
        "in_channels": 2,
        "n_classes": 5,
        "features_per_stage": list(FEATURES),
        "strides": [list(stride) for stride in STRIDES],
        "n_heads": N_HEADS,
        "up_and_head_bias": False,
    }


def test_the_size_multiple_is_the_product_of_the_strides():
    assert small_net().size_multiple_zyx == (4, 4, 8)


@pytest.mark.parametrize("size", [(8, 12, 12), (6, 12, 16), (8, 10, 16), (0, 12, 16)])
def test_a_size_that_the_strides_do_not_divide_is_refused(size):
    with pytest.raises(ValueError, match=r"multiple of \(4, 4, 8\), got \("):
        small_net()(image(shape=(1, 2, *size)))


def test_a_size_that_leaves_one_voxel_to_the_coarsest_stage_is_refused():
    with pytest.raises(ValueError, match=r"leave 2 voxels .* got \(4, 4, 8\)"):
        small_net().finest(image(shape=(1, 2, 4, 4, 8)))


@pytest.mark.parametrize("shape", [(2, 8, 12, 16), (1, 1, 8, 12, 16)])
def test_an_image_without_batch_axis_or_of_other_channels_is_refused(shape):
    with pytest.raises(ValueError, match=r"must have the shape \(B, 2, Z, Y, X\), got \("):
        small_net()(image(shape=shape))


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="a batch must hold at least 1 image, got none"):
        small_net()(image(shape=(0, 2, 8, 12, 16)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 4}, "n_heads must be 1 to 3, one per decoder stage, got 4"),
        ({"n_heads": 0}, "n_heads must be 1 to 3"),
        ({"strides": STRIDES[:2]}, "one fewer than features_per_stage, got 2 and 4"),
        ({"features_per_stage": (4,), "strides": ()}, "one fewer than features_per_stage, got 0 and 1"),
        ({"strides": ((2, 2), (2, 2, 2), (2, 2, 2))}, "3 numbers of 1 or more"),
        ({"strides": ((2, 2, 0), (2, 2, 2), (2, 2, 2))}, "3 numbers of 1 or more"),
        ({"features_per_stage": (3, 0, 6, 5)}, "must be 1 or more, got 2, 5 and [3, 0, 6, 5]"),
        ({"in_channels": 0}, "must be 1 or more, got 0, 5 and [3, 4, 6, 5]"),
        ({"n_classes": 0}, "in_channels, n_classes and features_per_stage must be 1 or more, got 2, 0 and [3"),
    ],
)
def test_values_that_make_no_net_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        small_net(**changes)


def test_the_least_that_makes_a_net_makes_one():
    net = UNet(1, 1, (1, 1), ((1, 1, 2),), 1)
    assert [logits.shape for logits in net(torch.zeros(1, 1, 1, 1, 4))] == [(1, 1, 1, 1, 4)]


@pytest.mark.parametrize(
    ("image", "got"),
    [(np.zeros((1, 1, 4, 4, 4)), "float64"), (torch.zeros(1, 1, 4, 4, 4).long(), "torch.int64"), (None, "NoneType")],
)
def test_an_image_that_is_no_tensor_of_floats_is_refused(image, got):
    net = UNet(features_per_stage=(2, 3), strides=((2, 2, 2),), n_heads=1)
    with pytest.raises(TypeError, match=rf"^the image must be a tensor of floats, got {got}$"):
        net(image)
