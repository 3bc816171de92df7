"""What nnU-Net v2 planned for a data set, read from `plans.json` and `dataset.json`: all that its nets need to be used.

Both files are treated as data: nothing that they name is imported or run. What flare-lib cannot do in the same way as
nnU-Net (2-D nets, cascades, several channels, regions...) is refused in one line, never approximated.

"The net's axes" are the axes of the file, slowest first (or the canonical ones, if nnU-Net's reader reorients), put in
the order `transpose_forward`.

Reference: nnU-Net 2.8, `plans_handler`, `label_handling`, `default_normalization_schemes`; Isensee et al., 2021.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flare_lib.ct.axes import Axes
from flare_lib.ct.labels import are_flares
from flare_lib.ct.moments import Moments
from flare_lib.ct.resample import Window, check_window
from flare_lib.ct.volume import FileGrid, Shape, Triple, triple
from flare_lib.network.plan_numbers import (
    LARGEST_STRIDE,
    MOST_FEATURES,
    MOST_LAYERS,
    MOST_STAGES,
    WIDEST_KERNEL,
    check_layer,
    check_strides,
    finite,
    in_one_line,
    of_stages,
    of_stages_and_axes,
    planned_order,
    planned_patch,
    planned_spacing,
    whole,
    wholes,
)

_READERS = {"SimpleITKIO": False, "NibabelIO": False, "NibabelIOWithReorient": True}  # does it reorient?
_SMALLEST_SD = 1e-8
_ANY: Window = (-np.inf, np.inf)

PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"
RESAMPLING = "resample_data_or_seg_to_shape"  # nnU-Net's default, splines
# what nnU-Net builds its 3-D nets of where plans do not say it: all of version 1's, and the older ones of version 2
STANDARD_LAYERS: dict[str, Any] = {
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}


@dataclass(frozen=True)
class Scaling:
    """How grey values become a net's input: clipped to `window_hu`, minus `shift`, divided by `divisor`."""

    window_hu: Window
    shift: float
    divisor: float


@dataclass(frozen=True)
class Normalisation:
    """One of nnU-Net's schemes, and for CTs the numbers of the training set that it needs.

    "CTNormalization" clips to `window_hu` and uses `mean_hu` and `sd_hu`, "ZScoreNormalization" the image's own mean
    and SD, "RescaleTo01Normalization" its own lowest and highest value; "NoNormalization" changes nothing.
    """

    scheme: str
    window_hu: Window = _ANY
    mean_hu: float = 0.0
    sd_hu: float = 1.0

    def scaling_of(self, array: np.ndarray) -> Scaling:
        """Return what the scheme does to this image (of any shape, not empty)."""
        if self.scheme == "CTNormalization":
            return Scaling(self.window_hu, self.mean_hu, max(self.sd_hu, _SMALLEST_SD))
        if self.scheme == "ZScoreNormalization":
            own = Moments.of(array)
            return Scaling(_ANY, own.mean, max(own.sd, _SMALLEST_SD))
        if self.scheme == "RescaleTo01Normalization":
            low, high = float(array.min()), float(array.max())
            return Scaling(_ANY, low, max(high - low, _SMALLEST_SD))
        return Scaling(_ANY, 0.0, 1.0)


_SCHEMES = ("CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "NoNormalization")


@dataclass(frozen=True)
class Architecture:
    """The class of a net and its arguments, as nnU-Net writes them: names in place of classes."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Plans:
    """One configuration of one data set.

    `spacing_mm` and `patch_size` along the net's axes; `transpose_forward`: their order; `reorients`: whether the axes
    are the canonical ones instead of the file's; `ct_order`: the order of the splines that resample the CT (logits are
    always resampled linearly); `names`: {label: name} without the background, 1 to n_classes - 1; `version`: nnU-Net's,
    1 or 2, which work in another order (`nnunet_v1`).
    """

    configuration: str
    spacing_mm: Triple
    patch_size: Shape
    transpose_forward: Shape
    reorients: bool
    normalisation: Normalisation
    ct_order: int
    names: dict[int, str]
    architecture: Architecture
    version: int = 2

    @property
    def n_classes(self) -> int:
        """The number of labels, the background included."""
        return len(self.names) + 1

    @property
    def size_multiple(self) -> Shape:
        """What each side of a patch must be a multiple of, along the net's axes: the product of the strides."""
        return triple(math.prod(along) for along in zip(*self.architecture.arguments["strides"], strict=True))

    @property
    def has_flares_organs(self) -> bool:
        """Whether the labels are FLARE's 13 organs."""
        return are_flares(self.names)

    def axes(self, grid: FileGrid) -> Axes:
        """Return the net's axes for a CT from this file."""
        return (Axes() if self.reorients else Axes.of_file(grid)).reordered(self.transpose_forward)


