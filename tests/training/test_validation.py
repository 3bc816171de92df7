"""Validation: a net that knows the answer scores 1, and the score is Dice over all patches together."""

import numpy as np
import pytest
import torch

from flare_lib.ct.labels import IGNORED
from flare_lib.training.validation import validation_dice


class Oracle(torch.nn.Module):
    """Reads the labels off the image; organ 2 is taken for organ 3."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, image):
        labels = image[:, 0].long()
        labels = torch.where(labels == 2, 3, labels)
        return [torch.nn.functional.one_hot(labels, 14).movedim(-1, 1).float()]


def batch(labels):
    target = torch.tensor(labels).reshape(1, 1, 2, -1)
    return {"image": target[:, None].float(), "target": target}


def test_dice_is_taken_over_all_patches_and_organs_in_none_are_left_out():
    batches = [batch([0, 1, 1, 0, 3, 3]), batch([1, 2, 3, 3, 0, 0, 0, 0])]
    net = Oracle().train()
    dice = validation_dice(net, batches)
    assert dice[:3] == pytest.approx([1.0, 0.0, 2 * 4 / (5 + 4)])
    assert np.isnan(dice[3:]).all()
    assert net.training


def test_ignored_voxels_count_neither_for_nor_against_an_organ():
    one = batch([1, 1, 1, 3, 0, 0])
    one["target"][0, 0, 0] = torch.tensor([IGNORED, 1, 1])
    one["target"][0, 0, 1] = torch.tensor([IGNORED, 0, 1])
    dice = validation_dice(Oracle(), [one])
    assert dice[0] == pytest.approx(2 * 2 / (2 + 3))
    assert np.isnan(dice[1:]).all()  # the only voxel of organ 3 is ignored
