"""Recipes: everything that determines a training run, in one frozen value that is stored with the weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from flare_lib.ct.preprocess import Preprocessing
from flare_lib.network.unet import UNet
from flare_lib.synthetic.painting import NOISE_HU
from flare_lib.synthetic.tissues import PHASE_PROBABILITIES
from flare_lib.training.recipe_rules import STAGES, check_values


@dataclass(frozen=True)
class Recipe:
    """One training run.

    `spacing_zyx_mm` is the voxel size in mm, isotropic or not; `patch_size` is in voxels, ZYX; `mean_hu` and `sd_hu`
    are None for individual normalisation (paper 2.1). `sources` {name: share} says how often a patch comes from which
    source: "cases" (real CTs), "pseudo_labelled" (real CTs that nets have labelled; without a share of their own they
    are cases like the others), or persons to paint, "label_maps" and "phantoms" (`n_phantoms` of them). `n_between`
    more people lie between those of the label maps (`synthetic.morphing`).

    `foreground_share` is the share of patches centred on an organ; `cut` the share of painted patches in which the scan
    ends, as scans do; `narrow` the share that shows a field of 130 to 260 mm with air around it. A painted person
    grows and shrinks at `growths` places on average (`synthetic.variation`), lacks organs with the probabilities
    `missing` {structure: probability}, is in a contrast phase with the probabilities `phases`
    (`synthetic.tissues.PHASES`), and is scanned with noise within `noise_hu`. `margin_mm`: how far around organs the
    fine stage's cases are cropped (paper 2.1).

    `optimizer` is "adamw" or the paper's "sgd" (Nesterov momentum 0.99); `schedule` is "poly", (1 - step / n_steps)^0.9
    as in the paper's text and trainer, or "halving" every `halve_every` steps, as in its Tables 2 and 3. If a step has
    `n_unlabelled` patches of unlabelled CTs, they add `consistency` ("kl" or "urpc", see `network.consistency`) with a
    weight that rises to `consistency_weight` over `ramp_up_steps`. `augmentation`: the probability of each of the
    paper's five (painted persons are deformed and painted afresh anyway), 0 in the last `n_steps_without_augmentation`
    (paper 2.3: the last 10 epochs of fine). `appearance`: how strongly grey values are changed besides, from 0 to 1
    (`data.appearance`).

    A step sums the gradients of `accumulate` batches. Every `validate_every` steps (0: never) the net's Dice is
    measured on patches of sources held out: `n_validation` of the cases or, without cases, of the label maps' people
    or, if that is 0, phantoms that training never draws. `keep`: the "last" weights of the run, or the "best" on
    these. With an `ema_decay` above 0, what is validated and kept is the weights' moving average (`training.ema`).

    Raises ValueError for an impossible value: see `recipe_rules`.
    """

    stage: str
    spacing_zyx_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    n_steps: int
    batch_size: int = 2
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-3
    warm_up_steps: int = 50
    mean_hu: float | None = None
    sd_hu: float | None = None
    foreground_share: float = 0.0
    cut: float = 0.4
    narrow: float = 0.0
    growths: float = 0.0
    missing: dict[str, float] = field(default_factory=dict)
    phases: tuple[float, float, float, float] = PHASE_PROBABILITIES
    noise_hu: tuple[float, float] = NOISE_HU
    sources: dict[str, float] = field(default_factory=lambda: {"label_maps": 1.0})
    features_per_stage: tuple[int, ...] = (16, 32, 64, 96, 128)
    strides: tuple[tuple[int, int, int], ...] = ((2, 2, 2),) * 4
    n_heads: int = 4
    seed: int = 0
    optimizer: str = "adamw"
    schedule: str = "poly"
    halve_every: int = 50_000
    n_unlabelled: int = 0
    consistency: str = "kl"
    consistency_weight: float = 0.1
    ramp_up_steps: int = 25_000
    augmentation: float = 0.0
    n_steps_without_augmentation: int = 0
    appearance: float = 0.0
    accumulate: int = 1
    margin_mm: float = 40.0
    n_phantoms: int = 48
    n_between: int = 0
    n_validation: int = 0
    validate_every: int = 0
    keep: str = "last"
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        check_values({field.name: getattr(self, field.name) for field in fields(self)})

    def new_net(self) -> UNet:
        """Return an untrained net for this recipe, its weights drawn with the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return UNet(features_per_stage=self.features_per_stage, strides=self.strides, n_heads=self.n_heads)

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to a CT before this net sees it."""
        return Preprocessing(self.spacing_zyx_mm, mean_hu=self.mean_hu, sd_hu=self.sd_hu)

    def to_dict(self) -> dict:
        """Return the recipe as plain values for JSON; NumPy's numbers become Python's."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    """Return a recipe's value without NumPy numbers, however deep."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


