"""A results folder of nnU-Net v2 in miniature and two small CTs, the same on every machine.

What nnU-Net itself makes of them is recorded by `against_nnunet.py --record`; a test holds flare-lib to it. The tests
also bend this folder into every kind that must be read or refused.
"""

import copy
import json
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from flare_lib.network.nnunet_export import nnunet_weights
from flare_lib.network.unet import UNet

NAMES = {1: "lung_vessels", 2: "rib", 3: "skin", 4: "marrow"}
FEATURES, STRIDES = (4, 6, 8), ((1, 2, 2), (2, 2, 2))
FEATURES_V1 = (4, 8, 16)  # nnU-Net v1 knows nothing but doubling
_SPLINES = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
_FUNCTION = "resample_data_or_seg_to_shape"

PLANS: dict[str, Any] = {
    "dataset_name": "Dataset901_Small",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [1, 0, 2],
    "transpose_backward": [1, 0, 2],
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 40.0, "std": 130.0, "percentile_00_5": -600.0, "percentile_99_5": 420.0}
    },
    "configurations": {
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [12, 16, 20],
            "spacing": [2.5, 3.1, 2.2],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": _FUNCTION,
            "resampling_fn_data_kwargs": _SPLINES,
            "resampling_fn_seg": _FUNCTION,
            "resampling_fn_seg_kwargs": {**_SPLINES, "is_seg": True, "order": 1},
            "resampling_fn_probabilities": _FUNCTION,
            "resampling_fn_probabilities_kwargs": {**_SPLINES, "order": 1},
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 3,
                    "features_per_stage": list(FEATURES),
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[3, 3, 3]] * 3,
                    "strides": [[1, 1, 1], *map(list, STRIDES)],
                    "n_conv_per_stage": [2, 2, 2],
                    "n_conv_per_stage_decoder": [2, 2],
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        },
        "3d_child": {"inherits_from": "3d_fullres", "batch_size": 4},
        "2d": {"inherits_from": "3d_fullres", "patch_size": [16, 20]},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
}
DATASET: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, **{name: label for label, name in NAMES.items()}},
    "file_ending": ".nii.gz",
}


def plans(**changes: Any) -> dict[str, Any]:
    """Return the plans, with changes to the configuration 3d_fullres."""
    changed = copy.deepcopy(PLANS)
    changed["configurations"]["3d_fullres"].update(changes)
    return changed


def small_net(seed: int, *, version: int = 2) -> UNet:
    """Return a net whose every number is drawn from NumPy's frozen generator, as either nnU-Net would build it."""
    features = FEATURES if version > 1 else FEATURES_V1
    net = UNet(1, len(NAMES) + 1, features, STRIDES, n_heads=2, up_and_head_bias=version > 1)
    draw = np.random.RandomState((16 if version > 1 else 23) + seed)  # seeds whose labels are not all the same
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = max(1, parameter[0].numel())
            parameter.copy_(torch.from_numpy(draw.normal(size=parameter.shape) * (1.5 / fan_in) ** 0.5))
        for head in net.heads:  # so that every label has its places
            head.weight -= head.weight.mean(dim=0)
            if head.bias is not None:
                head.bias.copy_(torch.linspace(0.3, 0, len(head.bias)))
    return net.eval()


