"""Sliding window: show a large image to a net patch by patch, and average its answers where patches overlap.

The answer comes out in slabs of finished slices, from the first slice to the last: a slice is finished once no later
tile touches it. So only about one patch height of scores is ever held in memory, however long the patient is.

References: nnU-Net (Isensee et al., Nature Methods 2021) for the tile positions and the Gaussian weights;
paper 2 and 4.6 for the tile steps (coarse 1: tiles just touch; fine 0.5: they overlap by half).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch

from flare_lib.ct.volume import Shape, triple
from flare_lib.machine.device import limits_of
from flare_lib.machine.progress import Progress

PredictPatch = Callable[[torch.Tensor], torch.Tensor]
Weights = Literal["uniform", "gaussian"]
Starts = tuple[tuple[int, ...], ...]  # along z, y, x
AxisWeights = tuple[torch.Tensor, ...]  # along z, y, x

SLAB_SLICES = 16  # the most in one slab: the averages of finished slices take extra memory, so only a few at a time


@dataclass(frozen=True)
class Slab:
    """Finished slices of the answer: `scores` float32 (K, z, Y, X), starting at slice `start_z` of the image."""

    start_z: int
    scores: torch.Tensor


def tile_starts(size: int, patch: int, tile_step: float) -> tuple[int, ...]:
    """Return where tiles of `patch` voxels start on an axis of `size` voxels, ascending (nnU-Net's rule).

    There are as few tiles as a step of at most `tile_step` patches (and at least one voxel) allows: the first starts at
    0, the last ends at `size`, the rest are spread evenly between. A size up to the patch takes one tile, at 0.
    Raises ValueError unless size and patch are positive and 0 < tile_step <= 1 (a larger step would leave gaps).
    """
    if size < 1 or patch < 1:
        raise ValueError(f"size and patch must be at least 1 voxel, got {size} and {patch}")
    if not 0 < tile_step <= 1:
        raise ValueError(f"tile_step must be above 0 and at most 1, got {tile_step}")
    if size <= patch:
        return (0,)
    n_steps = math.ceil((size - patch) / max(patch * tile_step, 1))
    return tuple(round((size - patch) / n_steps * i) for i in range(n_steps + 1))


def n_tiles(shape_zyx: Sequence[int], patch_size: Sequence[int], tile_step: float) -> int:
    """Return how many patches `sliding_window` predicts for an image of this shape; errors as in `tile_starts`."""
    return math.prod(len(starts) for starts in _tile_grid(shape_zyx, patch_size, tile_step))


def fitted_patch(
    shape_zyx: Sequence[int], patch_size: Sequence[int], tile_step: float, *, multiple_of: Sequence[int], cap: float
) -> Shape:
    """Return the patch size (z, y, x) with which the fewest voxels are computed in all tiles of an image together.

    Where an image is a little larger than the patch, one larger tile does the work of two or three. Every side is the
    patch's or larger by a multiple of `multiple_of` (the net's strides together), and the patch holds at most `cap`
    times the voxels of the net's own, so 1 returns that. Of sizes that are equally good, the one with the fewest voxels
    is chosen. A larger patch is not what a net was trained on, and its tiles overlap less.
    Raises ValueError for a cap below 1, a patch that is not a multiple of `multiple_of`, and as `tile_starts` does.
    """
    patch, multiples = triple(_checked_patch(patch_size)), triple(multiple_of)
    if not cap >= 1:
        raise ValueError(f"the cap of a fitted patch must be 1 or more patches, got {cap}")
    if any(multiple < 1 or side % multiple for side, multiple in zip(patch, multiples, strict=True)):
        raise ValueError(f"patch_size must be a multiple of {multiples}, got {patch}")
    sides = (_useful_sides(*axis, tile_step) for axis in zip(shape_zyx, patch, multiples, strict=True))
    most = cap * math.prod(patch)
    fitting = (size for size in map(triple, product(*sides)) if math.prod(size) <= most)
    return min(fitting, key=lambda size: (n_tiles(shape_zyx, size, tile_step) * math.prod(size), math.prod(size), size))


def tile_weights(patch_size: Sequence[int], kind: Weights) -> torch.Tensor:
    """Return the weight of each voxel of a patch in the average: float32 (Z, Y, X), positive, at most 1.

    "uniform" is 1 everywhere. "gaussian" is nnU-Net's: SD = patch / 8 around voxel patch // 2, where it is 1; the
    farthest corner is four SDs away along every axis and still counts exp(-24), so no weight is ever 0.
    Raises ValueError for any other kind, or a patch that is not 3 positive sizes.
    """
    return _outer(tuple(_axis_weights(size, kind) for size in _checked_patch(patch_size)))


def sliding_window(
    image: torch.Tensor,
    predict_patch: PredictPatch,
    *,
    patch_size: Sequence[int],
    tile_step: float,
    weights: Weights = "uniform",
    pad_value: float = 0.0,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Iterator[Slab]:
    """Predict an image patch by patch and yield the averaged scores in slabs that cover every slice once, in order.

    `image`: (C, Z, Y, X) or (Z, Y, X); it is never changed. An axis shorter than the patch is padded on both sides with
    `pad_value`, and the padding is cut off again. `predict_patch` gets a copy of one patch, (1, C, z, y, x) with
    (z, y, x) = `patch_size`, on `device` (None: where the image is), to which the image is moved once. It returns
    scores (1, K, z, y, x), for any K that stays the same. They are averaged with `tile_weights(patch_size, weights)` on
    the device they arrive on, which is also where the slabs are. `tile_step` is a fraction of the patch.
    `progress(tiles done, tiles in total)` is called after every tile.

    Held in memory: the scores of patch_size[0] slices, and the slab being handed out, of at most `SLAB_SLICES`.
    Raises at once TypeError for an image that is no tensor and ValueError for an image, patch, step or weights that do
    not fit; while iterating, TypeError for scores that are no tensor (a net with several heads gives a list),
    ValueError for scores of the wrong shape and MemoryError for a device that has no room for the image.
    Source: paper 2 (Fig. 1) and 4.6.
    """
    if not isinstance(image, torch.Tensor):
        raise TypeError(f"image must be a tensor, got {type(image).__name__}")
    if image.ndim not in (3, 4):
        raise ValueError(f"image must be (C, Z, Y, X) or (Z, Y, X), got shape {tuple(image.shape)}")
    image = image if image.ndim == 4 else image[None]
    patch_size = _checked_patch(patch_size)
    starts = _tile_grid(image.shape[1:], patch_size, tile_step)
    axis_weights = tuple(_axis_weights(size, weights) for size in patch_size)
    device = image.device if device is None else device
    progress = progress or (lambda done, total: None)
    return _slabs(image, predict_patch, starts, axis_weights, pad_value, device, progress)


def _slabs(
    image: torch.Tensor,
    predict_patch: PredictPatch,
    starts: Starts,
    axis_weights: AxisWeights,
    pad_value: float,
    device: str | torch.device,
    progress: Progress,
) -> Iterator[Slab]:
    """Do the work of `sliding_window` one row of tiles (all with the same z) at a time, yielding slabs after each."""
    patch_size = tuple(len(w) for w in axis_weights)
    shape_zyx = tuple(image.shape[1:])
    image, first_zyx = _pad_to(image, patch_size, pad_value)
    with limits_of(torch.device(device)):
        image = image.to(device)  # as a whole: tiles overlap, and one by one they would keep a card waiting
    inside_y, inside_x = (slice(f, f + size) for f, size in zip(first_zyx[1:], shape_zyx[1:], strict=True))
    # The tiles form a grid and their weights are a product over the axes, so the sum of all weights at a voxel is the
    # product of three sums along the axes and need not be accumulated in a volume of its own.
    sum_z, sum_y, sum_x = (_summed(w, s) for w, s in zip(axis_weights, starts, strict=True))
    sum_yx = sum_y[:, None] * sum_x
    weight_zyx = _outer(axis_weights)
    rows, done, total = starts[0], 0, math.prod(len(s) for s in starts)
    sums = torch.empty(0)  # then (K, patch z, Y, X): weighted scores of the slices from the row's start on

    for row, start_z in enumerate(rows):
        for start_y, start_x in product(*starts[1:]):
            tile_y, tile_x = slice(start_y, start_y + patch_size[1]), slice(start_x, start_x + patch_size[2])
            patch = image[None, :, start_z : start_z + patch_size[0], tile_y, tile_x]
            scores = predict_patch(patch.clone(memory_format=torch.contiguous_format))
            _check_scores(scores, patch_size, sums.shape[0] or None)
            scores = scores.detach()
            if not sums.numel():
                shape = (scores.shape[1], patch_size[0], *image.shape[2:])
                sums = torch.zeros(shape, dtype=torch.float32, device=scores.device)
                weight_zyx = weight_zyx.to(scores.device)
            sums[:, :, tile_y, tile_x].addcmul_(scores[0].to(sums), weight_zyx)
            del scores  # before the next tile's are made
            done += 1
            progress(done, total)

        next_z = rows[row + 1] if row + 1 < len(rows) else start_z + patch_size[0]
        # if z is padded there is only one row of tiles; its padded slices are left out here
        first, last = (first_zyx[0], first_zyx[0] + shape_zyx[0]) if len(rows) == 1 else (0, next_z - start_z)
        for z in range(first, last, SLAB_SLICES):
            stop = min(z + SLAB_SLICES, last)
            sum_zyx = (sum_z[start_z + z : start_z + stop, None, None] * sum_yx).to(sums)
            averages = sums[:, z:stop, inside_y, inside_x] / sum_zyx[:, inside_y, inside_x]
            yield Slab(start_z + z - first_zyx[0], averages)
            del averages  # while the next slices are made, only the caller may still hold it
        _advance(sums, next_z - start_z)


def _advance(sums: torch.Tensor, n: int) -> None:
    """Move the slices of (K, z, Y, X) forward by `n`, in place, and clear the last `n`."""
    kept = sums.shape[1] - n
    for first in range(0, kept, n):  # in pieces of n slices, whose source and target never overlap
        last = min(first + n, kept)
        sums[:, first:last] = sums[:, first + n : last + n]
    sums[:, kept:] = 0


def _axis_weights(size: int, kind: Weights) -> torch.Tensor:
    """Return the weights along one axis of a patch, float64 (size,)."""
    if kind == "uniform":
        return torch.ones(size, dtype=torch.float64)
    if kind == "gaussian":
        distance_sd = (torch.arange(size, dtype=torch.float64) - size // 2) / (size / 8)
        return torch.exp(-0.5 * distance_sd**2)
    raise ValueError(f"weights must be 'uniform' or 'gaussian', got {kind!r}")


def _outer(axis_weights: AxisWeights) -> torch.Tensor:
    """Return the product of weights along z, y and x, float32 (Z, Y, X)."""
    z, y, x = axis_weights
    return (z[:, None, None] * y[:, None] * x).float()


def _summed(axis_weights: torch.Tensor, starts: tuple[int, ...]) -> torch.Tensor:
    """Return the sum of the tiles' weights at every voxel of one (padded) axis, float64."""
    total = torch.zeros(starts[-1] + len(axis_weights), dtype=torch.float64)
    for start in starts:
        total[start : start + len(axis_weights)] += axis_weights
    return total


