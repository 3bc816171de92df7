"""The net that nnU-Net planned, with its trained weights: ours where it is the same, nnU-Net's own package otherwise.

Ours is nnU-Net's plain U-Net with two convolutions per stage, instance normalisation and kernels of 3. Any other plain
U-Net, and residual encoders, are built by dynamic-network-architectures, nnU-Net's own collection (the extra `nnunet`).

Plans name classes. Only the few classes below are known, so plans from strangers cannot have anything imported.

Reference: dynamic-network-architectures 0.3 and 0.4, `architectures.unet`.
"""

from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from flare_lib.machine.extras import extra
from flare_lib.network.engines import Predict
from flare_lib.network.in_place import finest_in_place
from flare_lib.network.nnunet import load_nnunet, state_dict_of
from flare_lib.network.nnunet_plans import PLAIN, Plans
from flare_lib.network.unet import UNet
from flare_lib.network.weights import load_strict

_LONGEST = 120  # characters of another package's error
_CLASSES: dict[str, tuple[type[nn.Module], ...]] = {
    "conv_op": (nn.Conv3d,),
    "norm_op": (nn.InstanceNorm3d, nn.BatchNorm3d),
    "dropout_op": (nn.Dropout3d, nn.Dropout),
    "nonlin": (nn.LeakyReLU, nn.ReLU, nn.GELU, nn.ELU, nn.SiLU),
}
_ARGUMENTS = {
    *("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"),
    *("n_conv_per_stage_decoder", "conv_bias", "norm_op_kwargs", "dropout_op_kwargs", "nonlin_kwargs", *_CLASSES),
    *("nonlin_first", "stem_channels", "bottleneck_channels", "deep_supervision"),
}


def build_nnunet(plans: Plans, weights: Mapping[str, Any], *, source: str) -> tuple[nn.Module, Predict]:
    """Return the planned net in eval mode, and the function that gives its finest logits, both along the net's axes.

    `weights`: a checkpoint of nnU-Net, or its state dict; `source`: what error messages call it. Raises ValueError
    for an architecture that is not known or weights that are not exactly those of the net, MissingExtra if the net
    needs dynamic-network-architectures and it is not installed.
    """
    if _is_ours(plans):
        net = load_nnunet(weights, n_heads=1, source=source)
        if (n := net.architecture["n_classes"]) != plans.n_classes:
            raise ValueError(f"{source} must predict the {plans.n_classes} planned labels, got {n}")
        _check_planned(net, plans, source)
        return net, partial(finest_in_place, net)
    arguments = _arguments(plans)
    with extra("nnunet"):
        from dynamic_network_architectures.architectures import unet
    kind = plans.architecture.name
    try:
        with torch.device("meta"):  # no initial weights: they would be overwritten anyway
            theirs = getattr(unet, kind)(input_channels=1, num_classes=plans.n_classes, **arguments)
    except Exception as error:  # whatever arguments that nobody checks make of it
        said = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
        raise ValueError(f"plans.json must hold the arguments of a {kind}, got {said}") from error
    load_strict(theirs, state_dict_of(weights, source), source=source)
    theirs.to(torch.float32).eval()
    return theirs, theirs


def _is_ours(plans: Plans) -> bool:
    """Return whether the planned net is our UNet.

    With kernels padded by zeros it also is if some kernels are 1 wide; but that is slower, so it is done only where
    nnU-Net's package is missing.
    """
    wanted: dict[str, Any] = {
        "conv_op": "Conv3d",
        "norm_op": "InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "nonlin": "LeakyReLU",
        "nonlin_first": False,
    }
    stated = {**{"nonlin_first": False}, **plans.architecture.arguments}
    got = {key: _last(stated[key]) if isinstance(stated[key], str) else stated[key] for key in wanted}
    leaky = {"negative_slope": 0.01} | (stated["nonlin_kwargs"] or {})
    leaky.pop("inplace", None)
    if plans.architecture.name != PLAIN or got != wanted or leaky != {"negative_slope": 0.01}:
        return False
    if {*_flat(stated["n_conv_per_stage"]), *_flat(stated["n_conv_per_stage_decoder"])} != {2}:
        return False
    widths = {*_flat(stated["kernel_sizes"])}
    return widths == {3} or (widths == {1, 3} and find_spec("dynamic_network_architectures") is None)


def _check_planned(net: UNet, plans: Plans, source: str) -> None:
    """Raise ValueError unless a net that was built from its weights alone is the planned one.

    Otherwise the plans are another model's, and so may be its spacing and its grey values.
    """
    stated = plans.architecture.arguments
    planned = {"features_per_stage": stated["features_per_stage"], "strides": stated["strides"][1:]}
    found = {key: net.architecture[key] for key in planned}
    if found != planned:
        raise ValueError(f"{source} must be the planned net, {planned}, got {found}")


def _arguments(plans: Plans) -> dict[str, Any]:
    """Return the planned arguments, their names replaced by the classes that they name."""
    stated = plans.architecture.arguments
    if unknown := sorted(set(stated) - _ARGUMENTS):
        raise ValueError(f"the net's arguments must be nnU-Net's, got {', '.join(unknown)}")
    chosen = {}
    for key, kinds in _CLASSES.items():
        if (name := stated.get(key)) is None:
            continue
        known = {kind.__name__: kind for kind in kinds}
        if not name.startswith("torch.nn.") or _last(name) not in known:
            raise ValueError(f"{key} must be {' or '.join(known)} of torch.nn, got {name}")
        chosen[key] = known[_last(name)]
    return {**stated, **chosen, "deep_supervision": False}


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _flat(numbers: Any) -> list[int]:
    """Return the numbers in nested lists, or a single number, as one list."""
    return [n for part in numbers for n in _flat(part)] if isinstance(numbers, list | tuple) else [numbers]
