"""nnU-Net's weights under our names: the same outputs, head by head, as the network they come from."""

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from flare_lib.network.nnunet import load_nnunet, read_checkpoint

FEATURES = (3, 4, 6, 5)
STRIDES = ((1, 2, 2), (2, 2, 2), (2, 1, 2))


def image():
    return torch.randn((2, 2, 4, 12, 16), generator=torch.Generator().manual_seed(1))


def shake(net, seed=0):
    """Give every parameter its own value: ones and zeros would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return net.eval()


def nnunet_v2(kernels=3, conv_bias=True, n_convs=2, norm=nn.InstanceNorm3d):
    """The network itself, from nnU-Net's own package; its outputs come finest first."""
    net = PlainConvUNet(
        input_channels=2,
        n_stages=len(FEATURES),
        features_per_stage=FEATURES,
        conv_op=nn.Conv3d,
        kernel_sizes=kernels,
        strides=((1, 1, 1), *STRIDES),
        n_conv_per_stage=n_convs,
        num_classes=7,
        n_conv_per_stage_decoder=2,
        conv_bias=conv_bias,
        norm_op=norm,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"negative_slope": 0.01},
        deep_supervision=True,
    )
    return shake(net)


class V1Block(nn.Module):
    """A stand-in for nnU-Net v1's stack of convolutions: its names, its order."""

    def __init__(self, in_features, features):
        super().__init__()
        self.blocks = nn.ModuleList()
        for n, (out, stride) in zip((in_features, *[f for f, _ in features]), features, strict=False):
            block = nn.Module()
            block.conv = nn.Conv3d(n, out, 3, stride=stride, padding=1)
            block.instnorm = nn.InstanceNorm3d(out, eps=1e-5, affine=True)
            self.blocks.append(block)

    def forward(self, x):
        for block in self.blocks:
            x = nn.functional.leaky_relu(block.instnorm(block.conv(x)), 0.01)
        return x


class V1UNet(nn.Module):
    """A stand-in for nnU-Net v1's Generic_UNet with strided convolutions; its heads lie coarsest first."""

    def __init__(self):
        super().__init__()
        last, one = len(FEATURES) - 1, (1, 1, 1)
        self.conv_blocks_localization, self.conv_blocks_context = nn.ModuleList(), nn.ModuleList()
        self.td, self.tu, self.seg_outputs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for s, n in enumerate(FEATURES[:-1]):
            before, stride = (FEATURES[s - 1], STRIDES[s - 1]) if s else (2, one)
            self.conv_blocks_context.append(V1Block(before, [(n, stride), (n, one)]))
        n = FEATURES[last]
        self.conv_blocks_context.append(
            nn.Sequential(V1Block(FEATURES[last - 1], [(n, STRIDES[-1])]), V1Block(n, [(n, one)]))
        )
        for s in reversed(range(last)):
            n, stride = FEATURES[s], STRIDES[s]
            self.tu.append(nn.ConvTranspose3d(FEATURES[s + 1], n, stride, stride, bias=False))
            self.conv_blocks_localization.append(nn.Sequential(V1Block(2 * n, [(n, one)]), V1Block(n, [(n, one)])))
            self.seg_outputs.append(nn.Conv3d(n, 7, 1, bias=False))

    def forward(self, x):
        skips, outputs = [], []
        for stage in self.conv_blocks_context:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for up, stage, head in zip(self.tu, self.conv_blocks_localization, self.seg_outputs, strict=True):
            x = stage(torch.cat((up(x), skips.pop()), dim=1))
            outputs.append(head(x))
        return outputs[::-1]


def nnunet_v1():
    torch.manual_seed(0)
    return shake(V1UNet())


def assert_same_outputs(ours, theirs):
    for our_logits, their_logits in zip(ours(image()), theirs(image()), strict=True):
        torch.testing.assert_close(our_logits, their_logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [nnunet_v1, nnunet_v2])
