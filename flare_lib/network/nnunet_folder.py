"""A results folder of nnU-Net, as training left it: the plans, the labels and the nets of its folds.

    nnUNetTrainer__nnUNetPlans__3d_fullres/
        plans.json, dataset.json
        fold_0/checkpoint_final.pth ... fold_4/checkpoint_final.pth   (or fold_all/)

That is nnU-Net v2's; v1's is drawn in `nnunet_v1`.

Reference: nnU-Net 2.8, `nnUNetPredictor.initialize_from_trained_model_folder`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from flare_lib.machine.counted import some_of
from flare_lib.machine.json_file import read_json_object
from flare_lib.network.engines import Predict
from flare_lib.network.nnunet import read_checkpoint
from flare_lib.network.nnunet_nets import build_nnunet
from flare_lib.network.nnunet_plans import Plans, read_plans
from flare_lib.network.nnunet_postprocessing import POSTPROCESSING_V1, LargestOnly, read_postprocessing
from flare_lib.network.nnunet_v1 import ALL_V1, CHECKPOINT_V1, PLANS_V1, read_v1

PLANS, DATASET, CHECKPOINT = "plans.json", "dataset.json", "checkpoint_final.pth"
_NAMED = 8  # of several results: a line has no room for more


@dataclass(frozen=True)
class Fold:
    """The net of one fold, in eval mode, and the function from patches to its finest logits."""

    name: str
    net: nn.Module
    predict: Predict


@dataclass(frozen=True)
class NnunetModel:
    """What a results folder holds: the folds' logits are to be averaged, and their labels cleaned up by the rules."""

    plans: Plans
    folds: tuple[Fold, ...]
    rules: tuple[LargestOnly, ...] = ()


def load_nnunet_folder(folder: str | Path, folds: Sequence[str] = ()) -> NnunetModel:
    """Load a results folder of nnU-Net: the named folds ("0", "1"..., "all"), or by default every numbered one.

    If no fold is numbered, "all" is the default. Checkpoints and pickles are read without running any code in them.
    Raises ValueError or FileNotFoundError, in one line, for anything that is not such a folder, for a fold that is not
    there, and for plans or rules that are not supported (`read_plans`, `read_v1`, `build_nnunet`,
    `read_postprocessing`).
    """
    folder = Path(folder)
    layout = _layout_of(folder)
    there = layout.folds_in(folder)
    if not there:
        raise FileNotFoundError(
            f"a results folder must hold {layout.place('0')} or other folds, "
            f"got {layout.unfinished(folder)} in {folder}"
        )
    loaded: list[tuple[Plans, Fold]] = []
    for name in [name.removeprefix("fold_") for name in folds] or there:
        path = folder / layout.place(name)
        if not path.is_file():
            raise FileNotFoundError(
                f"a fold must be one of {', '.join(there)} with its {path.name}, got {name}: there is no {path}"
            )
        checkpoint = read_checkpoint(path)
        plans = layout.plans(folder, path, checkpoint)
        if loaded and plans.configuration != (first := loaded[0][0].configuration):
            raise ValueError(f"all folds must be of one configuration, {first}, got {plans.configuration}: {path}")
        if loaded and plans != loaded[0][0]:
            raise ValueError(f"all folds must have the same plans, got others: {path}")
        loaded.append((plans, Fold(name, *build_nnunet(plans, checkpoint, source=str(path)))))
    plans = loaded[0][0]
    rules = read_postprocessing(folder / POSTPROCESSING_V1, [*plans.names]) if plans.version == 1 else ()
    return NnunetModel(plans, tuple(fold for _, fold in loaded), rules)


def model_files(folder: Path) -> list[Path]:
    """Return the files that a model is made of, sorted: a change of any of them is another model."""
    v1 = (PLANS_V1, POSTPROCESSING_V1, f"*/{CHECKPOINT_V1}", f"*/{CHECKPOINT_V1}.pkl")
    patterns = (PLANS, DATASET, f"fold_*/{CHECKPOINT}", *v1)
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


class _V2:
    """Where the files of nnU-Net v2 lie, and how a fold's plans are read."""

    checkpoint, others, all_folds = CHECKPOINT, "checkpoint_*.pth", "fold_all"

    def plans(self, folder: Path, path: Path, checkpoint: Any) -> Plans:
        """Return the plans of the configuration that the checkpoint was trained in."""
        plans, dataset = (read_json_object(folder / name) for name in (PLANS, DATASET))
        return read_plans(plans, dataset, _configuration_of(checkpoint, path))

    def place(self, fold: str) -> str:
        """Return where a fold's checkpoint is."""
        return f"{self.all_folds if fold == 'all' else f'fold_{fold}'}/{self.checkpoint}"

    def folds_in(self, folder: Path) -> list[str]:
        """Return the numbered folds that have a checkpoint, in order, or else ["all"] if that has one."""
        names = [path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{self.checkpoint}")]
        numbered = sorted((name for name in names if name.isdigit()), key=int)
        return numbered or ["all"] * (folder / self.place("all")).is_file()

    def unfinished(self, folder: Path) -> str:
        """Say which other checkpoints there are: those of a training that is not over, or "none"."""
        others = sorted(path.relative_to(folder).as_posix() for path in folder.glob(f"*/{self.others}"))
        return f"only checkpoints of unfinished training ({', '.join(others)})" if others else "none"


class _V1(_V2):
    """The same for nnU-Net v1."""

    checkpoint, others, all_folds = CHECKPOINT_V1, "model_*.model", ALL_V1

    def plans(self, folder: Path, path: Path, checkpoint: Any) -> Plans:
        """Return the plans beside the checkpoint, with names from a dataset.json, if somebody has put one there."""
        named = (folder / DATASET).is_file()
        labels = read_json_object(folder / DATASET).get("labels") if named else None
        if named and not isinstance(labels, Mapping):
            raise ValueError(f"{folder / DATASET} must name its labels, got {labels}")
        return read_v1(path, labels)


def _layout_of(folder: Path) -> _V2:
    """Return the layout of a results folder, by the files in it; raise an error that helps for what is none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"a results folder of nnU-Net must be a folder, got {folder}")
    if all((folder / name).is_file() for name in (PLANS, DATASET)):
        return _V2()
    if (folder / PLANS_V1).is_file():
        return _V1()
    for plans in (PLANS, PLANS_V1):
        if (folder.parent / plans).is_file():
            raise ValueError(f"the folder must be the one that holds {plans} (--fold chooses a fold), got {folder}")
    names = [f"{depth}/{plans}" for depth in ("*", "*/*", "*/*/*") for plans in (PLANS, PLANS_V1)]
    results = {path.parent for name in names for path in folder.glob(name)}
    if inside := sorted(path.relative_to(folder).as_posix() for path in results):
        raise ValueError(
            f"the folder must be one of {folder}'s results, got all of them: {some_of(inside, most=_NAMED)}"
        )
    raise ValueError(
        f"a results folder of nnU-Net must hold {PLANS} and {DATASET} (v2) or {PLANS_V1} (v1), got {folder}"
    )


def _configuration_of(checkpoint: Any, path: Path) -> str:
    """Return the configuration that a checkpoint was trained in, as nnU-Net looks it up."""
    arguments = checkpoint.get("init_args") if isinstance(checkpoint, Mapping) else None
    if not (isinstance(arguments, Mapping) and isinstance(arguments.get("configuration"), str)):
        raise ValueError(f"{path} must be a checkpoint of nnU-Net v2, which names its configuration, got none")
    return arguments["configuration"]
