"""The state of a training run on disk: written completely or not at all, and resumed exactly."""

import io
from pathlib import Path

import torch
from torch import nn

from flare_lib.machine.atomic_write import atomic_write


def save_checkpoint(
    path: str | Path,
    *,
    net: nn.Module,
    average: nn.Module | None = None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    step: int,
    recipe: dict,
) -> None:
    """Write net, its average if there is one, optimiser, scaler, number of steps done and recipe to `path`.

    If that fails, an earlier file stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
    state |= {} if average is None else {"average": average.state_dict()}
    whole = io.BytesIO()  # torch reports a full disk in dozens of lines, Python in one
    torch.save(state | {"step": step, "recipe": recipe}, whole)
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(whole.getvalue())  # no view, which an error holds while its buffer is closed


def load_checkpoint(
    path: str | Path,
    *,
    net: nn.Module,
    average: nn.Module | None = None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    recipe: dict,
) -> int:
    """Fill net, average, optimiser and scaler from `path` and return the number of steps done.

    Raises ValueError if the file is missing, damaged or not a checkpoint of `save_checkpoint`, or if it was made with
    another recipe.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for every kind of damage
        raise ValueError(f"{path} must be a complete checkpoint, got {type(error).__name__}") from error
    if not (isinstance(state, dict) and {"net", "optimizer", "step", "recipe"} <= state.keys()):
        raise ValueError(f"{path} must be a checkpoint of a training run, got a file of something else")
    # what a recipe meant before it had these fields
    began_before = {"keep": "last", "ema_decay": 0.0, "appearance": 0.0}
    stored = {name: value for name, value in began_before.items() if name in recipe} | state["recipe"]
    if stored != recipe:
        differ = sorted(name for name in {*recipe, *stored} if recipe.get(name) != stored.get(name))
        raise ValueError(f"{path} must come from the same recipe, got other values of {', '.join(differ)}")
    net.load_state_dict(state["net"])
    if average is not None:
        average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    if state.get("scaler"):  # empty if the run so far was not in float16
        scaler.load_state_dict(state["scaler"])
    return int(state["step"])
