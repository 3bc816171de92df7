"""One training run, from a folder of label maps to weights with their card.

    label maps + phantoms -> bodies -> (fine: mean and SD of the training set) -> net -> loop -> weights + card

Coarse starts from nothing, fine from the coarse weights (paper 2.3).
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from flare_lib.ct.files import SUFFIXES, load_ct
from flare_lib.ct.preprocess import find_foreground
from flare_lib.ct.roi import crop_volume
from flare_lib.data.persons import embody, find_persons, load_person
from flare_lib.data.phantom import make_phantom
from flare_lib.data.structures import Structures
from flare_lib.network.unet import UNet
from flare_lib.network.weights import fill, load_trained, save_trained
from flare_lib.training.loop import train
from flare_lib.training.patches import PaintedPatches, make_patch
from flare_lib.training.presets import Recipe

BODIES_PER_PERSON = 4
N_PHANTOMS = 48


def gather_persons(label_maps: str | Path, recipe: Recipe) -> dict[str, list[Structures]]:
    """Return the persons a recipe draws from: `label_maps` (a folder, see `data.persons`) and phantoms.

    Only the kinds with a share above 0 are made. Raises FileNotFoundError for a folder without label maps.
    """
    persons: dict[str, list[Structures]] = {}
    if recipe.sources.get("label_maps"):
        loaded = [load_person(path) for path in find_persons(label_maps)]
        persons["label_maps"] = [b for k, p in enumerate(loaded) for b in embody(p, BODIES_PER_PERSON, seed=k)]
    if recipe.sources.get("phantoms"):
        persons["phantoms"] = [make_phantom(recipe.seed * 1000 + k) for k in range(N_PHANTOMS)]
    return persons


def training_mean_and_sd(
    persons: dict[str, Sequence[Structures]], recipe: Recipe, *, n_patches: int = 64
) -> tuple[float, float]:
    """Return mean and SD in HU over painted patches, clipped to the window: the fine stage's global normalisation."""
    in_hu = replace(recipe, mean_hu=0.0, sd_hu=1.0, cut=0.0)
    everyone = [person for kind in persons.values() for person in kind]
    sums = np.zeros(3)
    for k in range(n_patches):
        rng = np.random.default_rng([recipe.seed, 0xC7, k])
        hu = make_patch(everyone[k % len(everyone)], in_hu, rng)[0].astype(np.float64)
        sums += hu.size, hu.sum(), (hu**2).sum()
    mean = sums[1] / sums[0]
    return float(mean), float(np.sqrt(sums[2] / sums[0] - mean**2))


def load_unlabelled(folder: str | Path, recipe: Recipe) -> list[np.ndarray]:
    """Load every CT of a folder (.nii, .nii.gz) as the net sees it: foreground, window, spacing, normalisation.

    Raises FileNotFoundError for a folder without CTs, and what `load_ct` raises.
    """
    paths = sorted(path for path in Path(folder).glob("*") if path.name.lower().endswith(SUFFIXES))
    if not paths:
        raise FileNotFoundError(f"{folder} must hold CTs (.nii or .nii.gz), got none")
    cts = map(load_ct, paths)
    return [recipe.preprocessing.apply(crop_volume(ct, find_foreground(ct.array_zyx))).array_zyx for ct in cts]


def run(
    recipe: Recipe,
    *,
    label_maps: str | Path,
    folder: str | Path,
    unlabelled: str | Path | None = None,
    init: str | Path | None = None,
    device: str | torch.device = "cpu",
    n_workers: int = 1,
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """Train one stage and write `folder/{stage}.safetensors` and `.json`; returns the stem of the two.

    Log and checkpoint go to `folder/{stage}/`, so that both stages of a pair share a folder.

    `unlabelled`: a folder of CTs for the consistency of the heads, needed when the recipe has `n_unlabelled`.
    `init`: the weights to start from (strict: same names, same shapes); a fine recipe without mean and SD gets those of
    its training set. Stopped, it goes on from its last checkpoint when it is called again.
    """
    folder = Path(folder)
    start = None if init is None else load_trained(init).net.state_dict()  # a wrong path is told before any work
    persons = gather_persons(label_maps, recipe)
    if recipe.stage == "fine" and recipe.mean_hu is None:
        mean, sd = training_mean_and_sd(persons, recipe)
        recipe = replace(recipe, mean_hu=round(mean, 2), sd_hu=round(sd, 2))
    torch.manual_seed(recipe.seed)
    net = UNet(features_per_stage=recipe.features_per_stage, strides=recipe.strides, n_heads=recipe.n_heads)
    if start is not None:
        fill(net, start, source=init)
    cts = [] if unlabelled is None else load_unlabelled(unlabelled, recipe)
    train(
        net,
        PaintedPatches(persons, recipe, unlabelled=cts),
        recipe,
        folder=folder / recipe.stage,
        device=device,
        n_workers=n_workers,
        on_step=on_step,
    )
    card = {
        "preprocessing": recipe.preprocessing.to_dict(),
        "patch_size": list(recipe.patch_size),
        "recipe": recipe.to_dict(),
        "started_from": None if init is None else Path(init).name,
        "trained_until": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    stem = folder / recipe.stage
    save_trained(stem, net.cpu().eval(), card)
    return stem
