"""A trained net on disk: NAME.safetensors holds the numbers, and NAME.json, the card, says what they are.

The card holds what is needed to use the net (architecture, preprocessing, patch size) and anything worth knowing about
it (recipe, figures). It also holds the SHA-256 of the numbers, so that a damaged file or a mixed-up pair is noticed.
Nothing is unpickled, so weights from strangers cannot run code.

Reference: https://huggingface.co/docs/safetensors
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from flare_lib.ct.preprocess import Preprocessing
from flare_lib.machine.atomic_write import atomic_write
from flare_lib.machine.counted import some_of
from flare_lib.machine.json_file import read_json_object
from flare_lib.network.plan_numbers import (
    LARGEST_STRIDE,
    MOST_FEATURES,
    MOST_STAGES,
    finite,
    in_one_line,
    net_patch,
    of_stages_and_axes,
    planned_scales,
    planned_spacing,
    whole,
    wholes,
)
from flare_lib.network.unet import UNet

PACKAGED = ("coarse", "fine", "thin")

_NAMED_AT_MOST = 6  # tensors, in the line that refuses them


@dataclass(frozen=True)
class TrainedNet:
    """A net, the preprocessing a CT needs before the net sees it, and the patch size (z, y, x) it was trained on.

    `scales`: at which sizes a fine net should see a CT, 1 being the body's own; what it says of each is averaged.
    """

    net: UNet
    preprocessing: Preprocessing
    patch_size: tuple[int, int, int]
    card: dict[str, Any]
    scales: tuple[float, ...] = (1.0,)


def packaged_weights(name: str) -> Path:
    """Return the path, without suffix, of the weights that come with the library: "coarse", "fine" or "thin"."""
    if name not in PACKAGED:
        raise ValueError(f"name must be one of {', '.join(PACKAGED)}, got {name!r}")
    return Path(str(resources.files("flare_lib"))) / "weights" / name


def stage_weights(folder: str | Path | None = None) -> dict[str, Path]:
    """Return {name: path without suffix} of the nets of a folder, or of the packaged ones: coarse, fine and thin.

    "thin" is what the fine net became by going on with scans of a few centimetres: where a folder has none, it is left
    out. The other two are named whether they are there or not.
    """
    if folder is None:
        return {name: packaged_weights(name) for name in PACKAGED}
    stems = {name: Path(folder) / name for name in PACKAGED}
    if not any(file.exists() for file in pair_of(stems["thin"])):
        del stems["thin"]
    return stems


def save_trained(path_stem: str | Path, net: UNet, card: Mapping[str, Any], *, half: bool = True) -> None:
    """Write `path_stem`.safetensors and `path_stem`.json, making the folder; if that fails, an earlier pair stays.

    `card` must hold "preprocessing" (`Preprocessing.to_dict()`) and "patch_size" (z, y, x), may hold "scales" (see
    `TrainedNet`) and anything else that JSON can; "architecture" and "weights_sha256" are added to it. `half` stores
    float16: half the size, three significant digits. Raises ValueError for a card or weights that could not be used
    again.
    """
    _requirements(card, net)
    tensors = {name: _storable(name, tensor, half) for name, tensor in net.state_dict().items()}
    weights = save(tensors)
    full_card = dict(card) | {"architecture": net.architecture, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    try:
        text = json.dumps(full_card, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the card must hold only what JSON can, got {error}") from error

    weights_path, card_path = pair_of(path_stem)
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(weights_path) as unfinished_weights, atomic_write(card_path) as unfinished_card:
        unfinished_weights.write_bytes(weights)
        unfinished_card.write_bytes((text + "\n").encode())


def load_trained(
    path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> TrainedNet:
    """Load a pair that `save_trained` wrote: the net in eval mode on `device`, its weights as `dtype`.

    `path`: that of either file, or the stem of both. Raises FileNotFoundError if one of the two is missing, ValueError
    if one is damaged, if they do not belong together, or if a tensor is missing, unknown or of another shape.
    """
    weights_path, card_path = pair_of(path)
    for file in (card_path, weights_path):
        if not file.is_file():
            raise FileNotFoundError(f"weights are a .safetensors file and its .json card, but there is no {file}")
    card = read_json_object(card_path)
    missing = [key for key in ("architecture", "weights_sha256") if key not in card]
    if missing:
        raise ValueError(f"{card_path} must hold {', '.join(missing)}, got the keys {', '.join(card)}")

    weights = weights_path.read_bytes()
    sha256 = hashlib.sha256(weights).hexdigest()
    if sha256 != card["weights_sha256"]:
        raise ValueError(
            f"{weights_path} must be whole and belong to its card, with SHA-256 {card['weights_sha256']}, got {sha256}"
        )
    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights_path} must be a safetensors file, got {error}") from error
    with in_one_line(f"{card_path} must hold the architecture of a UNet", about=card_path):
        architecture = _architecture(card["architecture"])
        with torch.device("meta"):  # no initial weights: they would be overwritten anyway
            net = UNet(**architecture)
    load_strict(net, tensors, source=str(weights_path))
    net.to(device=device, dtype=dtype)
    with in_one_line(f"{card_path} must hold a preprocessing and a patch_size of numbers", about=card_path):
        preprocessing, patch_size, scales = _requirements(card, net)
    return TrainedNet(net.eval(), preprocessing, patch_size, card, scales)


def load_strict(net: nn.Module, tensors: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Copy `tensors` into the net's parameters, strictly: all of them, no others, and of the same shapes.

    A net on the meta device, which has no numbers yet, then lies where the tensors do and has their types.
    Raises ValueError, naming what is missing, unknown or of another shape; the net is then unchanged.
    """
    own = net.state_dict()
    differ = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    wrong = {
        "missing": [name for name in own if name not in tensors],
        "unknown": [name for name in tensors if name not in own],
        "of another shape": differ,
    }
    if any(wrong.values()):
        found = "; ".join(f"{kind}: {some_of(names, most=_NAMED_AT_MOST)}" for kind, names in wrong.items() if names)
        raise ValueError(f"{source} must hold exactly the net's tensors, got {found}")
    if any(tensor.is_meta for tensor in own.values()):
        net.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    else:
        net.load_state_dict(tensors)


