"""The best weights of a run: kept when they are, found again when the run goes on, no other run's."""

import pytest
import torch

from flare_lib.network.weights import pair_of
from flare_lib.training.best import Best
from flare_lib.training.recipes import preset

RECIPE = preset(
    "course", "fine", patch_size=(8, 6, 4), features_per_stage=(2, 3), strides=((2, 2, 2),), n_heads=1, n_steps=9
)


def offered(best, dice, value):
    """Offer a net with recognisable weights; return those of the weights kept and their Dice."""
    net = RECIPE.new_net()
    with torch.no_grad():
        net.heads[0].weight.fill_(value)
    card = {"preprocessing": RECIPE.preprocessing.to_dict(), "patch_size": list(RECIPE.patch_size)}
    best.offer(net, card | {"validation_dice": dice})
    kept = best.load()
    return kept.net.heads[0].weight.mean().item(), kept.card["validation_dice"]


def test_the_first_of_the_highest_dice_is_kept(tmp_path):
    best = Best(tmp_path / "run" / "best", resumed=False)
    assert best.load() is None
    seen = [offered(best, dice, value) for value, dice in enumerate((0.5, 0.4, 0.7, 0.7, 0.6))]
    assert seen == [(0, 0.5), (0, 0.5), (2, 0.7), (2, 0.7), (2, 0.7)]


def test_a_run_that_goes_on_keeps_what_it_had(tmp_path):
    offered(Best(tmp_path / "best", resumed=False), 0.7, 1)
    resumed = Best(tmp_path / "best", resumed=True)
    assert offered(resumed, 0.6, 2) == (1, 0.7)
    assert offered(resumed, 0.8, 3) == (3, 0.8)


def test_another_runs_weights_and_damaged_ones_do_not_count(tmp_path):
    offered(Best(tmp_path / "best", resumed=False), 0.7, 1)
    assert offered(Best(tmp_path / "best", resumed=False), 0.2, 2) == (2, 0.2)
    Best(tmp_path / "best", resumed=False)
    assert not any(path.exists() for path in pair_of(tmp_path / "best"))
    offered(Best(tmp_path / "best", resumed=False), 0.7, 1)
    (tmp_path / "best.safetensors").write_bytes(b"cut off")
    assert offered(Best(tmp_path / "best", resumed=True), 0.3, 4) == pytest.approx((4, 0.3))
