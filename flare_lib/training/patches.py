"""Patches to learn from: an endless, reproducible stream of images with their organ labels.

Patch number i depends only on the seed and i, so a stream can be resumed anywhere. There are two kinds of source. A
*person* is deformed onto the patch's own grid (never a whole CT, most of which would be painted in vain), sometimes cut
off the way a scan ends, then painted, clipped and normalised. From a *case*, a real CT prepared on disk, a patch is
cut, often around a voxel of an organ, then normalised and augmented. Either may get a random appearance at last.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from flare_lib.ct.preprocess import clip_hu, normalize
from flare_lib.data.appearance import randomize_appearance
from flare_lib.data.augment import Augmentation, augment, draw_augmentation, room_for
from flare_lib.data.prepared import PreparedCase
from flare_lib.machine.distributed import rank_and_count
from flare_lib.machine.extras import check_extra
from flare_lib.machine.processes import can_share_locks
from flare_lib.synthetic.deformation import deform
from flare_lib.synthetic.painting import paint
from flare_lib.synthetic.structures import Structures, organ_labels
from flare_lib.synthetic.variation import draw_growths, remove_organs
from flare_lib.training.recipes import Recipe


def paint_patch(person: Structures, recipe: Recipe, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return one patch of a deformed, painted person: normalised image float32 (Z, Y, X), labels uint8 (Z, Y, X)."""
    places_mm, labels = _organ_places(person)
    center = _center(person, places_mm, labels, recipe, rng)
    growths = draw_growths(places_mm, rng, mean_number=recipe.growths)
    seen = deform(person, recipe.patch_size, recipe.spacing_zyx_mm, rng, center_zyx_mm=center, growths=growths)
    seen = remove_organs(seen, rng, recipe.missing)
    field = _field_of_view(recipe, rng)
    beyond = np.ones(recipe.patch_size, dtype=bool)
    beyond[field] = False
    seen.array_zyx[beyond] = seen.by_name["air"]
    hu = clip_hu(paint(seen, rng, phases=recipe.phases, noise_hu=recipe.noise_hu), recipe.preprocessing.window_hu)
    hu[beyond] = recipe.preprocessing.window_hu[0]
    mean, sd = recipe.mean_hu, recipe.sd_hu
    if mean is None or sd is None:
        mean, sd = _individual(hu[field], rng)
    return normalize(hu, mean, sd), organ_labels(seen)


def _organ_places(person: Structures) -> tuple[np.ndarray, np.ndarray]:
    """Return points inside organs, (n, 3) in mm, with their labels: a 4 mm grid finds even an adrenal gland."""
    spacing = np.asarray(person.spacing_zyx_mm)
    every = np.maximum(1, np.rint(4.0 / spacing)).astype(int)
    thinned = Structures(person.array_zyx[:: every[0], :: every[1], :: every[2]], person.names, person.spacing_zyx_mm)
    labels = organ_labels(thinned)
    where = np.argwhere(labels)
    return where * every * spacing, labels[tuple(where.T)]


def _center(
    person: Structures, places_mm: np.ndarray, labels: np.ndarray, recipe: Recipe, rng: np.random.Generator
) -> np.ndarray:
    """Draw the point to centre the patch on, in mm: near an organ if there is any, or along the axis of the trunk."""
    size_mm = np.asarray(person.array_zyx.shape) * person.spacing_zyx_mm
    patch_mm = np.asarray(recipe.patch_size) * recipe.spacing_zyx_mm
    if rng.random() < recipe.foreground_share and len(labels):  # a head or a leg has no organ
        of_organ = places_mm[labels == rng.choice(np.unique(labels))]
        return of_organ[rng.integers(len(of_organ))] + rng.uniform(-0.3, 0.3, 3) * patch_mm
    height = rng.uniform(-0.1, 1.1) * size_mm[0]
    return np.array([height, *(size_mm[1:] / 2 + rng.uniform(-0.1, 0.1, 2) * patch_mm[1:])])