def pair_of(path: str | Path) -> tuple[Path, Path]:
    """Return the two files that a path stands for; a dot inside the name is not taken for a suffix."""
    path = Path(path)
    name = path.name.removesuffix(".safetensors").removesuffix(".json")
    return path.with_name(name + ".safetensors"), path.with_name(name + ".json")


def _storable(name: str, tensor: torch.Tensor, half: bool) -> torch.Tensor:
    stored = tensor.detach().cpu().contiguous()
    stored = stored.half() if half else stored
    if not stored.isfinite().all():
        raise ValueError(f"weights must be finite{' in float16' if half else ''}, got NaN or infinity in {name}")
    return stored


def _architecture(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return a UNet's arguments with every number checked; TypeError or ValueError for what cannot be one's."""
    checked = {**stated}
    for key, most in (("in_channels", MOST_FEATURES), ("n_classes", 255), ("n_heads", MOST_STAGES)):
        if key in stated:
            checked[key] = whole(stated[key], key, 1, most)
    if "features_per_stage" in stated:
        checked["features_per_stage"] = wholes(stated["features_per_stage"], "features_per_stage", 1, MOST_FEATURES)
    if "strides" in stated:
        n = whole(len(stated["strides"]), "the number of strides", 1, MOST_STAGES - 1)
        checked["strides"] = of_stages_and_axes(stated["strides"], "strides", 1, LARGEST_STRIDE, n)
    if not isinstance(stated.get("up_and_head_bias", False), bool):
        raise ValueError(f"up_and_head_bias must be true or false, got {stated['up_and_head_bias']!r}")
    return checked


def _requirements(card: Mapping[str, Any], net: UNet) -> tuple[Preprocessing, tuple[int, int, int], tuple[float, ...]]:
    """Return the card's preprocessing, patch size and scales, checked against the net."""
    missing = [key for key in ("preprocessing", "patch_size") if key not in card]
    if missing:
        raise ValueError(f"the card must hold {', '.join(missing)}, got the keys {', '.join(card)}")
    patch_size, multiple = net_patch(card["patch_size"]), net.size_multiple_zyx
    if any(n % m for n, m in zip(patch_size, multiple, strict=True)):
        raise ValueError(f"patch_size ZYX must be 3 multiples of {multiple}, got {patch_size}")
    stated = {**card["preprocessing"]}
    for key in ("mean_hu", "sd_hu"):
        if stated.get(key) is not None:
            stated[key] = finite(stated[key], key)
    if "window_hu" in stated:
        stated["window_hu"] = tuple(finite(end, "window_hu") for end in stated["window_hu"])
    if "spacing_zyx_mm" in stated:
        stated["spacing_zyx_mm"] = planned_spacing(stated["spacing_zyx_mm"], "spacing_zyx_mm")
    return Preprocessing.from_dict(stated), patch_size, planned_scales(card.get("scales", [1.0]))
