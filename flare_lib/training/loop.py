"""The loop: forward, loss over the four heads, backward, step; logged, checkpointed, resumable.

A step's loss is the supervised one of its labelled patches, plus, where there are unlabelled ones, the heads'
disagreement on them times a weight that grows from almost 0 (paper 2.3).
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from flare_lib.network.consistency import consistency_loss, ramp_up
from flare_lib.network.losses import dice_cross_entropy_loss
from flare_lib.training.checkpoint import load_checkpoint, save_checkpoint
from flare_lib.training.patches import PaintedPatches, loader
from flare_lib.training.presets import Recipe


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Return what the learning rate is multiplied by: a linear warm-up times the recipe's schedule (paper 2.3)."""
    warm_up = min(1.0, (step + 1) / max(1, recipe.warm_up_steps))
    if recipe.schedule == "halving":
        return warm_up * 0.5 ** (step // recipe.halve_every)
    return warm_up * (1 - step / recipe.n_steps) ** 0.9


def make_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over all of the net's parameters."""
    settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), momentum=0.99, nesterov=True, **settings)
    return torch.optim.AdamW(net.parameters(), **settings)


def train_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, torch.Tensor],
    *,
    consistency: str = "kl",
    consistency_weight: float = 0.0,
    mixed_precision: bool = True,
) -> dict[str, float]:
    """Do one step and return its losses, {"loss": all of it, "supervised", and "consistency" where it was computed}.

    `batch`: "image" (B, 1, Z, Y, X), "target" (B, Z, Y, X), and perhaps "unlabelled" (U, 1, Z, Y, X), which go through
    the net together (instance normalisation keeps patches apart). `mixed_precision` runs the net in bfloat16 where that
    is safe; losses are always computed in float32.
    """
    device = next(net.parameters()).device
    there = {name: tensor.to(device) for name, tensor in batch.items()}
    n_labelled = len(there["image"])
    images = torch.cat([there["image"], *([there["unlabelled"]] if "unlabelled" in there else [])])
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed_precision):
        head_logits = net(images)
    supervised = dice_cross_entropy_loss([logits[:n_labelled] for logits in head_logits], there["target"])
    losses = {"supervised": supervised}
    loss = supervised
    if "unlabelled" in there:
        losses["consistency"] = consistency_loss([logits[n_labelled:] for logits in head_logits], kind=consistency)
        loss = supervised + consistency_weight * losses["consistency"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 12.0)
    optimizer.step()
    return {name: float(value.detach()) for name, value in {"loss": loss, **losses}.items()}


def train(
    net: nn.Module,
    patches: PaintedPatches,
    recipe: Recipe,
    *,
    folder: str | Path,
    device: str | torch.device = "cpu",
    mixed_precision: bool = True,
    n_workers: int = 1,
    checkpoint_every: int = 100,
    on_step: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Train `net` for `recipe.n_steps` steps, or take up the run that `folder` holds where it stopped.

    `folder` receives `checkpoint.pt` (every `checkpoint_every` steps, atomically) and `log.jsonl` (step, loss, learning
    rate, seconds). `on_step(step, loss)` is called after each step. Returns the net, trained in place.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    net.to(device).train()
    optimizer = make_optimizer(net, recipe)
    checkpoint = folder / "checkpoint.pt"
    plain_recipe = json.loads(json.dumps(recipe.to_dict()))
    start = 0
    if checkpoint.exists():
        start = load_checkpoint(checkpoint, net=net, optimizer=optimizer, recipe=plain_recipe)
    patches.start = start
    batches = iter(loader(patches, n_workers=n_workers))
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        for step in range(start, recipe.n_steps):
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_factor(step, recipe)
            batch = next(batches)
            waited = time.perf_counter() - began
            losses = train_step(
                net,
                optimizer,
                batch,
                consistency=recipe.consistency,
                consistency_weight=ramp_up(step, recipe.ramp_up_steps, highest=recipe.consistency_weight),
                mixed_precision=mixed_precision,
            )
            seconds = time.perf_counter() - began
            entry = {
                "step": step,
                **{name: round(loss, 5) for name, loss in losses.items()},
                "lr": group["lr"],
                "s": round(seconds, 3),
                "wait_s": round(waited, 3),
            }
            log.write(json.dumps(entry) + "\n")
            log.flush()
            if (step + 1) % checkpoint_every == 0 or step + 1 == recipe.n_steps:
                save_checkpoint(checkpoint, net=net, optimizer=optimizer, step=step + 1, recipe=plain_recipe)
            if on_step:
                on_step(step, losses["loss"])
    return net