def test_every_head_equals_nnunets_finest_first(make):
    theirs = make()
    net = load_nnunet(theirs.state_dict())
    assert net.architecture["strides"] == [list(stride) for stride in STRIDES]
    assert net.architecture["features_per_stage"] == list(FEATURES)
    assert (net.architecture["in_channels"], net.architecture["n_classes"]) == (2, 7)
    assert net.architecture["up_and_head_bias"] is (make is nnunet_v2)
    assert not net.training
    assert_same_outputs(net, theirs)


def test_the_gradients_equal_nnunets():
    theirs = nnunet_v2()
    ours = load_nnunet(theirs.state_dict())
    for net in (ours, theirs):
        sum((logits * logits.detach().cos()).sum() for logits in net(image())).backward()
    encoder = theirs.encoder.stages[1][0].convs
    for our_parameter, their_parameter in (
        (ours.encoder[1][0].conv.weight, encoder[0].conv.weight),
        (ours.encoder[1][1].norm.bias, encoder[1].norm.bias),
        (ours.decoder[0][0].conv.weight, theirs.decoder.stages[-1].convs[0].conv.weight),
        (ours.ups[2].weight, theirs.decoder.transpconvs[0].weight),
        (ours.heads[0].bias, theirs.decoder.seg_layers[-1].bias),
    ):
        torch.testing.assert_close(our_parameter.grad, their_parameter.grad, rtol=1e-3, atol=1e-3)


def test_kernels_of_1_become_kernels_of_3_that_do_the_same():
    theirs = nnunet_v2(kernels=[[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 1, 3]])
    assert_same_outputs(load_nnunet(theirs.state_dict()), theirs)


def test_convolutions_without_bias_get_a_bias_of_0():
    theirs = nnunet_v2(conv_bias=False)  # nnU-Net's heads keep theirs
    net = load_nnunet(theirs.state_dict())
    assert not any(parameter.any() for name, parameter in net.named_parameters() if name.endswith("conv.bias"))
    assert_same_outputs(net, theirs)


@pytest.mark.parametrize("make", [nnunet_v1, nnunet_v2])
def test_fewer_heads_are_the_finest_ones(make):
    theirs = make()
    net = load_nnunet(theirs.state_dict(), n_heads=2)
    assert len(net.heads) == 2
    for ours, expected in zip(net(image()), theirs(image())[:2], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="n_heads must be 1 to 3"):
        load_nnunet(theirs.state_dict(), n_heads=4)