def _field_of_view(recipe: Recipe, rng: np.random.Generator) -> tuple[slice, slice, slice]:
    """Draw which part of the patch the scan covers: at least a third of its slices (one or two are never cut) and, in a
    narrow field, a square.

    The square is 130 to 260 mm wide, like a field that a radiologist has narrowed to the spine.
    """
    n = recipe.patch_size[0]
    first = int(rng.integers(0, n // 3)) if rng.random() < recipe.cut / 2 and n > 2 else 0
    last = int(rng.integers(n - n // 3, n)) if rng.random() < recipe.cut / 2 and n > 2 else n
    field = [slice(first, last), slice(None), slice(None)]
    if recipe.narrow and rng.random() < recipe.narrow:
        width_mm = rng.uniform(130, 260)
        for axis in (1, 2):
            n = recipe.patch_size[axis]
            width = min(n, round(width_mm / recipe.spacing_zyx_mm[axis]))
            start = int(rng.integers(0, n - width + 1))
            field[axis] = slice(start, start + width)
    z, y, x = field
    return z, y, x


def _individual(hu: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return a patch's mean and SD with a little jitter: at inference they are those of the whole foreground.

    A patch that shows nothing but air, all of it at the window's lower end, is given an SD of 1.
    """
    mean, sd = float(hu.mean() + rng.normal(0, 20)), float(hu.std() * np.exp(rng.normal(0, 0.1)))
    return mean, sd or 1.0


def cut_patch(
    case: PreparedCase, recipe: Recipe, rng: np.random.Generator, what: Augmentation | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return one patch of a case: normalised image float32 (Z, Y, X), labels uint8 (Z, Y, X), all 0 without labels.

    Labels that are `IGNORED` stay so; what lies outside the case is air, and known to be background.

    The share `recipe.foreground_share` of patches is centred on a voxel of an organ, each organ equally often; the rest
    lie anywhere. A patch stays as far inside the case as its size allows, with air around a smaller case. The region
    that is cut is larger than the patch, to hold whatever an augmentation rotates or shrinks into it.
    """
    what = what or Augmentation()
    size = np.asarray(recipe.patch_size)
    room = np.asarray(case.image_hu.shape) - size  # below 0 if the case is smaller
    around = None
    if case.class_locations and rng.random() < recipe.foreground_share:
        locations = case.class_locations[rng.choice(list(case.class_locations))]
        around = locations[rng.integers(len(locations))] - size // 2
    anywhere = rng.integers(np.minimum(room, 0), np.maximum(room, 0) + 1)
    start = anywhere if around is None else np.clip(around, np.minimum(room, 0), np.maximum(room, 0))
    region = np.array(room_for(what, recipe.patch_size))
    start = start - (region - size) // 2
    hu = _cut(case.image_hu, start, region, recipe.preprocessing.window_hu[0])
    mean, sd = recipe.mean_hu, recipe.sd_hu
    if mean is None or sd is None:
        mean, sd = case.moments.mean, case.moments.sd or 1.0
    labels = np.zeros(region, np.uint8) if case.labels is None else _cut(case.labels, start, region, 0)
    return augment(normalize(hu, mean, sd), labels, what, shape_zyx=recipe.patch_size)


def _cut(array_zyx: np.ndarray, start: np.ndarray, shape: np.ndarray, fill: float) -> np.ndarray:
    """Return a copy of the region that begins at `start`, with `fill` where it reaches outside."""
    region = np.full(shape, fill, dtype=array_zyx.dtype)
    low, high = np.maximum(start, 0), np.minimum(start + shape, array_zyx.shape)
    if (low < high).all():
        inside = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
        region[inside] = array_zyx[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return region


class Patches(IterableDataset):
    """The stream of batches {"image": float32 (B, 1, Z, Y, X), "target": uint8 (B, Z, Y, X)} from batch `start` on.

    `sources` {kind: persons with a completed body, or prepared cases}; the kinds are drawn as `recipe.sources` says.
    `unlabelled`: prepared cases; if `recipe.n_unlabelled` patches are drawn from them, a batch also has "unlabelled",
    (U, 1, Z, Y, X). With n processes (`machine.distributed`) a batch is n times as large, and each gets its own part.
    Raises ValueError if the recipe asks for sources or CTs that are missing, MissingExtra if it augments and MONAI is
    not installed.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[Structures | PreparedCase]],
        recipe: Recipe,
        *,
        unlabelled: Sequence[PreparedCase] = (),
        start: int = 0,
    ) -> None:
        missing = [kind for kind, share in recipe.sources.items() if share > 0 and not sources.get(kind)]
        if missing:
            raise ValueError(f"the recipe draws patches from {', '.join(recipe.sources)}, got none of {missing}")
        if recipe.n_unlabelled and not unlabelled:
            raise ValueError(f"the recipe needs unlabelled CTs ({recipe.n_unlabelled} patches a step), got none")
        if recipe.augmentation:
            check_extra("monai", "train")
        self.sources, self.recipe, self.unlabelled, self.start = sources, recipe, unlabelled, start
        self.part = rank_and_count()[0]  # now: the background processes that make patches could not tell

    def starting_at(self, number: int) -> "Patches":
        """Return the same stream from batch `number` on."""
        moved = copy.copy(self)
        moved.start = number
        return moved

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        """Return batch `number` of the stream, counted from 0 whatever `start` is."""
        recipe, mine = self.recipe, range(self.part * self.recipe.batch_size, (self.part + 1) * self.recipe.batch_size)
        images, targets = zip(*(self._labelled(number, k) for k in mine), strict=True)
        batch = {
            "image": torch.from_numpy(np.stack(images))[:, None],
            "target": torch.from_numpy(np.stack(targets)),
        }
        if recipe.n_unlabelled:
            mine = range(self.part * recipe.n_unlabelled, (self.part + 1) * recipe.n_unlabelled)
            batch["unlabelled"] = torch.from_numpy(np.stack([self._unlabelled(number, k) for k in mine]))[:, None]
        return batch

    def _labelled(self, number: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return patch k of batch `number`, image and labels."""
        rng = np.random.default_rng([self.recipe.seed, number, k])
        kinds = list(self.recipe.sources)
        shares = np.asarray([self.recipe.sources[kind] for kind in kinds])
        of_kind = self.sources[kinds[rng.choice(len(kinds), p=shares / shares.sum())]]
        source = of_kind[int(rng.integers(len(of_kind)))]
        if isinstance(source, PreparedCase):
            image, target = cut_patch(source, self.recipe, rng, self._augmentation(number, rng))
        else:
            image, target = augment(*paint_patch(source, self.recipe, rng), self._augmentation(number, rng))
        if self.recipe.appearance:
            image = randomize_appearance(image, rng, strength=self.recipe.appearance)
        return image, target

    def _unlabelled(self, number: int, k: int) -> np.ndarray:
        """Return unlabelled patch k of batch `number`."""
        rng = np.random.default_rng([self.recipe.seed, number, k, 0x0B])
        case = self.unlabelled[int(rng.integers(len(self.unlabelled)))]
        return cut_patch(case, self.recipe, rng, self._augmentation(number, rng))[0]

    def _augmentation(self, number: int, rng: np.random.Generator) -> Augmentation:
        """Draw the augmentation of a patch of batch `number`: none in the last steps or if the recipe has none."""
        last_steps = (self.recipe.n_steps - self.recipe.n_steps_without_augmentation) * self.recipe.accumulate
        if not self.recipe.augmentation or number >= last_steps:
            return Augmentation()
        return draw_augmentation(rng, probability=self.recipe.augmentation)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = self.start + first
        while True:
            yield self.batch(number)
            number += step


def loader(
    patches: Patches, *, n_workers: int = 1, on_note: Callable[[str], None] | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches without end, made in the background by `n_workers` processes; by this one with 0.

    They come through a pipe, as arrays: tensors would take memory that processes share, and a container has little. If
    it has no room for the lock of that pipe either, this process makes them, and `on_note` is called with a note.
    """
    if n_workers and not can_share_locks():
        n_workers = 0
        if on_note:
            on_note("patches are made between the steps: other processes need a /dev/shm to write to")
    ahead = 4 if n_workers else None
    made = DataLoader(
        patches,
        batch_size=None,
        num_workers=n_workers,
        prefetch_factor=ahead,
        collate_fn=_as_arrays,  # type: ignore[arg-type]  # without a batch size it is given what the stream yields
    )
    for arrays in made:
        yield {name: torch.from_numpy(array) for name, array in arrays.items()}


def _as_arrays(batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in batch.items()}
