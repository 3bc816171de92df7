"""The weights of a run that were best on what is held out: early stopping, without stopping early.

A net that goes on learning after its best moment is worse on others in the end, but only the whole run tells which
moment that was. So the run goes on, and the weights of that moment are kept.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flare_lib.network.unet import UNet
from flare_lib.network.weights import TrainedNet, load_trained, pair_of, save_trained


class Best:
    """The best weights so far: `path_stem`.safetensors and its card, which says their validation Dice.

    `resumed`: whether the run goes on from a checkpoint; the weights that are there are then its own, unless they are
    damaged. Otherwise they are another run's, and are removed.
    """

    def __init__(self, path_stem: Path, *, resumed: bool) -> None:
        self.path_stem, self.dice = path_stem, float("-inf")
        if not resumed:
            for path in pair_of(path_stem):
                path.unlink(missing_ok=True)
        elif there := self.load():
            self.dice = there.card.get("validation_dice", self.dice)

    def offer(self, net: UNet, card: Mapping[str, Any]) -> None:
        """Keep the net's weights if their card's "validation_dice" is the highest so far; errors: `save_trained`."""
        if card["validation_dice"] > self.dice:
            save_trained(self.path_stem, net, card)
            self.dice = card["validation_dice"]

    def load(self) -> TrainedNet | None:
        """Return the best weights with their card; None if there are none, or none that are whole."""
        try:
            return load_trained(self.path_stem)
        except (OSError, ValueError):
            return None
