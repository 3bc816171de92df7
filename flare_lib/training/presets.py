"""The recipes: all that decides what a training run does, in one frozen value that is stored with the weights."""

from dataclasses import asdict, dataclass, field, replace

from flare_lib.ct.preprocess import Preprocessing
from flare_lib.network.consistency import KINDS

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("poly", "halving")


@dataclass(frozen=True)
class Recipe:
    """One training run.

    `spacing_zyx_mm` is an isotropic or anisotropic voxel size in mm; `patch_size` voxels, ZYX; `mean_hu` and `sd_hu`
    None mean individual normalisation (paper 2.1); `sources` {name: share} says how often a patch comes from which
    kind of person ("label_maps", "phantoms"); `organ_centred` is the share of patches centred on an organ;
    `cut` the share whose scan ends within the patch, as scans do.

    `optimizer` "adamw" or the paper's "sgd" (Nesterov momentum 0.99); `schedule` "poly", (1 - step / n_steps)^0.9 as
    the paper's text and trainer say, or "halving", every `halve_every` steps, as its Tables 2 and 3 say. `n_unlabelled`
    patches of unlabelled CTs a step add `consistency` ("kl" or "urpc", see `network.consistency`), whose weight rises
    to `consistency_weight` over `ramp_up_steps`. `augmentation`: the probability of each of the paper's five (painted
    persons are deformed and drawn anew anyway), 0 in the last `plain_steps` (paper 2.3: the last 10 epochs of fine).
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
    organ_centred: float = 0.0
    cut: float = 0.4
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
    plain_steps: int = 0

    def __post_init__(self) -> None:
        if self.stage not in ("coarse", "fine"):
            raise ValueError(f"stage must be 'coarse' or 'fine', got {self.stage!r}")
        if self.n_steps < 1 or self.batch_size < 1:
            raise ValueError(f"n_steps and batch_size must be 1 or more, got {self.n_steps} and {self.batch_size}")
        for name, known in {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "consistency": KINDS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to a CT before this net sees it."""
        return Preprocessing(self.spacing_zyx_mm, mean_hu=self.mean_hu, sd_hu=self.sd_hu)

    def to_dict(self) -> dict:
        """Return plain values for JSON."""
        return asdict(self)


# The first weights: narrow nets and coarse voxels, trained on two CPU cores (coarse 0.89 hours, fine 1.8) on painted
# CTs alone; the fine one in two runs, of 1,000 and 2,500 steps, see its card.
# AdamW instead of the paper's SGD: it gets further in a few thousand steps.
PRESETS: dict[str, Recipe] = {
    "first-coarse": Recipe("coarse", (5.0, 5.0, 5.0), (48, 64, 80), n_steps=2500),
    "first-fine": Recipe(
        "fine", (3.0, 3.0, 3.0), (64, 64, 80), n_steps=3500, learning_rate=1e-3, organ_centred=0.8, cut=0.25
    ),
    # a minute on two cores, on phantoms, to watch a net learn (notebook 04)
    "course-coarse": Recipe(
        "coarse",
        (9.0, 9.0, 9.0),
        (24, 32, 40),
        n_steps=300,
        learning_rate=4e-3,
        warm_up_steps=10,
        sources={"phantoms": 1.0},
        features_per_stage=(8, 16, 32, 48),
        strides=((2, 2, 2),) * 3,
        n_heads=3,
        n_unlabelled=2,
        ramp_up_steps=150,
    ),
}


def preset(name: str, **changes) -> Recipe:
    """Return a preset with some values changed; ValueError for an unknown preset or value."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    try:
        return replace(PRESETS[name], **changes)
    except TypeError:
        known = ", ".join(asdict(PRESETS[name]))
        raise ValueError(f"a recipe's values are {known}, got {', '.join(changes)}") from None
