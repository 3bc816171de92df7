"""The supervised loss: cross entropy + soft Dice on every head (paper 2.3).

Cross entropy treats all voxels alike, so a small organ hardly counts; Dice treats all organs alike. With p the softmax,
y the target as 0 and 1, and sums over the voxels of the whole batch (batch Dice),

    dice[c] = (2 sum(p[c] y[c]) + s) / (sum(p[c]) + sum(y[c]) + s),        dice_loss = 1 - mean of dice[c] over c > 0

Background is left out: it is large and easy. The smoothing s matters for an organ that is not in the batch: if it is
predicted nowhere its dice is 1; if it is predicted anywhere, its dice falls towards 0.

Voxels whose target is `IGNORED` are in none of these sums and means: whatever the net says of them costs nothing and
has no gradient. If all voxels are ignored, the loss is 0.

References: Milletari et al., V-Net, 3DV 2016 (soft Dice); Isensee et al., nnU-Net, 2021 (the sum, the smoothing s, the
heads' weights) and its version 2 (the ignore label).
"""

from collections.abc import Sequence

import torch

from flare_lib.ct.labels import IGNORED
from flare_lib.machine.device import for_float64
from flare_lib.machine.distributed import all_reduce_sum, rank_and_count

SMOOTHING = 1e-5


def dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the soft batch Dice loss over all classes but background, in [0, 1].

    `logits` (B, C, Z, Y, X) of any floating type, computed in float32; `target` (B, Z, Y, X) class numbers 0 to C - 1
    of any integer type, or `IGNORED`. Raises ValueError or TypeError if these do not fit.
    """
    return _losses(logits, target)[1]


def dice_cross_entropy_loss(
    head_logits: Sequence[torch.Tensor], target: torch.Tensor, head_weights: Sequence[float] | None = None
) -> torch.Tensor:
    """Return cross entropy + Dice loss, averaged over the heads with `head_weights` (scaled to sum to 1).

    `head_logits` (B, C, Z, Y, X) of each head, finest first; `target` (B, Z, Y, X) class numbers of any integer type,
    or `IGNORED`, on the finest grid, resized to the others by nearest neighbour. `head_weights` are 1, 1/2, 1/4, ...
    unless given. Raises ValueError or TypeError if these do not fit.
    """
    if not head_logits:
        raise ValueError("head_logits must hold one head or more, got none")
    if target.shape[1:] != head_logits[0].shape[2:]:
        raise ValueError(
            f"target must be on the grid of the finest head, {tuple(head_logits[0].shape[2:])} (Z, Y, X), got "
            f"{tuple(target.shape)} (B, Z, Y, X)"
        )
    if head_weights is None:
        head_weights = [0.5**k for k in range(len(head_logits))]
    if len(head_weights) != len(head_logits) or min(head_weights) < 0 or not sum(head_weights) > 0:
        raise ValueError(
            f"head_weights must be {len(head_logits)} numbers of 0 or more and not all 0, got {list(head_weights)}"
        )
    losses = [
        weight / sum(head_weights) * torch.stack(_losses(logits, shrink_target(target, logits.shape[2:]))).sum()
        for logits, weight in zip(head_logits, head_weights, strict=True)
        if weight
    ]
    return torch.stack(losses).sum()


def shrink_target(target: torch.Tensor, shape_zyx: Sequence[int]) -> torch.Tensor:
    """Return the labels (B, Z, Y, X) on a coarser grid of the same extent: those nearest to each voxel's centre.

    If two are equally near, the later one is taken. The dtype is kept; a target that already has that shape is returned
    itself. Raises ValueError unless the target has four axes.
    """
    if target.ndim != 4:
        raise ValueError(f"target must have the shape (B, Z, Y, X), got {tuple(target.shape)}")
    if target.shape[1:] == torch.Size(shape_zyx):
        return target
    # the centre of voxel i of n is at (i + 1/2) / n of the extent; in whole numbers, so that nothing is rounded
    z, y, x = (
        (2 * torch.arange(n, device=target.device) + 1) * size // (2 * n)
        for n, size in zip(shape_zyx, target.shape[1:], strict=True)
    )
    return target[:, z[:, None, None], y[:, None], x]


def _losses(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cross entropy and Dice loss of one head; both come from one softmax, and no one-hot target is made."""
    ignores = _check(logits, target)
    n_classes = logits.shape[1]
    labels = target.long()  # (B, Z, Y, X)
    log_p = logits.float().log_softmax(dim=1)  # (B, C, Z, Y, X)
    if ignores:  # then every voxel that counts becomes an image of its own, (N, C, 1, 1, 1)
        counts = labels != IGNORED
        labels, log_p = labels[counts][:, None, None, None], log_p.movedim(1, -1)[counts][..., None, None, None]
    log_p_target = log_p.gather(1, labels[:, None]).flatten()  # (B Z Y X), for the true class

    there = for_float64(logits.device)
    labels = labels.flatten().to(there)
    # added one by one into a few bins, so in float64: float32 would lose values that are small against the sum so far
    overlap = torch.zeros(n_classes, dtype=torch.float64, device=there)
    overlap = overlap.index_add(0, labels, log_p_target.to(there).double().exp())  # (C), sum(p y)
    predicted = log_p.exp().sum(dim=(0, 2, 3, 4)).to(there)  # (C), sum(p)
    true = torch.bincount(labels, minlength=n_classes)  # (C), sum(y)
    overlap, predicted, true = all_reduce_sum(torch.stack([overlap, predicted.double(), true.double()]))
    dice = (2 * overlap + SMOOTHING) / (predicted + true + SMOOTHING)
    n_processes = rank_and_count()[1]
    counted = len(labels) if n_processes == 1 else float(true.detach().sum())  # of all processes, as in the Dice
    if counted == n_processes * target.numel():
        cross_entropy = -log_p_target.mean()
    else:  # processes may ignore different numbers of voxels: the mean over them is that over all voxels that count
        cross_entropy = -log_p_target.sum() * (n_processes / max(counted, 1.0))
    return cross_entropy, 1 - dice[1:].mean().float().to(logits.device)


def _check(logits: torch.Tensor, target: torch.Tensor) -> bool:
    """Return whether some voxels of the target are ignored."""
    if logits.ndim != 5 or logits.shape[1] < 2 or not logits.numel():
        raise ValueError(f"logits must have the shape (B, 2 classes or more, Z, Y, X), got {tuple(logits.shape)}")
    if target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(f"target must have the shape (B, Z, Y, X) of {tuple(logits.shape)}, got {tuple(target.shape)}")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"target must hold class numbers of an integer type, got {target.dtype}")
    low, high = (int(end) for end in target.aminmax())
    ignores = high == IGNORED >= logits.shape[1]
    if ignores:
        high = int(target.where(target != IGNORED, 0).max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(
            f"target must hold class numbers 0 to {logits.shape[1] - 1} or {IGNORED}, ignored, got {low} to {high}"
        )
    return ignores
