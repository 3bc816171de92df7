"""The planned net: ours where it is the same, nnU-Net's own otherwise, and nothing else."""

import builtins

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from small_nnunet import DATASET, PLANS, plans, small_net
from torch import nn

from flare_lib.machine.extras import MissingExtra
from flare_lib.network import nnunet_nets
from flare_lib.network.nnunet_export import nnunet_weights
from flare_lib.network.nnunet_nets import build_nnunet
from flare_lib.network.nnunet_plans import read_plans
from flare_lib.network.unet import UNet

ARCHITECTURE = PLANS["configurations"]["3d_fullres"]["architecture"]
PATCH = torch.randn((1, 1, 8, 12, 16), generator=torch.Generator().manual_seed(0))


def planned(name="PlainConvUNet", **arguments):
    """Plans for another architecture; an argument of None for a number is left out."""
    changed = {**ARCHITECTURE["arch_kwargs"], **arguments}
    if name == "ResidualEncoderUNet":
        changed["n_blocks_per_stage"] = changed.pop("n_conv_per_stage")
    return read_plans(
        plans(architecture={"network_class_name": f"x.y.{name}", "arch_kwargs": changed}), DATASET, "3d_fullres"
    )


def built(kind, **arguments):
    """nnU-Net's own net, from its own package."""
    classes = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    torch.manual_seed(1)
    return kind(1, num_classes=5, **{**ARCHITECTURE["arch_kwargs"], **classes, **arguments}).eval()


def test_the_same_net_is_ours():
    ours, predict = build_nnunet(planned(), nnunet_weights(small_net(0)), source="a.pth")
    assert isinstance(ours, UNet)
    with torch.no_grad():
        torch.testing.assert_close(predict(PATCH), small_net(0).finest(PATCH))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("PlainConvUNet", {"n_conv_per_stage": [1, 3, 2]}),
        ("PlainConvUNet", {"kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]]}),
        ("ResidualEncoderUNet", {"n_blocks_per_stage": [1, 2, 1], "n_conv_per_stage_decoder": [1, 1]}),
    ],
)
def test_other_nets_are_nnunets_own(name, changes):
    kind = {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}[name]
    arguments = {key: value for key, value in changes.items() if key != "n_blocks_per_stage"}
    if name == "ResidualEncoderUNet":
        arguments["n_conv_per_stage"] = changes["n_blocks_per_stage"]
        theirs_arguments = {k: v for k, v in ARCHITECTURE["arch_kwargs"].items() if k != "n_conv_per_stage"}
        classes = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
        torch.manual_seed(1)
        theirs = kind(1, num_classes=5, **{**theirs_arguments, **classes, **changes}).eval()
    else:
        theirs = built(kind, **changes)
    net, predict = build_nnunet(planned(name, **arguments), {"network_weights": theirs.state_dict()}, source="a.pth")
    assert type(net) is kind
    assert not net.training
    with torch.no_grad():
        torch.testing.assert_close(predict(PATCH), theirs(PATCH))


def test_kernels_of_1_need_no_extra(monkeypatch):
    flat = {"kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]]}
    theirs = built(PlainConvUNet, **flat)
    monkeypatch.setattr(nnunet_nets, "find_spec", lambda package: None)
    net, predict = build_nnunet(planned(**flat), theirs.state_dict(), source="a.pth")
    assert isinstance(net, UNet)
    with torch.no_grad():
        torch.testing.assert_close(predict(PATCH), theirs(PATCH), rtol=1e-4, atol=1e-5)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *others):
        if name.startswith("dynamic_network_architectures"):
            raise ModuleNotFoundError("gone", name="dynamic_network_architectures")
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"dynamic_network_architectures must be installed .*flare-lib\[nnunet\]"):
        build_nnunet(planned(n_conv_per_stage=[1, 1, 1]), {}, source="a.pth")


def test_weights_of_another_net_are_refused_by_name():
    with pytest.raises(ValueError, match=r"^b\.pth must hold exactly the net's tensors, got unknown: .* and 42 more$"):
        build_nnunet(planned(n_conv_per_stage=[1, 1, 1]), nnunet_weights(small_net(0)), source="b.pth")
    with pytest.raises(ValueError, match=r"^b\.pth must predict the 5 planned labels, got 3"):
        build_nnunet(planned(), nnunet_weights(UNet(1, 3, (4, 6), ((2, 2, 2),), 1)), source="b.pth")
    with pytest.raises(ValueError, match=r"^b\.pth must hold a state dict"):
        build_nnunet(planned(), {"epoch": 3}, source="b.pth")


def test_plans_of_another_net_are_refused_though_the_weights_are_whole():
    weights = nnunet_weights(small_net(0))
    for changed in ({"features_per_stage": [4, 6, 16]}, {"strides": [1, [2, 2, 2], 2]}):
        with pytest.raises(ValueError, match=r"^b\.pth must be the planned net, \{'features_per_stage': \[4, 6, "):
            build_nnunet(planned(**changed), weights, source="b.pth")
    assert build_nnunet(planned(strides=[1, [1, 2, 2], 2]), weights, source="b.pth")[0].architecture["strides"][1] == [
        2,
        2,
        2,
    ]


@pytest.mark.parametrize("nonlin", ["ReLU", "GELU", "ELU", "SiLU"])
def test_other_nonlinearities_are_nnunets_own_net(nonlin):
    arguments = {"nonlin": getattr(nn, nonlin), "nonlin_kwargs": {}}
    theirs = built(PlainConvUNet, **arguments)
    name = f"torch.nn.modules.activation.{nonlin}"
    net, predict = build_nnunet(planned(nonlin=name, nonlin_kwargs={}), theirs.state_dict(), source="a.pth")
    assert type(net) is PlainConvUNet
    with torch.no_grad():
        torch.testing.assert_close(predict(PATCH), theirs(PATCH))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm_op": "os.system"}, "norm_op must be InstanceNorm3d or BatchNorm3d of torch.nn, got os.system"),
        (
            {"nonlin": "torch.nn.modules.container.Sequential"},
            "nonlin must be LeakyReLU or .* of torch.nn, got torch.nn",
        ),
        ({"conv_op": "torch.nn.modules.conv.Conv2d"}, "conv_op must be Conv3d of torch.nn, got .*Conv2d"),
        ({"squeeze": True, "norm_op": None}, "the net's arguments must be nnU-Net's, got squeeze"),
        (
            {"nonlin_kwargs": {"steepness": 1.0}},
            "plans.json must hold the arguments of a PlainConvUNet, got .*steepness",
        ),
    ],
)
def test_plans_cannot_name_any_class_they_like(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_nnunet(planned(**arguments), {}, source="a.pth")