def _pad_to(image: torch.Tensor, patch_size: Sequence[int], value: float) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Pad (C, Z, Y, X) evenly on both sides up to the patch; return it with the index of the image's first voxel."""
    missing = [max(patch - size, 0) for patch, size in zip(patch_size, image.shape[1:], strict=True)]
    before = tuple(m // 2 for m in missing)
    if any(missing):
        pads = [p for m, b in zip(reversed(missing), reversed(before), strict=True) for p in (b, m - b)]
        image = torch.nn.functional.pad(image, pads, value=value)  # torch lists axes from the last to the first
    return image, before


def _tile_grid(shape_zyx: Sequence[int], patch_size: Sequence[int], tile_step: float) -> Starts:
    """Return the tiles' starts along z, y and x."""
    sizes = zip(shape_zyx, _checked_patch(patch_size), strict=True)
    return tuple(tile_starts(size, patch, tile_step) for size, patch in sizes)


def _useful_sides(size: int, patch: int, multiple: int, tile_step: float) -> list[int]:
    """Return the tiles of an axis, from the patch on, that compute fewer voxels of it than any smaller one."""
    useful, least = [], math.inf
    for side in range(patch, max(size + multiple, patch + 1), multiple):  # the last one holds the whole axis
        computed = len(tile_starts(size, side, tile_step)) * side
        if computed < least:
            useful.append(side)
            least = computed
    return useful


def _checked_patch(patch_size: Sequence[int]) -> tuple[int, ...]:
    """Return the patch size, 3 positive integers, or raise ValueError."""
    if len(patch_size) != 3 or any(size != int(size) or size < 1 for size in patch_size):
        raise ValueError(f"patch_size must be 3 positive integers (z, y, x), got {tuple(patch_size)}")
    return tuple(int(size) for size in patch_size)


def _check_scores(scores: torch.Tensor, patch_size: tuple[int, ...], n_scores: int | None) -> None:
    """Raise an error unless the answer to a patch is a tensor (1, K, z, y, x), with the same K as before."""
    if not isinstance(scores, torch.Tensor):
        raise TypeError(f"predict_patch must return a tensor of scores, got {type(scores).__name__}")
    fits = scores.ndim == 5 and scores.shape[0] == 1 and tuple(scores.shape[2:]) == patch_size
    if not fits or (n_scores is not None and scores.shape[1] != n_scores):
        wanted = ", ".join(str(n) for n in (1, "K" if n_scores is None else n_scores, *patch_size))
        raise ValueError(f"predict_patch must return scores of shape ({wanted}), got {tuple(scores.shape)}")
