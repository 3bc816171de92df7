"""A trained net of ours as a results folder of nnU-Net v2, so that nnU-Net's own programs can run it.

The folder lies where nnU-Net looks for it: in `nnUNet_results`, under a data set and trainer__plans__configuration.

Only what nnU-Net can express can be exported. A net with *individual* normalisation (clipped first, then by each CT's
own mean and SD), as the packaged coarse one has it, is beyond nnU-Net's schemes.

Reference: nnU-Net 2.8, `nnUNetPredictor`, `PlansManager`; `nnunet` for the names of the weights.
"""

import json
from pathlib import Path
from typing import Any

import torch

from flare_lib.ct.labels import ORGAN_NAMES
from flare_lib.machine.atomic_write import atomic_folder
from flare_lib.network.nnunet_folder import CHECKPOINT, DATASET, PLANS
from flare_lib.network.nnunet_plans import PLAIN, RESAMPLING, STANDARD_LAYERS
from flare_lib.network.unet import UNet
from flare_lib.network.weights import TrainedNet

DATA_SET, TRAINER, PLANNER, CONFIGURATION = "Dataset922_FLARE22", "nnUNetTrainer", "nnUNetPlans", "3d_fullres"


def export_folder(results: str | Path) -> Path:
    """Return the folder in `results` (nnU-Net's `nnUNet_results`) that an export goes to."""
    return Path(results) / DATA_SET / f"{TRAINER}__{PLANNER}__{CONFIGURATION}"


def save_nnunet_folder(results: str | Path, trained: TrainedNet) -> Path:
    """Write a net with its plans as fold 0 of a results folder, complete or not at all; return that folder.

    Raises ValueError, before anything is written, for a net that nnU-Net cannot express, or if that folder exists.
    """
    recipe, net = trained.preprocessing, trained.net
    if recipe.mean_hu is None or recipe.sd_hu is None:
        raise ValueError("the net must have global normalisation (mean_hu and sd_hu), got individual: nnU-Net has none")
    classes = net.architecture["in_channels"], net.architecture["n_classes"]
    if classes != (1, len(ORGAN_NAMES) + 1):
        raise ValueError(f"the net must have 1 channel and {len(ORGAN_NAMES) + 1} classes, got {classes}")
    folder = export_folder(results)
    if folder.exists():
        raise ValueError(f"an export must not replace another one, got {folder}")
    plans, dataset = _plans(trained, recipe.mean_hu, recipe.sd_hu), _dataset()
    checkpoint = {
        "network_weights": nnunet_weights(net),
        "init_args": {"plans": plans, "configuration": CONFIGURATION, "fold": 0, "dataset_json": dataset},
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": None,  # left and right are different organs to this net
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as unfinished:
        (unfinished / "fold_0").mkdir()
        for name, content in ((PLANS, plans), (DATASET, dataset)):
            (unfinished / name).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        torch.save(checkpoint, unfinished / "fold_0" / CHECKPOINT)
    return folder


def nnunet_weights(net: UNet) -> dict[str, torch.Tensor]:
    """Return a net's weights under the names of nnU-Net v2's PlainConvUNet, all of them.

    nnU-Net's transposed convolutions and heads have biases, and every stage of its decoder a head: those that the net
    lacks are 0.
    """
    own = {name: tensor.detach().cpu().float() for name, tensor in net.state_dict().items()}
    n_ups = len(net.ups)
    n_classes = net.architecture["n_classes"]
    for s, n_features in enumerate(net.architecture["features_per_stage"][:n_ups]):
        own.setdefault(f"ups.{s}.bias", torch.zeros(n_features))
        own.setdefault(f"heads.{s}.weight", torch.zeros(n_classes, n_features, 1, 1, 1))
        own.setdefault(f"heads.{s}.bias", torch.zeros(n_classes))
    theirs: dict[str, torch.Tensor] = {}
    for name, tensor in own.items():
        for their_name in _their_names(name, n_ups):
            theirs[their_name] = tensor
    return theirs


def _their_names(name: str, n_ups: int) -> list[str]:
    """Return every name that nnU-Net gives to a tensor of ours: layers of blocks have two, the encoder's four."""
    part, s, *rest = name.split(".")
    u = n_ups - 1 - int(s)
    if part in ("ups", "heads"):
        return [f"decoder.{'transpconvs' if part == 'ups' else 'seg_layers'}.{u}.{rest[0]}"]
    i, layer, parameter = rest
    stage = f"encoder.stages.{s}.0" if part == "encoder" else f"decoder.stages.{u}"
    in_list = f"all_modules.{('conv', 'norm').index(layer)}"
    names = [f"{stage}.convs.{i}.{place}.{parameter}" for place in (layer, in_list)]
    return names if part == "decoder" else [*names, *(f"decoder.{their_name}" for their_name in names)]


def _plans(trained: TrainedNet, mean_hu: float, sd_hu: float) -> dict[str, Any]:
    """Return what nnU-Net would have planned to arrive at this net."""
    recipe, architecture = trained.preprocessing, trained.net.architecture
    n_stages = len(architecture["features_per_stage"])
    low, high = recipe.window_hu
    splines = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    of_ct = {"mean": mean_hu, "std": sd_hu, "percentile_00_5": low, "percentile_99_5": high, "median": mean_hu}
    configuration = {
        "data_identifier": f"{PLANNER}_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(trained.patch_size),
        "median_image_size_in_voxels": list(trained.patch_size),
        "spacing": list(recipe.spacing_zyx_mm),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_data_kwargs": splines,
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_seg_kwargs": {**splines, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": RESAMPLING,
        "resampling_fn_probabilities_kwargs": {**splines, "order": 1},
        "batch_dice": False,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{PLAIN}",
            "arch_kwargs": {
                "n_stages": n_stages,
                "features_per_stage": architecture["features_per_stage"],
                "kernel_sizes": [[3, 3, 3]] * n_stages,
                "strides": [[1, 1, 1], *architecture["strides"]],
                "n_conv_per_stage": [2] * n_stages,
                "n_conv_per_stage_decoder": [2] * (n_stages - 1),
                **STANDARD_LAYERS,
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": DATA_SET,
        "plans_name": PLANNER,
        "original_median_spacing_after_transp": list(recipe.spacing_zyx_mm),
        "original_median_shape_after_transp": list(trained.patch_size),
        "image_reader_writer": "NibabelIOWithReorient",  # our nets see canonical axes
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {**of_ct, "min": low, "max": high}},
    }


def _dataset() -> dict[str, Any]:
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{name: label for label, name in ORGAN_NAMES.items()}},
        "numTraining": 0,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
    }
