"""Patches to learn from: an endless, reproducible stream of painted CTs with their organ labels.

Patch number i depends on the seed and i alone, so a stream can be taken up again anywhere. A person is picked, deformed
onto the patch's own grid (never a whole CT: painting 50,000 voxels more than are used is time lost), sometimes cut as a
scan is cut at its ends, painted, clipped and normalised.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from flare_lib.ct.preprocess import clip_hu, normalize
from flare_lib.data.augment import augment, draw_augmentation
from flare_lib.data.painting import paint
from flare_lib.data.structures import Structures, deform, organ_labels
from flare_lib.training.presets import Recipe


def make_patch(person: Structures, recipe: Recipe, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return one patch of a deformed, painted person: normalised image float32 (Z, Y, X), labels uint8 (Z, Y, X)."""
    seen = deform(person, recipe.patch_size, recipe.spacing_zyx_mm, rng, center_zyx_mm=_center(person, recipe, rng))
    air = next(i for i, name in seen.names.items() if name == "air")
    first, last = _scan_ends(recipe, rng)
    seen.array_zyx[:first] = air
    seen.array_zyx[last:] = air
    hu = clip_hu(paint(seen, rng), recipe.preprocessing.window_hu)
    hu[:first] = hu[last:] = recipe.preprocessing.window_hu[0]
    if recipe.mean_hu is None:
        mean, sd = _individual(hu[first:last], rng)
    else:
        mean, sd = recipe.mean_hu, recipe.sd_hu
    return normalize(hu, mean, sd), organ_labels(seen)


def _center(person: Structures, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """Draw the point that the patch is centred on, in mm: near an organ, or anywhere along the trunk's axis."""
    spacing = np.asarray(person.spacing_zyx_mm)
    size_mm = np.asarray(person.array_zyx.shape) * spacing
    patch_mm = np.asarray(recipe.patch_size) * recipe.spacing_zyx_mm
    if rng.random() < recipe.organ_centred:
        every = np.maximum(1, np.rint(4.0 / spacing)).astype(int)  # a grid of 4 mm finds even an adrenal gland
        thinned = Structures(
            person.array_zyx[:: every[0], :: every[1], :: every[2]], person.names, person.spacing_zyx_mm
        )
        labels = organ_labels(thinned)
        where = np.argwhere(labels == rng.choice(np.unique(labels)[1:]))
        return where[rng.integers(len(where))] * every * spacing + rng.uniform(-0.3, 0.3, 3) * patch_mm
    height = rng.uniform(-0.1, 1.1) * size_mm[0]
    return np.array([height, *(size_mm[1:] / 2 + rng.uniform(-0.1, 0.1, 2) * patch_mm[1:])])


def _scan_ends(recipe: Recipe, rng: np.random.Generator) -> tuple[int, int]:
    """Draw the first and last + 1 slice of the patch that the scan covers; at least a quarter of the patch is seen."""
    n = recipe.patch_size[0]
    first = int(rng.integers(0, n // 3)) if rng.random() < recipe.cut / 2 else 0
    last = int(rng.integers(n - n // 3, n)) if rng.random() < recipe.cut / 2 else n
    return first, last


def _individual(hu: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Mean and SD of a patch, unsettled a little: at inference they are those of the whole foreground."""
    return float(hu.mean() + rng.normal(0, 20)), float(hu.std() * np.exp(rng.normal(0, 0.1)))


def cut_patch(array_zyx: np.ndarray, patch_size: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Return a copy of a random patch (Z, Y, X); a volume that is smaller is surrounded by its lowest value."""
    room = [max(0, p - n) for p, n in zip(patch_size, array_zyx.shape, strict=True)]
    before = [int(rng.integers(r + 1)) for r in room]
    start = [int(rng.integers(max(0, n - p) + 1)) for p, n in zip(patch_size, array_zyx.shape, strict=True)]
    part = array_zyx[tuple(slice(a, a + p) for a, p in zip(start, patch_size, strict=True))]
    padding = [(b, r - b) for b, r in zip(before, room, strict=True)]
    return np.pad(part, padding, constant_values=array_zyx.min()) if any(room) else part.copy()


class PaintedPatches(IterableDataset):
    """The stream of batches {"image": float32 (B, 1, Z, Y, X), "target": int64 (B, Z, Y, X)} from batch `start` on.

    `persons` {kind: Structures with a completed body}; the kinds are drawn by `recipe.sources`. `unlabelled`: CTs as
    the net sees them, preprocessed float32 (Z, Y, X); with `recipe.n_unlabelled` patches of them a batch also has
    "unlabelled", (U, 1, Z, Y, X). Raises ValueError when the recipe asks for persons or CTs that are not there.
    """

    def __init__(
        self,
        persons: dict[str, Sequence[Structures]],
        recipe: Recipe,
        *,
        unlabelled: Sequence[np.ndarray] = (),
        start: int = 0,
    ) -> None:
        missing = [kind for kind, share in recipe.sources.items() if share > 0 and not persons.get(kind)]
        if missing:
            raise ValueError(f"the recipe draws patches from {', '.join(recipe.sources)}, got none of {missing}")
        if recipe.n_unlabelled and not unlabelled:
            raise ValueError(f"the recipe needs unlabelled CTs ({recipe.n_unlabelled} patches a step), got none")
        self.persons, self.recipe, self.unlabelled, self.start = persons, recipe, unlabelled, start

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        """Return batch `number` of the stream."""
        images, targets = [], []
        kinds = list(self.recipe.sources)
        shares = np.asarray([self.recipe.sources[kind] for kind in kinds])
        for k in range(self.recipe.batch_size):
            rng = np.random.default_rng([self.recipe.seed, number, k])
            persons = self.persons[kinds[rng.choice(len(kinds), p=shares / shares.sum())]]
            image, target = make_patch(persons[rng.integers(len(persons))], self.recipe, rng)
            if self.recipe.augmentation and number < self.recipe.n_steps - self.recipe.plain_steps:
                drawn = draw_augmentation(rng, probability=self.recipe.augmentation)
                image, target = augment(image, target, drawn)
            images.append(image)
            targets.append(target)
        batch = {
            "image": torch.from_numpy(np.stack(images))[:, None],
            "target": torch.from_numpy(np.stack(targets).astype(np.int64)),
        }
        if self.recipe.n_unlabelled:
            rng = np.random.default_rng([self.recipe.seed, number, 0x0B])
            cuts = [
                cut_patch(self.unlabelled[rng.integers(len(self.unlabelled))], self.recipe.patch_size, rng)
                for _ in range(self.recipe.n_unlabelled)
            ]
            batch["unlabelled"] = torch.from_numpy(np.stack(cuts))[:, None]
        return batch

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = self.start + first
        while True:
            yield self.batch(number)
            number += step


def loader(patches: PaintedPatches, *, n_workers: int = 1) -> DataLoader:
    """Return a loader that makes patches in the background; 0 workers makes them in place."""
    return DataLoader(patches, batch_size=None, num_workers=n_workers, prefetch_factor=4 if n_workers else None)