def test_a_checkpoint_that_holds_the_finest_head_alone_gives_one_head():
    theirs = nnunet_v2()
    pruned = {
        k: v
        for k, v in theirs.state_dict().items()
        if not k.startswith(("decoder.seg_layers.0", "decoder.seg_layers.1"))
    }
    net = load_nnunet(pruned)
    assert len(net.heads) == 1
    torch.testing.assert_close(net.finest(image()), theirs(image())[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_dataparallel_and_compile_are_taken_off(prefix):
    theirs = nnunet_v1()
    assert_same_outputs(load_nnunet({prefix + name: t for name, t in theirs.state_dict().items()}), theirs)


def v1_checkpoint(net):
    """What nnU-Net v1 saves beside the weights, NumPy's numbers included."""
    losses = [np.float64(0.5), np.float32(0.25)]
    return {"epoch": 3, "state_dict": net.state_dict(), "plot_stuff": (losses, [], []), "best_stuff": (2, losses[0])}


def v2_checkpoint(net):
    """What nnU-Net v2 saves beside the weights."""
    log = {"train_losses": [np.float32(0.5)], "dice_per_class_or_region": [[np.float64(0.1), 0.2]]}
    return {
        "network_weights": net.state_dict(),
        "grad_scaler_state": None,
        "logging": log,
        "_best_ema": np.float64(0.7),
        "current_epoch": 4,
        "init_args": {"plans": {"spacing": np.array([2.0, 1.5, 1.5])}, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


@pytest.mark.parametrize(("make", "wrap"), [(nnunet_v1, v1_checkpoint), (nnunet_v2, v2_checkpoint)])
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_are_read_with_the_numpy_numbers_in_them(tmp_path, make, wrap, zipped):
    theirs = make()
    torch.save(wrap(theirs), tmp_path / "checkpoint.pth", _use_new_zipfile_serialization=zipped)
    assert_same_outputs(load_nnunet(tmp_path / "checkpoint.pth"), theirs)


def test_numpy_1_names_of_the_numpy_numbers_are_read_too(tmp_path):
    path = tmp_path / "model_final_checkpoint.model"
    torch.save(v1_checkpoint(nnunet_v1()), path, _use_new_zipfile_serialization=False)
    assert b"numpy._core.multiarray" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert_same_outputs(load_nnunet(str(path)), nnunet_v1())


class Stranger:
    ran = False

    def __reduce__(self):
        return setattr, (Stranger, "ran", True)


def test_a_checkpoint_with_python_objects_is_refused_and_nothing_in_it_runs(tmp_path):
    torch.save({"state_dict": nnunet_v1().state_dict(), "object": Stranger()}, tmp_path / "a.model")
    with pytest.raises(ValueError, match="got Python objects, which could run code"):
        load_nnunet(tmp_path / "a.model")
    assert not Stranger.ran


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    with pytest.raises(FileNotFoundError, match=r"a\.pth"):
        load_nnunet(path)
    torch.save(nnunet_v1().state_dict(), path)
    whole = path.read_bytes()
    for content in (whole[:-500], whole[:100], b"", b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.pth must be a complete PyTorch checkpoint, got"):
            load_nnunet(path)


def test_networks_of_another_kind_are_refused_by_name():
    with pytest.raises(ValueError, match=r"encoder\.stages\.0\.0\.convs\.2\.conv\.weight"):
        load_nnunet(nnunet_v2(n_convs=3).state_dict())
    with pytest.raises(ValueError, match=r"instance normalisation, got .*norm\.running_mean"):
        load_nnunet(nnunet_v2(norm=nn.BatchNorm3d).state_dict())
    with pytest.raises(ValueError, match=r"Generic_UNet or PlainConvUNet, got 0\.weight"):
        load_nnunet(nn.Sequential(nn.Conv3d(1, 2, 3)).state_dict())
    with pytest.raises(ValueError, match="must hold a state dict"):
        load_nnunet({"epoch": 3})


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("encoder.stages.1.0.convs.1.norm.bias", r"missing: encoder\.1\.1\.norm\.bias"),
        ("encoder.stages.0.0.convs.1.conv.bias", r"missing: encoder\.0\.1\.conv\.bias"),
        ("encoder.stages.3.0.convs.0.conv.weight", "got 3 stages, 3 transposed convolutions and 3 heads"),
        ("decoder.seg_layers.2.weight", "and 0 heads from the finest on"),
        ("decoder.seg_layers.1.weight", r"unknown: heads\.2\.weight, heads\.2\.bias, heads\.1\.bias"),
    ],
)
def test_what_a_checkpoint_lacks_is_named(lost, message):
    weights = nnunet_v2().state_dict()
    del weights[lost]
    with pytest.raises(ValueError, match=message):
        load_nnunet(weights)


def test_a_2d_net_is_refused():
    weights = nnunet_v1().state_dict()
    flat = {name: t[..., 0] if t.ndim == 5 else t for name, t in weights.items()}
    with pytest.raises(ValueError, match=r"must be a 3D net, got the shape \(6, 12, 3, 3\) for decoder"):
        load_nnunet(flat)


class OnBytes:
    """An array of one object that lies where 8 bytes of the pickle say."""

    def __reduce__(self):
        return np.ndarray, ((1,), "O", b"AAAAAAAA")


def test_a_checkpoint_cannot_lay_an_array_on_bytes(tmp_path):
    torch.save({"losses": np.array([1.5, 0.5])}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["losses"].tolist() == [1.5, 0.5]
    torch.save({"losses": OnBytes()}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"b\.pth must be a complete PyTorch checkpoint, got TypeError: "):
        read_checkpoint(tmp_path / "b.pth")
