"""The loop: forward, loss over the four heads, backward, step; logged, checkpointed, resumable."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from flare_lib.network.losses import dice_cross_entropy_loss
from flare_lib.training.checkpoint import load_checkpoint, save_checkpoint
from flare_lib.training.patches import PaintedPatches, loader
from flare_lib.training.presets import Recipe


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Return what the learning rate is multiplied by: linear warm-up, then (1 - step / n_steps)^0.9 (paper 2.3)."""
    warm_up = min(1.0, (step + 1) / max(1, recipe.warm_up_steps))
    return warm_up * (1 - step / recipe.n_steps) ** 0.9


def train_step(
    net: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor], *, mixed_precision: bool = True
) -> float:
    """Do one step on {"image": (B, 1, Z, Y, X), "target": (B, Z, Y, X)} and return the loss.

    `mixed_precision` runs the net in bfloat16 where that is safe; the loss is always computed in float32.
    """
    device = next(net.parameters()).device
    image, target = batch["image"].to(device), batch["target"].to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed_precision):
        head_logits = net(image)
    loss = dice_cross_entropy_loss(head_logits, target)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 12.0)
    optimizer.step()
    return float(loss.detach())


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
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
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
            loss = train_step(net, optimizer, batch, mixed_precision=mixed_precision)
            seconds = time.perf_counter() - began
            entry = {
                "step": step,
                "loss": round(loss, 5),
                "lr": group["lr"],
                "s": round(seconds, 3),
                "wait_s": round(waited, 3),
            }
            log.write(json.dumps(entry) + "\n")
            log.flush()
            if (step + 1) % checkpoint_every == 0 or step + 1 == recipe.n_steps:
                save_checkpoint(checkpoint, net=net, optimizer=optimizer, step=step + 1, recipe=plain_recipe)
            if on_step:
                on_step(step, loss)
    return net
