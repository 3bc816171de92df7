"""What a CT without labels can teach: the four heads should agree (paper 2.3, Fig. 3).

The heads' probabilities, all resized to the full resolution, are averaged into a pseudo-label P, and every head q is
pulled towards it. With sums over the classes c and means over the voxels v of the batch,

    kl     sum over heads of mean_v KL(P || q),         KL(P || q) = sum_c P[c] (log P[c] - log q[c])

    urpc   sum over heads of mean((P - q)^2 w) / mean(w) + mean_v KL(P || q),         w = exp(-KL(P || q)) per voxel

The first is what the paper says, the second what its released trainer ran: Luo et al., Efficient Semi-Supervised Gross
Target Volume Segmentation via Uncertainty Rectified Pyramid Consistency, MICCAI 2021. There a voxel where the heads
disagree (KL large, w small) counts less in the squared term; the last term keeps w from becoming small everywhere.

KL is not symmetric. KL(P || q) punishes a head that gives no probability to what the others together think possible;
a head that spreads its own more widely pays little. Agreement by itself teaches nothing: heads that all answer
"background" everywhere agree perfectly. The labelled half of every step is what keeps them from doing so.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from flare_lib.machine.distributed import all_reduce_sum

_SMALLEST = 1e-8  # lower limit of a probability before its logarithm


def pseudo_label(head_logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean of all heads' softmax at the finest head's resolution, (B, C, Z, Y, X) float32; sums to 1 over C.

    `head_logits` (B, C, ...) of each head, finest first, any floating type. Raises ValueError for no heads, or for
    heads that do not belong together.
    """
    return torch.stack(_probabilities(head_logits)).mean(dim=0)


def consistency_loss(
    head_logits: Sequence[torch.Tensor], *, kind: str = "kl", gradient_through_target: bool | None = None
) -> torch.Tensor:
    """Return how far the heads are from their own mean, a scalar of 0 or more; 0 if all agree.

    `head_logits` (B, C, Z, Y, X), (B, C, Z/2, Y/2, X/2), ...: finest first, any floating type, computed in float32.
    `kind`: "kl" or "urpc". `gradient_through_target`: whether the pseudo-label moves towards the heads as well; by
    default it does not for "kl", where it is the target, and does for "urpc", as in the released trainer. Raises
    ValueError for another kind, no heads, or heads that do not belong together.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    heads = _probabilities(head_logits)
    target = torch.stack(heads).mean(dim=0)
    if not (kind == "urpc" if gradient_through_target is None else gradient_through_target):
        target = target.detach()
    return torch.stack([KINDS[kind](target, head) for head in heads]).sum()


def ramp_up(step: int, n_steps: int, *, highest: float = 0.1) -> float:
    """Return the weight of the unlabelled term, highest * exp(-5 (1 - step / n_steps)^2), `highest` from n_steps on.

    The heads of a net that knows nothing have nothing to teach each other. The default is that of the authors' trainer,
    where n_steps is 100 epochs. Raises ValueError for a negative step or n_steps below 1.
    """
    if step < 0 or n_steps < 1:
        raise ValueError(f"step must be 0 or more and n_steps 1 or more, got {step} and {n_steps}")
    return highest * math.exp(-5 * (1 - min(step / n_steps, 1.0)) ** 2)


def _probabilities(head_logits: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return every head's softmax in float32 at the finest head's resolution."""
    if not head_logits:
        raise ValueError("head_logits must hold one head or more, got none")
    first = tuple(head_logits[0].shape)
    if any(logits.ndim != 5 or tuple(logits.shape[:2]) != first[:2] for logits in head_logits):
        shapes = ", ".join(str(tuple(logits.shape)) for logits in head_logits)
        raise ValueError(f"all heads must be (B, C, Z, Y, X) with the same B and C, got {shapes}")
    soft = [logits.float().softmax(dim=1) for logits in head_logits]
    return [p if p.shape == first else F.interpolate(p, first[2:], mode="trilinear") for p in soft]


def _divergence(target: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Return KL(target || head) for every voxel, (B, Z, Y, X)."""
    return (target * (target.clamp_min(_SMALLEST).log() - head.clamp_min(_SMALLEST).log())).sum(dim=1)


def _kl(target: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    return _divergence(target, head).mean()


def _urpc(target: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    divergence = _divergence(target, head)
    certainty = torch.exp(-divergence)
    weighted, weight = all_reduce_sum(
        torch.stack([(((target - head) ** 2).mean(dim=1) * certainty).mean(), certainty.mean()])
    )
    return weighted / weight + divergence.mean()


KINDS = {"kl": _kl, "urpc": _urpc}
