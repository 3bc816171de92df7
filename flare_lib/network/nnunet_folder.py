"""A results folder of nnU-Net v2, as training left it: the plans, the labels and the nets of its folds.

    nnUNetTrainer__nnUNetPlans__3d_fullres/
        plans.json, dataset.json
        fold_0/checkpoint_final.pth ... fold_4/checkpoint_final.pth   (or fold_all/)

Reference: nnU-Net 2.8, `nnUNetPredictor.initialize_from_trained_model_folder`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from flare_lib.network.nnunet import read_checkpoint
from flare_lib.network.nnunet_nets import Predict, build_nnunet
from flare_lib.network.nnunet_plans import Plans, read_plans

PLANS, DATASET, CHECKPOINT = "plans.json", "dataset.json", "checkpoint_final.pth"


@dataclass(frozen=True)
class Fold:
    """The net of one fold, in eval mode, and the function from patches to its finest logits."""

    name: str
    net: nn.Module
    predict: Predict


@dataclass(frozen=True)
class NnunetModel:
    """What a results folder holds; the folds' logits are to be averaged."""

    plans: Plans
    folds: tuple[Fold, ...]


def load_nnunet_folder(folder: str | Path, folds: Sequence[str] = ()) -> NnunetModel:
    """Load a results folder of nnU-Net v2: the named folds ("0", "1"..., "all"), or by default every numbered one.

    If no fold is numbered, "all" is the default. Checkpoints are read without running any code in them. Raises
    ValueError or FileNotFoundError, in one line, for anything that is not such a folder, for a fold that is not there,
    and for plans that are not supported (`read_plans`, `build_nnunet`).
    """
    folder = Path(folder)
    _check_folder(folder)
    plans_json, dataset_json = (_read_json(folder / name) for name in (PLANS, DATASET))
    loaded: list[tuple[Plans, Fold]] = []
    there = _folds_in(folder)
    if not there:
        raise FileNotFoundError(
            f"a results folder must hold fold_0/{CHECKPOINT} or other folds, got {_unfinished(folder)} in {folder}"
        )
    for name in [name.removeprefix("fold_") for name in folds] or there:
        path = folder / f"fold_{name}" / CHECKPOINT
        if not path.is_file():
            raise FileNotFoundError(
                f"a fold must be one of {', '.join(there)} with its {CHECKPOINT}, got {name}: there is no {path}"
            )
        checkpoint = read_checkpoint(path)
        configuration = _configuration_of(checkpoint, path)
        if loaded and configuration != (first := loaded[0][0].configuration):
            raise ValueError(f"all folds must be of one configuration, {first}, got {configuration}: {path}")
        plans = read_plans(plans_json, dataset_json, configuration)
        loaded.append((plans, Fold(name, *build_nnunet(plans, checkpoint, source=str(path)))))
    return NnunetModel(loaded[0][0], tuple(fold for _, fold in loaded))


def _check_folder(folder: Path) -> None:
    """Raise an error that helps unless `folder` holds the two files of nnU-Net v2."""
    if not folder.is_dir():
        raise FileNotFoundError(f"a results folder of nnU-Net must be a folder, got {folder}")
    if all((folder / name).is_file() for name in (PLANS, DATASET)):
        return
    if (folder / "plans.pkl").is_file():
        raise ValueError(
            f"the folder must be nnU-Net v2's ({PLANS}), got nnU-Net v1's: {folder / 'plans.pkl'} is not read, as a "
            f"pickle can run code; flare_lib.network.nnunet.load_nnunet reads v1's weights by themselves"
        )
    if (folder.parent / PLANS).is_file():
        raise ValueError(f"the folder must be the one that holds {PLANS} (--fold chooses a fold), got {folder}")
    results = [path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{PLANS}")]
    if inside := sorted(path.relative_to(folder).as_posix() for path in results):
        raise ValueError(f"the folder must be one of {folder}'s results, got all of them: {', '.join(inside)}")
    raise ValueError(f"a results folder of nnU-Net v2 must hold {PLANS} and {DATASET}, got {folder}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(read).__name__}")
    return read


def _folds_in(folder: Path) -> list[str]:
    """Return the numbered folds that have a checkpoint, in order, or else ["all"] if that has one."""
    names = [path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{CHECKPOINT}")]
    return sorted((name for name in names if name.isdigit()), key=int) or [name for name in names if name == "all"]


def _unfinished(folder: Path) -> str:
    """Say which other checkpoints there are: those of a training that is not over, or "none"."""
    others = sorted(path.relative_to(folder).as_posix() for path in folder.glob("fold_*/checkpoint_*.pth"))
    return f"only checkpoints of unfinished training ({', '.join(others)})" if others else "none"


def _configuration_of(checkpoint: Any, path: Path) -> str:
    """Return the configuration that a checkpoint was trained in, as nnU-Net looks it up."""
    arguments = checkpoint.get("init_args") if isinstance(checkpoint, Mapping) else None
    if not (isinstance(arguments, Mapping) and isinstance(arguments.get("configuration"), str)):
        raise ValueError(f"{path} must be a checkpoint of nnU-Net v2, which names its configuration, got none")
    return arguments["configuration"]
