"""The training loop: forward, loss over the four heads, backward, step; logged, validated, checkpointed, resumable.

The loss of a step is the supervised loss of its labelled patches plus, if there are unlabelled ones, the heads'
disagreement on them times a weight that grows from almost 0 (paper 2.3).
"""

import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from flare_lib.machine.device import limits_of
from flare_lib.machine.distributed import average_gradients, rank_and_count
from flare_lib.machine.precision import FLOAT32, Precision, choose_precision
from flare_lib.network.consistency import consistency_loss, ramp_up
from flare_lib.network.learning_kernels import learning
from flare_lib.network.losses import dice_cross_entropy_loss
from flare_lib.training.checkpoint import load_checkpoint, save_checkpoint
from flare_lib.training.ema import update_average
from flare_lib.training.log import Log
from flare_lib.training.patches import Patches, loader
from flare_lib.training.recipes import Recipe
from flare_lib.training.validation import validation_dice

Batch = dict[str, torch.Tensor]
_LONGEST_GRADIENT = 12.0  # nnU-Net's: a longer one is shortened to this norm


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Return the factor of the learning rate at a step, from 0: a linear warm-up times the schedule (paper 2.3)."""
    warm_up = min(1.0, (step + 1) / max(1, recipe.warm_up_steps))
    if recipe.schedule == "halving":
        return warm_up * 0.5 ** (step // recipe.halve_every)
    return warm_up * (1 - step / recipe.n_steps) ** 0.9


def make_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser for all of the net's parameters."""
    settings: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), momentum=0.99, nesterov=True, **settings)
    return torch.optim.AdamW(net.parameters(), **settings)


def losses_of(
    net: nn.Module, batch: Batch, *, consistency: str, consistency_weight: float, precision: Precision
) -> dict[str, torch.Tensor]:
    """Return the losses of one batch: {"loss": the total, "supervised", and "consistency" if it was computed}.

    `batch` as in `train_step`; the losses are scalars on the net's device, in float32.
    """
    device = next(net.parameters()).device
    there = {name: tensor.to(device) for name, tensor in batch.items()}
    n_labelled = len(there["image"])
    images = torch.cat([there["image"], *([there["unlabelled"]] if "unlabelled" in there else [])])
    with learning(device, precision):
        head_logits = net(images)
    supervised = dice_cross_entropy_loss([logits[:n_labelled] for logits in head_logits], there["target"])
    if "unlabelled" not in there:
        return {"loss": supervised, "supervised": supervised}
    disagreement = consistency_loss([logits[n_labelled:] for logits in head_logits], kind=consistency)
    loss = supervised + consistency_weight * disagreement
    return {"loss": loss, "supervised": supervised, "consistency": disagreement}


def train_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batch | Sequence[Batch],
    *,
    consistency: str = "kl",
    consistency_weight: float = 0.0,
    precision: Precision = FLOAT32,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, float]:
    """Take one step and return its losses, {"loss": the total, "supervised", and "consistency" if it was computed}.

    A batch has "image" (B, 1, Z, Y, X), "target" (B, Z, Y, X), and perhaps "unlabelled" (U, 1, Z, Y, X); images go
    through the net together (instance normalisation treats each patch by itself). The gradients of several batches are
    averaged before the step, and so are the returned losses. The net computes in `precision`, the losses in float32;
    `scaler` keeps float16's gradients within its range. Several processes (`machine.distributed`) take the same step.
    """
    batches = [batches] if isinstance(batches, dict) else batches
    device = next(net.parameters()).device
    scaler = precision.grad_scaler(device) if scaler is None else scaler
    optimizer.zero_grad(set_to_none=True)
    means: dict[str, float] = {}
    for batch in batches:
        with limits_of(device):
            losses = losses_of(
                net,
                batch,
                consistency=consistency,
                consistency_weight=consistency_weight,
                precision=precision,
            )
            scaler.scale(losses["loss"] / len(batches)).backward()
        for name, value in losses.items():
            means[name] = means.get(name, 0.0) + float(value.detach()) / len(batches)
    average_gradients(net)  # if one process finds infinity, all do, so they skip the same steps
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(net.parameters(), _LONGEST_GRADIENT)
    scaler.step(optimizer)
    scaler.update()
    return means