_EPOCH = 250  # steps, as nnU-Net counts them
_PAPER = Recipe(
    "coarse",
    (3.0, 2.0, 2.0),
    (96, 128, 160),
    n_steps=500 * _EPOCH,
    learning_rate=0.01,
    weight_decay=3e-5,
    warm_up_steps=0,
    foreground_share=1 / 3,
    sources={"cases": 1.0},
    features_per_stage=(32, 64, 128, 256, 320, 320),
    strides=((2, 2, 2),) * 4 + ((1, 2, 2),),
    optimizer="sgd",
    halve_every=200 * _EPOCH,
    n_unlabelled=2,
    ramp_up_steps=100 * _EPOCH,
    augmentation=0.2,
    n_validation=10,
    validate_every=_EPOCH,
)
# The recipes below use AdamW instead of the paper's SGD: it gets further in a few thousand steps.
_RELEASE = Recipe(
    "coarse",
    (5.0, 5.0, 5.0),
    (48, 64, 80),
    n_steps=2500,
    sources={"label_maps": 0.75, "phantoms": 0.25},
    narrow=0.35,
    growths=5.0,
    missing={"gallbladder": 0.12, "kidney_right": 0.03, "kidney_left": 0.03, "spleen": 0.03},
    phases=(0.4, 0.15, 0.33, 0.12),
    noise_hu=(3.0, 35.0),
    ema_decay=0.98,  # over about 50 steps
)
_RELEASE_FINE = replace(
    _RELEASE,
    stage="fine",
    spacing_zyx_mm=(3.0, 3.0, 3.0),
    patch_size=(64, 64, 80),
    n_steps=6500,
    learning_rate=1e-3,
    sources={"label_maps": 0.85, "phantoms": 0.15},
    n_between=30,
    foreground_share=0.85,
    cut=0.3,
)
_REAL: dict[str, Any] = {
    "n_steps": 340,
    "learning_rate": 1e-4,
    "warm_up_steps": 20,
    "augmentation": 0.2,
    "n_validation": 1,
    "validate_every": 20,
    "keep": "best",
}
_COURSE = Recipe(
    "coarse",
    (9.0, 9.0, 9.0),
    (24, 32, 40),
    n_steps=300,
    learning_rate=1.5e-2,
    warm_up_steps=10,
    sources={"phantoms": 1.0},
    n_phantoms=12,
    features_per_stage=(16, 24, 32, 48),  # starting from 8 features, 300 steps find the liver and little else
    strides=((2, 2, 2),) * 3,
    n_heads=3,
    n_unlabelled=2,
    ramp_up_steps=150,
)

PRESETS: dict[str, dict[str, Recipe]] = {
    # Tables 2 and 3, and the authors' code where these say nothing; 8.5 and 2.5 hours on the paper's A100
    "paper": {
        "coarse": _PAPER,
        "fine": replace(
            _PAPER,
            stage="fine",
            spacing_zyx_mm=(2.0, 1.5, 1.5),
            n_steps=150 * _EPOCH,
            learning_rate=1e-3,
            halve_every=150 * _EPOCH,
            n_unlabelled=0,
            n_steps_without_augmentation=10 * _EPOCH,
        ),
    },
    # the packaged weights' first round: a narrow net, large voxels, hours on two CPU cores, painted CTs alone
    "release": {
        "coarse": _RELEASE,
        "fine": _RELEASE_FINE,
    },
    # their second round, from `release`: a quarter of the patches are of real CTs that these weights have labelled; the
    # fine net sees all patches in a random appearance
    "real": {
        "coarse": replace(_RELEASE, sources={"pseudo_labelled": 0.25, "label_maps": 0.55, "phantoms": 0.2}, **_REAL),
        "fine": replace(
            _RELEASE_FINE,
            sources={"pseudo_labelled": 0.25, "label_maps": 0.65, "phantoms": 0.1},
            **(_REAL | {"n_steps": 1000, "learning_rate": 2e-4, "appearance": 1.0}),
        ),
    },
    # a minute on two cores, to watch a net learn (notebooks 04 and 05)
    "course": {
        "coarse": _COURSE,
        "fine": replace(
            _COURSE,
            stage="fine",
            spacing_zyx_mm=(6.0, 6.0, 6.0),
            n_unlabelled=0,
            n_steps=250,
            foreground_share=0.8,
            cut=0.0,
        ),
    },
}


def preset(name: str, stage: str, /, **changes: Any) -> Recipe:
    """Return a preset's recipe for a stage with some values changed, but not the stage.

    Raises ValueError for any name that is unknown.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {stage!r}")
    known = [field.name for field in fields(Recipe) if field.name != "stage"]
    if unknown := [change for change in changes if change not in known]:
        raise ValueError(f"a recipe's values are {', '.join(known)}, got {', '.join(unknown)}")
    return replace(PRESETS[name][stage], **changes)
