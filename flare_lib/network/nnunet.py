"""Weights trained by nnU-Net, loaded into our UNet: both are the same network under different names.

                    nnU-Net v1 (Generic_UNet)              nnU-Net v2 (PlainConvUNet)           here
    encoder         conv_blocks_context.s.blocks.i         encoder.stages.s.0.convs.i           encoder.s.i
    its last stage  conv_blocks_context.s.i.blocks.0       the same
    decoder         conv_blocks_localization.u.i.blocks.0  decoder.stages.u.convs.i             decoder.s.i
    up              tu.u                                   decoder.transpconvs.u                ups.s
    heads           seg_outputs.u                          decoder.seg_layers.u                 heads.s

u counts in order of computation, coarsest first; s counts grids, finest first: s = n_strides - 1 - u. Both versions
store a head for every decoder stage, whether it was supervised or not. The strides can be read from the transposed
convolutions: they are the sizes of their kernels. The encoder is assumed to shrink the grid by strided convolutions, as
in nnU-Net's trainers: pooling would leave no trace in the names.

Reference: Isensee et al., nnU-Net, 2021; the packages nnunet 1.7 and dynamic-network-architectures 0.3.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from flare_lib.machine.plain_pickle import numpy_builders
from flare_lib.network.unet import UNet
from flare_lib.network.weights import load_strict

Tensors = dict[str, torch.Tensor]

_PARAMETER = r"(?P<parameter>weight|bias)"
# (pattern of their name, name in our net)
_V1: tuple[tuple[str, str], ...] = (
    (rf"conv_blocks_context\.(?P<s>\d+)\.blocks\.(?P<i>[01])\.(?P<layer>conv|instnorm)\.{_PARAMETER}", "encoder"),
    (rf"conv_blocks_context\.(?P<s>\d+)\.(?P<i>[01])\.blocks\.0\.(?P<layer>conv|instnorm)\.{_PARAMETER}", "encoder"),
    (
        rf"conv_blocks_localization\.(?P<u>\d+)\.(?P<i>[01])\.blocks\.0\.(?P<layer>conv|instnorm)\.{_PARAMETER}",
        "decoder",
    ),
    (rf"tu\.(?P<u>\d+)\.{_PARAMETER}", "ups"),
    (rf"seg_outputs\.(?P<u>\d+)\.{_PARAMETER}", "heads"),
)
_V2: tuple[tuple[str, str], ...] = (
    (rf"encoder\.stages\.(?P<s>\d+)\.0\.convs\.(?P<i>[01])\.(?P<layer>conv|norm)\.{_PARAMETER}", "encoder"),
    (rf"decoder\.stages\.(?P<u>\d+)\.convs\.(?P<i>[01])\.(?P<layer>conv|norm)\.{_PARAMETER}", "decoder"),
    (rf"decoder\.transpconvs\.(?P<u>\d+)\.{_PARAMETER}", "ups"),
    (rf"decoder\.seg_layers\.(?P<u>\d+)\.{_PARAMETER}", "heads"),
)
# v2 registers its encoder a second time in the decoder, and each layer a second time in a list
_V2_ALIASES = re.compile(r"decoder\.encoder\.|.*\.all_modules\.")


def load_nnunet(
    path_or_state_dict: str | Path | Mapping[str, Any], *, n_heads: int | None = None, source: str = "the state dict"
) -> UNet:
    """Return a 3D nnU-Net (v1 Generic_UNet or v2 PlainConvUNet, two convolutions per stage) as a UNet in eval mode.

    Takes the path of a checkpoint (.model, .pth), the checkpoint itself, or its state dict. `n_heads` keeps that many
    of the finest heads; None keeps all. `source`: what error messages call weights that come without a path. Kernels of
    size 1 along an axis become kernels of 3 padded with zeros, which is the same function. Raises FileNotFoundError for
    a missing file, ValueError for one that holds Python objects, another network, or only part of one.
    """
    if isinstance(path_or_state_dict, str | Path):
        source = str(path_or_state_dict)
        checkpoint = read_checkpoint(Path(path_or_state_dict))
    else:
        checkpoint = path_or_state_dict
    tensors = _rename(state_dict_of(checkpoint, source), source)
    tensors = {name: _widen(name, tensor, source) for name, tensor in tensors.items()}
    architecture = _architecture(tensors, source)
    if n_heads is not None:
        if not 1 <= n_heads <= architecture["n_heads"]:
            raise ValueError(f"n_heads must be 1 to {architecture['n_heads']}, those of {source}, got {n_heads}")
        architecture["n_heads"] = n_heads
        coarser = tuple(f"heads.{s}." for s in range(n_heads, len(tensors)))
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(coarser)}
    with torch.device("meta"):
        net = UNet(**architecture)
    load_strict(net, _with_biases(tensors, net), source=source)
    return net.to(torch.float32).eval()


def read_checkpoint(path: Path) -> Any:
    """Unpickle tensors, plain values and NumPy's numbers (nnU-Net stores its losses as these), and nothing else.

    Raises FileNotFoundError for a missing file, ValueError for one that holds Python objects or is not a complete
    checkpoint.
    """
    with path.open("rb") as file, torch.serialization.safe_globals(_numpy_numbers()):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises a different type for every kind of damage
            if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
                raise ValueError(
                    f"{path} must hold only tensors and plain values, got Python objects, which could run code. If you "
                    f"trust its source, save the weights alone: torch.save(torch.load(path, weights_only=False)[key], "
                    f"new), where key is 'state_dict' for nnU-Net v1 and 'network_weights' for v2"
                ) from error
            said = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"{path} must be a complete PyTorch checkpoint, got {type(error).__name__}: {said}"
            ) from error


def _numpy_numbers() -> list:
    """Return what torch may unpickle beside tensors: NumPy's numbers and arrays."""
    kinds = ("bool", "int32", "int64", "float16", "float32", "float64")
    builders = [(function, name) for name, function in numpy_builders().items()]
    return [*builders, np.dtype, *(type(np.dtype(kind)) for kind in kinds)]