def train(
    net: nn.Module,
    patches: Patches,
    recipe: Recipe,
    *,
    folder: str | Path,
    validation: Sequence[Batch] = (),
    device: str | torch.device = "cpu",
    precision: str | Precision = "auto",
    n_workers: int = 1,
    checkpoint_every: int = 100,
    on_step: Callable[[int, float], None] | None = None,
    on_validation: Callable[[int, float, nn.Module], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> nn.Module:
    """Train `net` for `recipe.n_steps` steps, or resume the run in `folder` where it stopped.

    `folder` receives `checkpoint.pt` (every `checkpoint_every` steps, atomically) and `log.jsonl` (step, losses,
    learning rate, seconds, and how many of them were spent waiting for patches; every `recipe.validate_every` steps and
    at the end, the Dice on the `validation` batches). `precision`: see `choose_precision`; a run may be resumed in
    another one. `on_step(step, loss)` is called after each step, and `on_validation(steps done, mean Dice, net)` after
    each validation with a known Dice; `on_note`: see `loader`. With several processes, the first one writes. `net` is
    trained in place, and returned or, if `recipe.ema_decay` is above 0, the average of its weights, a net of its own;
    that is validated, too.
    Raises ValueError for a checkpoint that is damaged or of another recipe and for a precision that the device lacks,
    MemoryError if the device is full, and OSError if the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    net.to(device).train()
    precision = choose_precision(precision, device=next(net.parameters()).device)
    scaler = precision.grad_scaler(next(net.parameters()).device)
    optimizer = make_optimizer(net, recipe)
    average = copy.deepcopy(net) if recipe.ema_decay else None
    kept = net if average is None else average
    checkpoint = folder / "checkpoint.pt"
    state: dict[str, Any] = {"net": net, "average": average, "optimizer": optimizer, "scaler": scaler}
    state["recipe"] = json.loads(json.dumps(recipe.to_dict()))
    start = load_checkpoint(checkpoint, **state) if checkpoint.exists() else 0
    batches = loader(patches.starting_at(start * recipe.accumulate), n_workers=n_workers, on_note=on_note)
    writes = rank_and_count()[0] == 0
    with Log(folder if writes else None, start=start) as log:
        for step in range(start, recipe.n_steps):
            began = time.perf_counter()
            learning_rate = recipe.learning_rate * learning_rate_factor(step, recipe)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            several = [next(batches) for _ in range(recipe.accumulate)]
            waited = time.perf_counter() - began
            losses = train_step(
                net,
                optimizer,
                several,
                consistency=recipe.consistency,
                consistency_weight=ramp_up(step, recipe.ramp_up_steps, highest=recipe.consistency_weight),
                precision=precision,
                scaler=scaler,
            )
            if average is not None:
                update_average(average, net, step + 1, recipe.ema_decay)
            entry: dict[str, object] = {"step": step, **{name: round(loss, 5) for name, loss in losses.items()}}
            entry |= {"lr": learning_rate, "s": round(time.perf_counter() - began, 3), "wait_s": round(waited, 3)}
            last = step + 1 == recipe.n_steps
            if writes and validation and (last or (step + 1) % recipe.validate_every == 0):
                entry |= (validated := _validated(kept, validation))
                if on_validation and validated["validation_dice"] is not None:
                    on_validation(step + 1, validated["validation_dice"], kept)
            log.write(entry)
            if writes and (last or (step + 1) % checkpoint_every == 0):
                save_checkpoint(checkpoint, step=step + 1, **state)
            if on_step:
                on_step(step, losses["loss"])
    return kept


def _validated(net: nn.Module, validation: Sequence[Batch]) -> dict[str, Any]:
    """Return the log's entries for the Dice on held-out patches; null for an organ that is in none of them."""
    dice = validation_dice(net, validation)
    known = dice[~np.isnan(dice)]
    each = [None if np.isnan(d) else round(float(d), 4) for d in dice]
    return {"validation_dice": round(float(known.mean()), 4) if known.size else None, "organs_dice": each}
