"""One training run, from folders of cases to weights and their card.

    sources -> some held out -> (fine: mean and SD of the training set) -> net -> loop -> weights + card

The coarse stage starts from scratch, the fine stage from the coarse weights (paper 2.3).
"""

import os
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from flare_lib.machine.distributed import end_distributed, init_distributed, main_process_first, rank_and_count
from flare_lib.machine.extras import check_extra
from flare_lib.machine.precision import Precision, choose_precision
from flare_lib.machine.processes import Pool
from flare_lib.machine.progress import StageProgress
from flare_lib.network.unet import UNet
from flare_lib.network.weights import TrainedNet, load_strict, load_trained, pair_of, save_trained
from flare_lib.training.best import Best
from flare_lib.training.loop import train
from flare_lib.training.patches import Patches
from flare_lib.training.recipes import Recipe
from flare_lib.training.training_set import TrainingSet, gather, validation_batches, with_moments_of


def train_stage(
    recipe: Recipe,
    *,
    folder: str | Path,
    label_maps: str | Path | None = None,
    cohort: str | Path | None = None,
    unlabelled: str | Path | None = None,
    pseudo_labelled: str | Path | None = None,
    init: str | Path | None = None,
    device: str | torch.device = "cpu",
    precision: str | Precision = "auto",
    n_workers: int = 1,
    pool: AbstractContextManager[Pool | None] | None = None,
    on_step: Callable[[int, float], None] | None = None,
    progress: StageProgress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Path:
    """Train one stage and write `folder/{stage}.safetensors` and `.json`; returns the stem of the two.

    Log and checkpoint go to `folder/{stage}/`, so that both stages of a pair can share a folder, and prepared cases to
    `folder/prepared/`. `label_maps`, `cohort`, `unlabelled`, `pseudo_labelled`: see `gather`. `init`: the weights to
    start from (strictly: same names, same shapes). A fine recipe without mean and SD gets those that the
    net it starts from was trained with, or else those of its training set. A recipe that keeps the best weights has
    them in `folder/{stage}/best` as well, and a note says which they are. If what is kept is a moving average, the
    card's "ema_decay" says so, and the run's last weights lie beside it in `folder/{stage}/last`.
    `n_workers` processes make patches; a `pool`, not opened yet, prepares the cases. If the run is stopped, the same
    call resumes from the last checkpoint. If torchrun started the processes, they all train one net. Raises the errors
    of `load_trained`, `load_strict`, `gather` and `train`, and ValueError if `init` is what the run would write.
    """
    folder = Path(folder)
    stem = folder / recipe.stage
    written = {os.path.realpath(pair_of(path)[0]) for path in (stem, stem / "best", stem / "last")}
    if init is not None and os.path.realpath(pair_of(init)[0]) in written:
        raise ValueError(f"the weights to start from must not be those that the run writes, got {init} for both")
    if recipe.augmentation:
        check_extra("monai", "train")
    start = None if init is None else load_trained(init)  # first, so that a wrong path is reported before any work
    precision = choose_precision(precision, device=torch.device(device))
    device = init_distributed(torch.device(device))
    try:
        with main_process_first():  # it prepares the cases while the others wait
            training_set = gather(
                recipe,
                label_maps=label_maps,
                cohort=cohort,
                unlabelled=unlabelled,
                pseudo_labelled=pseudo_labelled,
                cache=folder / "prepared",
                pool=pool,
                progress=progress,
                on_note=on_note,
            )
        if recipe.stage == "fine" and recipe.mean_hu is None:
            recipe = _with_mean_and_sd(recipe, start, training_set)
        net = recipe.new_net()
        if start is not None:
            load_strict(net, start.net.state_dict(), source=str(init))
        patches = Patches(training_set.sources, recipe, unlabelled=training_set.unlabelled)
        card = partial(_card, recipe, training_set, init, precision)
        first = rank_and_count()[0] == 0
        best = None
        if first and recipe.keep == "best":
            best = Best(stem / "best", resumed=(stem / "checkpoint.pt").exists())
        trained = train(
            net,
            patches,
            recipe,
            folder=stem,
            validation=validation_batches(training_set.held_out, recipe) if first else (),
            device=device,
            precision=precision,
            n_workers=n_workers,
            on_step=on_step,
            on_validation=None if best is None else partial(_offer, best, card),
            on_note=on_note,
        )
        if first:
            if recipe.ema_decay:
                save_trained(stem / "last", net.cpu().eval(), card() | {"ema_decay": 0.0})
            kept = None if best is None else best.load()
            if kept is None:
                save_trained(stem, cast(UNet, trained).cpu().eval(), card())
            else:
                save_trained(stem, kept.net, kept.card)
                if on_note:
                    step, dice = kept.card["step"], kept.card["validation_dice"]
                    on_note(f"kept the weights of step {step}, the best on what was held out (mean Dice {dice:.3f})")
    finally:
        end_distributed()
    return stem


def _with_mean_and_sd(recipe: Recipe, start: TrainedNet | None, training_set: TrainingSet) -> Recipe:
    """Return a recipe with the mean and SD that the net it starts from knows, or else with those of its training set.

    A net that goes on with other numbers than it knows would see every CT brighter or darker.
    """
    if start is not None and start.preprocessing.mean_hu is not None:
        return replace(recipe, mean_hu=start.preprocessing.mean_hu, sd_hu=start.preprocessing.sd_hu)
    return with_moments_of(training_set.sources, recipe)


def _offer(best: Best, card: Callable[[], dict[str, object]], step: int, dice: float, validated: nn.Module) -> None:
    best.offer(cast(UNet, validated), card() | {"step": step, "validation_dice": dice})


def _card(
    recipe: Recipe, training_set: TrainingSet, init: str | Path | None, precision: Precision
) -> dict[str, object]:
    return {
        "preprocessing": recipe.preprocessing.to_dict(),
        "patch_size": list(recipe.patch_size),
        "recipe": recipe.to_dict(),
        "ema_decay": recipe.ema_decay,  # of these weights; 0: those of one step
        "training_set": training_set.card(),
        "processes": rank_and_count()[1],
        "precision": precision.name,
        "started_from": None if init is None else Path(init).name,
        "trained_until": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
