"""How well a net is doing during training: the Dice on patches of cases it is not trained on.

The patches are the same every time, so that the figures within a run can be compared. Like nnU-Net's online
evaluation, it sees patches, not whole CTs: a guide, not a result.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from flare_lib.ct.labels import IGNORED, N_CLASSES, joint_histogram
from flare_lib.machine.precision import FLOAT32
from flare_lib.network.kernels import inferring

N_PATCHES = 16


def validation_dice(net: nn.Module, batches: Sequence[dict[str, torch.Tensor]]) -> np.ndarray:
    """Return the Dice of each organ over all patches together: float64 (13,), NaN for an organ that is in none.

    Voxels whose target is `IGNORED` do not count. `batches` as `Patches` yields them; without any, all are NaN. The net
    is put into eval mode and afterwards back.
    """
    device = next(net.parameters()).device
    counts = np.zeros((N_CLASSES, N_CLASSES), np.int64)  # [found, true]
    was_training = net.training
    net.eval()
    with inferring(device, FLOAT32):
        for batch in batches:
            found = net(batch["image"].to(device))[0].argmax(dim=1).cpu()
            counted = batch["target"] != IGNORED  # the others become background, found as such: it has no Dice here
            counts += joint_histogram((found * counted).numpy(), (batch["target"] * counted).numpy())
    net.train(was_training)
    true = counts.sum(axis=0)[1:]
    dice = 2 * np.diagonal(counts)[1:] / np.maximum(counts.sum(axis=1)[1:] + true, 1)
    return np.where(true > 0, dice, np.nan)
