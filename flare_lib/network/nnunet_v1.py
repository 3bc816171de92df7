"""A fold of nnU-Net v1, the version before, read into the same `Plans`: 3-D, one stage, the standard trainer's net.

    3d_fullres/Task001_Mine/nnUNetTrainerV2__nnUNetPlansv2.1/
        plans.pkl
        fold_0/model_final_checkpoint.model, model_final_checkpoint.model.pkl   ... fold_4/   (or all/)

The plans are pickles, and are read as data (`machine.plain_pickle`). The net follows from the trainer's name: only the
trainers that use nnU-Net's standard 3-D net are known here.

v1 differs from v2 in three things: a CT is clipped after it is resampled, not before; tiles and folds are averaged as
probabilities, not as logits; and on the way back, whether slices are thick is asked of the CT first, along the file's
axes. `Plans.version` tells the stage that runs it. Both stages of a pair, 3d_lowres (0) and 3d_fullres (1), are planned
along the net's axes: `current_spacing` and `patch_size` are transposed already.

Reference: nnU-Net 1.7.1, `nnUNetTrainerV2`, `ExperimentPlanner3D_v21`, `GenericPreprocessor`,
`save_segmentation_nifti_from_softmax`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flare_lib.machine.plain_pickle import read_pickle
from flare_lib.network.nnunet_plans import (
    PLAIN,
    STANDARD_LAYERS,
    Architecture,
    Normalisation,
    Plans,
    ct_normalisation,
)
from flare_lib.network.plan_numbers import (
    LARGEST_STRIDE,
    MOST_STAGES,
    check_strides,
    in_one_line,
    of_stages_and_axes,
    planned_order,
    planned_patch,
    planned_spacing,
    whole,
    wholes,
)

PLANS_V1, CHECKPOINT_V1, ALL_V1 = "plans.pkl", "model_final_checkpoint.model", "all"

# what these change (losses, optimisers, augmentation) is over when training is
_TRAINERS = re.compile(
    r"nnUNetTrainerV2(_(DA[235]|insaneDA|noMirroring|noDataAugmentation|independentScalePerAxis|warmup|fullEvals"
    r"|fp16|fp32|Force[BS]D|softDeepSupervision|graduallyTransitionFromCEToDice|reduceMomentumDuringTraining"
    r"|(Adam|Loss|SegLoss|SGD|Ranger|momentum|cycleAtEnd|copy)\w*))?"
)
_STAGE = 5  # where a trainer's arguments name the stage
_ORDERS = {None: 3, "GenericPreprocessor": 3, "GenericPreprocessor_linearResampling": 1}
_WIDEST = 320  # of a 3-D net's stages, in features


def read_v1(checkpoint: Path, names: Mapping[str, Any] | None = None) -> Plans:
    """Return the plans of the fold whose checkpoint is `checkpoint`, from the pickle beside it.

    `names`: the labels of the data set's own dataset.json, {"1": "liver", ...}, which a results folder has no copy of;
    without it labels are called by their numbers. Raises ValueError or FileNotFoundError, in one line, for what is
    missing or impossible and for what flare-lib does not support.
    """
    path = checkpoint.with_name(f"{checkpoint.name}.pkl")
    information = read_pickle(path)
    with in_one_line(f"{path} must be that of a trainer of nnU-Net v1", about=path):
        return _read(information, names)


def _read(information: Mapping[str, Any], names: Mapping[str, Any] | None) -> Plans:
    if not _TRAINERS.fullmatch(trainer := information["name"]):
        raise ValueError(
            f"the trainer must be nnUNetTrainerV2, or one that differs from it in training alone, got {trainer}"
        )
    plans, stage = information["plans"], information["init"][_STAGE]
    stages = plans["plans_per_stage"]
    if stage is None:
        [stage] = stages
    if stage not in stages:
        raise ValueError(f"the stage must be one of {', '.join(map(str, stages))}, got {stage}")
    chosen = stages[stage]
    configuration = "3d_lowres" if len(stages) > 1 and stage == min(stages) else "3d_fullres"
    patch_size = planned_patch(chosen["patch_size"], configuration)
    if (n_channels := plans["num_modalities"]) != 1:
        raise ValueError(f"the net must see one channel, the CT, got {n_channels}")
    if (preprocessor := plans.get("preprocessor_name")) not in _ORDERS:
        raise ValueError(f"the preprocessor must be {' or '.join(filter(None, _ORDERS))}, got {preprocessor}")
    order = plans.get("transpose_forward")
    architecture = _architecture(plans, chosen)
    check_strides(patch_size, architecture.arguments["strides"])
    return Plans(
        configuration=configuration,
        spacing_mm=planned_spacing(chosen["current_spacing"], "current_spacing"),
        patch_size=patch_size,
        transpose_forward=planned_order((0, 1, 2) if order is None else order),
        reorients=False,
        normalisation=_normalisation(plans),
        ct_order=_ORDERS[preprocessor],
        names=_names(whole(plans["num_classes"], "num_classes, without the background,", 1, 254) + 1, names),
        architecture=architecture,
        version=1,
    )


def _normalisation(plans: Mapping[str, Any]) -> Normalisation:
    scheme = plans["normalization_schemes"][0]
    if (plans.get("use_mask_for_norm") or {}).get(0):
        raise ValueError(f"{scheme} is supported for the whole image, got use_mask_for_norm")
    if scheme == "noNorm":
        return Normalisation("NoNormalization")
    if scheme != "CT":
        raise ValueError(f"the normalisation must be CT or noNorm, got {scheme}")
    return ct_normalisation(plans["dataset_properties"]["intensityproperties"][0], sd="sd")


def _names(n_classes: int, names: Mapping[str, Any] | None) -> dict[int, str]:
    if names is None:
        return {label: f"label {label}" for label in range(1, n_classes)}
    if sorted(names) != sorted(map(str, range(n_classes))):
        raise ValueError(f"dataset.json must name the labels 0 to {n_classes - 1}, got {', '.join(names) or 'none'}")
    return {label: str(names[str(label)]) for label in range(1, n_classes)}


def _architecture(plans: Mapping[str, Any], chosen: Mapping[str, Any]) -> Architecture:
    """Return v1's Generic_UNet as the plain U-Net of v2 that it is.

    Kernels of 1 are stated as 3: our net pads them with zeros, and v2 places them differently in its decoder.
    """
    if (n := plans.get("conv_per_stage", 2)) != 2:
        raise ValueError(f"a net of nnU-Net v1 must have two convolutions a stage, got {n}")
    first, strides = whole(plans["base_num_features"], "base_num_features", 1, _WIDEST), _strides(chosen)
    n_stages = len(strides) + 1
    return Architecture(
        PLAIN,
        {
            "n_stages": n_stages,
            "features_per_stage": [min(first * 2**s, _WIDEST) for s in range(n_stages)],
            "kernel_sizes": [[3, 3, 3]] * n_stages,
            "strides": [[1, 1, 1], *strides],
            "n_conv_per_stage": [2] * n_stages,
            "n_conv_per_stage_decoder": [2] * (n_stages - 1),
            **STANDARD_LAYERS,
        },
    )


def _strides(chosen: Mapping[str, Any]) -> list[list[int]]:
    """Return by how much each stage shrinks the grid; old plans only say how often each axis is halved."""
    if (stated := chosen.get("pool_op_kernel_sizes")) is not None:
        n = whole(len(stated), "the number of pool_op_kernel_sizes", 1, MOST_STAGES - 1)
        return of_stages_and_axes(stated, "pool_op_kernel_sizes", 1, LARGEST_STRIDE, n)
    halved = wholes(chosen["num_pool_per_axis"], "num_pool_per_axis", 0, MOST_STAGES - 1, 3)
    n = whole(max(halved), "the largest num_pool_per_axis", 1, MOST_STAGES - 1)
    return [[2 if n - times <= s else 1 for times in halved] for s in range(n)]