def checkpoint(weights: dict[str, torch.Tensor], configuration: str = "3d_fullres") -> dict[str, Any]:
    """Return what nnU-Net saves of a fold, as far as its predictor reads it, and a number of NumPy's."""
    return {
        "network_weights": weights,
        "init_args": {"configuration": configuration, "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "_best_ema": np.float64(0.7),
    }


def write_results(
    folder: Path,
    *,
    folds: tuple[str, ...] = ("0", "1"),
    plans: dict[str, Any] = PLANS,
    dataset: dict[str, Any] = DATASET,
    configuration: str = "3d_fullres",
) -> Path:
    """Write a results folder, each fold with weights of its own; return it."""
    folder.mkdir()
    for name, content in (("plans.json", plans), ("dataset.json", dataset)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    for seed, fold in enumerate(folds):
        (folder / f"fold_{fold}").mkdir()
        saved = checkpoint(nnunet_weights(small_net(seed)), configuration)
        torch.save(saved, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def write_results_v1(
    folder: Path, *, folds: tuple[str, ...] = ("fold_0", "fold_1"), information: dict[str, Any] | None = None
) -> Path:
    """Write the same model as nnU-Net v1 lays it down, `information` instead of what its trainer saves; return it."""
    information = information or information_v1()
    folder.mkdir()
    (folder / "plans.pkl").write_bytes(pickle.dumps(information["plans"]))
    for seed, fold in enumerate(folds):
        (folder / fold).mkdir()
        saved = {
            "epoch": 1000,
            "state_dict": weights_v1(small_net(seed, version=1)),
            "plot_stuff": ([np.float64(-0.7)], [], [], []),
        }
        torch.save(saved, folder / fold / "model_final_checkpoint.model")
        (folder / fold / "model_final_checkpoint.model.pkl").write_bytes(pickle.dumps(information))
    return folder


def information_v1() -> dict[str, Any]:
    """Return what a trainer of nnU-Net v1 saves beside its weights: its name, its arguments and the plans."""
    of_ct = PLANS["foreground_intensity_properties_per_channel"]["0"]
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [1, 2, 2],
        "patch_size": np.array([12, 16, 20]),
        "current_spacing": np.array([2.5, 3.1, 2.2]),
        "original_spacing": np.array([2.6, 2.3, 1.9]),
        "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": [list(stride) for stride in STRIDES],
        "conv_kernel_sizes": [[3, 3, 3]] * 3,
    }
    plans = {
        "num_stages": 1,
        "num_modalities": 1,
        "modalities": {0: "CT"},
        "normalization_schemes": OrderedDict({0: "CT"}),
        "dataset_properties": {
            "all_classes": [1, 2, 3, 4],
            "intensityproperties": OrderedDict(
                {0: {name.replace("std", "sd"): np.float64(value) for name, value in of_ct.items()}}
            ),
        },
        "original_spacings": [np.array([2.6, 2.3, 1.9])],
        "num_classes": len(NAMES),
        "all_classes": [1, 2, 3, 4],
        "base_num_features": FEATURES_V1[0],
        "use_mask_for_norm": OrderedDict({0: False}),
        "keep_only_largest_region": None,
        "min_region_size_per_class": None,
        "min_size_per_class": None,
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "plans_per_stage": {0: stage},
        "preprocessor_name": "GenericPreprocessor",
        "conv_per_stage": 2,
    }
    arguments = ("plans.pkl", 0, "out", "data", True, 0, True, False, True)
    return OrderedDict(
        {"init": arguments, "name": "nnUNetTrainerV2", "class": "<class 'nnUNetTrainerV2'>", "plans": plans}
    )


def weights_v1(net: UNet) -> dict[str, torch.Tensor]:
    """Return a net's weights under the names of nnU-Net v1's Generic_UNet."""
    n_ups, theirs = len(net.ups), {}
    for name, tensor in net.state_dict().items():
        part, s, *rest = name.split(".")
        u = n_ups - 1 - int(s)
        if part in ("ups", "heads"):
            theirs[f"{'tu' if part == 'ups' else 'seg_outputs'}.{u}.{rest[0]}"] = tensor
            continue
        i, layer, parameter = rest
        its = f"{layer.replace('norm', 'instnorm')}.{parameter}"
        if part == "encoder" and int(s) < n_ups:
            theirs[f"conv_blocks_context.{s}.blocks.{i}.{its}"] = tensor
        else:
            stage = f"conv_blocks_context.{s}" if part == "encoder" else f"conv_blocks_localization.{u}"
            theirs[f"{stage}.{i}.blocks.0.{its}"] = tensor
    return theirs


def small_ct(kind: str) -> nib.Nifti1Image:
    """Return a CT of soft blobs: "mild", axes left, back, up, or "thick", sagittal slices 9 mm apart, up, back, right.

    The thick one is smaller than a patch along one axis.
    """
    shape = (29, 22, 18) if kind == "mild" else (24, 30, 5)
    away = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    values = np.full(shape, -900.0)
    draw = np.random.RandomState(len(kind))
    for hu, size in ((30, 0.9), (250, 0.35), (-700, 0.4), (90, 0.3), (400, 0.2)):
        center = draw.uniform(-0.5, 0.5, (3, 1, 1, 1)) * (size < 0.9)
        inside = 1 / (1 + np.exp(12 * (np.linalg.norm(away - center, axis=0) - size)))
        values = values * (1 - inside) + hu * inside
    values += draw.normal(size=shape) * 15
    affine = np.diag([-1.9, -2.3, 2.6, 1.0])
    if kind == "thick":
        affine = np.array([[0, 0, 9.0, -20], [0, -2.0, 0, 30], [2.4, 0, 0, -5], [0, 0, 0, 1]])
    return nib.Nifti1Image(values.astype(np.int16), affine)