def read_plans(plans: Mapping[str, Any], dataset: Mapping[str, Any], configuration: str) -> Plans:
    """Return one configuration of `plans.json` (parsed), with the labels of `dataset.json`.

    Raises ValueError, in one line, for what is missing or impossible and for what flare-lib does not support.
    """
    with in_one_line("plans.json and dataset.json must be those of nnU-Net v2"):
        return _read_plans(plans, dataset, configuration)


def _read_plans(plans: Mapping[str, Any], dataset: Mapping[str, Any], name: str) -> Plans:
    chosen = _configuration(plans, name)
    patch_size = planned_patch(chosen["patch_size"], name)
    if chosen.get("previous_stage"):
        raise ValueError(
            f"a cascade is not supported, got {name}, which needs the labels of {chosen['previous_stage']}"
        )
    channels = dataset.get("channel_names") or dataset["modality"]
    if len(channels) != 1:
        raise ValueError(
            f"the net must see one channel, the CT, got {len(channels)}: {', '.join(map(str, channels.values()))}"
        )
    reader = plans["image_reader_writer"]
    if reader not in _READERS:
        raise ValueError(f"the images must have been read by one of {', '.join(_READERS)}, got {reader}")
    for key, known, stated in (
        ("preprocessor_name", "DefaultPreprocessor", chosen.get("preprocessor_name")),
        ("label_manager", "LabelManager", plans.get("label_manager")),
    ):
        if stated not in (None, known):  # some planner's own class, which may do anything
            raise ValueError(f"{key} must be nnU-Net's {known}, got {stated}")
    architecture = _architecture(chosen)
    check_strides(patch_size, architecture.arguments["strides"])
    return Plans(
        configuration=name,
        spacing_mm=planned_spacing(chosen["spacing"], "spacing"),
        patch_size=patch_size,
        transpose_forward=planned_order(plans["transpose_forward"]),
        reorients=_READERS[reader],
        normalisation=_normalisation(plans, chosen),
        ct_order=_ct_order(chosen),
        names=_names(dataset["labels"]),
        architecture=architecture,
    )


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with everything that it inherits."""
    inherited: list[dict[str, Any]] = []
    while name is not None:
        configurations = plans["configurations"]
        if name not in configurations:
            raise ValueError(f"the configuration must be one of {', '.join(configurations)}, got {name}")
        if configurations[name] in inherited:
            raise ValueError(f"a configuration must not inherit from itself, got {name}")
        inherited.append(configurations[name])
        name = configurations[name].get("inherits_from")
    return {key: value for chosen in reversed(inherited) for key, value in chosen.items()}


def _normalisation(plans: Mapping[str, Any], chosen: Mapping[str, Any]) -> Normalisation:
    [scheme] = chosen["normalization_schemes"]
    if scheme not in _SCHEMES:
        raise ValueError(f"the normalisation must be one of {', '.join(_SCHEMES)}, got {scheme}")
    if scheme == "ZScoreNormalization" and any(chosen["use_mask_for_norm"]):
        raise ValueError("ZScoreNormalization is supported for the whole image, got use_mask_for_norm")
    if scheme != "CTNormalization":
        return Normalisation(scheme)
    stated = plans.get("foreground_intensity_properties_per_channel") or plans.get(
        "foreground_intensity_properties_by_modality", {}
    )
    of_ct = stated["0"]
    return ct_normalisation(of_ct, sd="std")


def ct_normalisation(of_ct: Mapping[str, Any], *, sd: str) -> Normalisation:
    """Return the normalisation of CTs by the numbers of a training set; `sd`: what plans call its deviation."""
    window = finite(of_ct["percentile_00_5"], "percentile_00_5"), finite(of_ct["percentile_99_5"], "percentile_99_5")
    check_window(window)
    return Normalisation(
        "CTNormalization", window, finite(of_ct["mean"], "mean"), finite(of_ct[sd], sd, negative=False)
    )


def _ct_order(chosen: Mapping[str, Any]) -> int:
    """Return the order of the CT's splines; ValueError for resampling other than nnU-Net's default."""
    wanted: dict[str, dict[str, Any]] = {
        "data": {"is_seg": False, "order_z": 0, "force_separate_z": None},
        "probabilities": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    for what, expected in wanted.items():
        function = chosen[f"resampling_fn_{what}"]
        stated = chosen[f"resampling_fn_{what}_kwargs"]
        got = {key: stated.get(key) for key in expected}
        if function != RESAMPLING or got != expected:
            raise ValueError(f"{what} must be resampled by {RESAMPLING} with {expected}, got {function} with {stated}")
    return whole(chosen["resampling_fn_data_kwargs"]["order"], "the order of the CT's resampling", 0, 5)


def _names(labels: Mapping[str, Any]) -> dict[int, str]:
    """Return {label: name} in the order of the labels, without background and ignored voxels."""
    if regions := [name for name, label in labels.items() if isinstance(label, list) and len(label) > 1]:
        raise ValueError(f"labels must be single numbers, got regions: {', '.join(regions)}")
    stated = {name: (n[0] if isinstance(n, list) and n else n) for name, n in labels.items() if name != "ignore"}
    if strangers := [n for n in stated.values() if not (isinstance(n, int | str) and str(n).isdecimal())]:
        raise ValueError(f"labels must be {{name: number}}, as in nnU-Net v2, got {strangers[0]!r} for a number")
    names = {int(n): name for name, n in stated.items()}
    numbers = sorted(map(int, stated.values()))
    if numbers != list(range(len(numbers))) or not 2 <= len(numbers) <= 255:
        raise ValueError(f"labels must be 0 (background), 1, 2... up to 254, each once, got {numbers}")
    return {number: names[number] for number in range(1, len(names))}


def _architecture(chosen: Mapping[str, Any]) -> Architecture:
    """Return the net's class and arguments, from the files of any nnU-Net v2, with every number checked."""
    if "architecture" in chosen:
        stated = chosen["architecture"]
        name, arguments = str(stated["network_class_name"]).rpartition(".")[2], dict(stated["arch_kwargs"])
    else:  # older plans
        per_stage = wholes(chosen["n_conv_per_stage_encoder"], "n_conv_per_stage_encoder", 1, MOST_LAYERS)
        name, n_stages = chosen["UNet_class_name"], len(per_stage)
        widest = whole(chosen["unet_max_num_features"], "unet_max_num_features", 1, MOST_FEATURES)
        first = whole(chosen["UNet_base_num_features"], "UNet_base_num_features", 1, MOST_FEATURES)
        arguments = {
            "n_stages": n_stages,
            "features_per_stage": [min(first * 2**s, widest) for s in range(n_stages)],
            "kernel_sizes": chosen["conv_kernel_sizes"],
            "strides": chosen["pool_op_kernel_sizes"],
            "n_conv_per_stage" if name == PLAIN else "n_blocks_per_stage": per_stage,
            "n_conv_per_stage_decoder": chosen["n_conv_per_stage_decoder"],
            **STANDARD_LAYERS,
        }
    if name not in (PLAIN, RESIDUAL):
        raise ValueError(f"the net must be a {PLAIN} or a {RESIDUAL}, got {name}")
    n = whole(arguments["n_stages"], "n_stages", 2, MOST_STAGES)
    depth = "n_conv_per_stage" if name == PLAIN else "n_blocks_per_stage"
    checked: dict[str, Any] = {"n_stages": n}
    for key, most in (("kernel_sizes", WIDEST_KERNEL), ("strides", LARGEST_STRIDE)):
        checked[key] = of_stages_and_axes(arguments[key], key, 1, most, n)
    for key, most, n_of_them in (
        ("features_per_stage", MOST_FEATURES, n),
        (depth, MOST_LAYERS, n),
        ("n_conv_per_stage_decoder", MOST_LAYERS, n - 1),
    ):
        checked[key] = of_stages(arguments[key], key, 1, most, n_of_them)
    for key, value in arguments.items():
        check_layer(key, value)
    return Architecture(name, arguments | checked)