def state_dict_of(checkpoint: Any, source: str) -> Tensors:
    """Take the network's tensors out of a checkpoint, without the prefixes of DataParallel and torch.compile.

    Raises ValueError, about `source`, if it holds none.
    """
    for key in ("network_weights", "state_dict"):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, Mapping) or not all(isinstance(t, torch.Tensor) for t in checkpoint.values()):
        raise ValueError(f"{source} must hold a state dict, 'state_dict' or 'network_weights', got {type(checkpoint)}")
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", name): tensor for name, tensor in checkpoint.items()}


def _rename(theirs: Tensors, source: str) -> Tensors:
    """Return the tensors under our names; ValueError if one of them has none."""
    if any(name.startswith("conv_blocks_context.") for name in theirs):
        patterns, up = _V1, "tu"
    elif any(name.startswith("encoder.stages.") for name in theirs):
        patterns, up = _V2, r"decoder\.transpconvs"
        theirs = {name: tensor for name, tensor in theirs.items() if not _V2_ALIASES.match(name)}
    else:
        raise ValueError(
            f"{source} must have the names of nnU-Net's Generic_UNet or PlainConvUNet, "
            f"got {', '.join([*theirs][:3]) or 'none'}"
        )
    n_strides = len({name.split(".weight")[0] for name in theirs if re.fullmatch(rf"{up}\.\d+\.weight", name)})
    ours: Tensors = {}
    unknown = []
    for name, tensor in theirs.items():
        found = [(match, part) for pattern, part in patterns if (match := re.fullmatch(pattern, name))]
        if found:
            ours[_our_name(*found[0], n_strides)] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"{source} must be a plain nnU-Net with two convolutions per stage and instance normalisation, "
            f"got {', '.join(unknown)}"
        )
    return ours


def _our_name(match: re.Match, part: str, n_strides: int) -> str:
    found = match.groupdict()
    s = int(found["s"]) if "s" in found else n_strides - 1 - int(found["u"])
    if "layer" not in found:
        return f"{part}.{s}.{found['parameter']}"
    return f"{part}.{s}.{found['i']}.{found['layer'].removeprefix('inst')}.{found['parameter']}"


def _widen(name: str, tensor: torch.Tensor, source: str) -> torch.Tensor:
    """Pad a block's kernel with zeros to 3x3x3 along axes where its size is 1; other tensors are left as they are."""
    if not name.endswith("weight") or "norm" in name:
        return tensor
    if tensor.ndim != 5:
        raise ValueError(f"{source} must be a 3D net, got the shape {tuple(tensor.shape)} for {name}")
    if not name.endswith("conv.weight"):
        return tensor
    kernel = tuple(tensor.shape[2:])
    if any(n not in (1, 3) for n in kernel):
        raise ValueError(f"{source} must have kernels of 1 or 3, got {kernel} for {name}")
    return F.pad(tensor, [pad for n in reversed(kernel) for pad in ((3 - n) // 2,) * 2])


def _architecture(tensors: Tensors, source: str) -> dict[str, Any]:
    """Infer the UNet's arguments from the shapes of the tensors."""
    n_stages = _count(r"encoder\.(\d+)\.0\.conv\.weight", tensors)
    n_strides, n_heads = _count(r"ups\.(\d+)\.weight", tensors), _count(r"heads\.(\d+)\.weight", tensors)
    if n_strides < 1 or n_stages != n_strides + 1 or n_heads < 1:
        raise ValueError(
            f"{source} must hold every encoder stage, a transposed convolution between each two and the finest heads, "
            f"got {n_stages} stages, {n_strides} transposed convolutions and {n_heads} heads from the finest on"
        )
    convs = [tensors[f"encoder.{s}.0.conv.weight"] for s in range(n_stages)]  # (out, in, 3, 3, 3)
    return {
        "in_channels": convs[0].shape[1],
        "n_classes": tensors["heads.0.weight"].shape[0],
        "features_per_stage": [conv.shape[0] for conv in convs],
        "strides": [list(tensors[f"ups.{s}.weight"].shape[2:]) for s in range(n_strides)],
        "n_heads": n_heads,
        "up_and_head_bias": any(re.fullmatch(r"(ups|heads)\.\d+\.bias", name) for name in tensors),
    }


def _count(pattern: str, tensors: Tensors) -> int:
    """Count the tensors 0, 1, 2... of a kind, up to the first gap."""
    numbers = {int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name))}
    return next(n for n in range(len(numbers) + 1) if n not in numbers)


def _with_biases(tensors: Tensors, net: UNet) -> Tensors:
    """Add biases of 0 for kinds of which the checkpoint has none at all, which is the same function."""
    full, own = dict(tensors), net.state_dict()
    for kind in (r".*\.conv\.bias", r"ups\..*\.bias", r"heads\..*\.bias"):
        if not any(re.fullmatch(kind, name) for name in tensors):
            full |= {name: torch.zeros(own[name].shape) for name in own if re.fullmatch(kind, name)}
    return full
