"""The slips that people make in the course's exercises: for each, a sentence that helps, and a function that makes it.

A slip is recognised by its values, whatever the reader's code looks like. The functions take the arguments of the
exercise's own (`solutions`), in the same order.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from flare_lib.course.solutions import (
    consistency,
    cut_by_border,
    flare_dsc,
    head_shape,
    output_slab,
    paired_difference,
    pooled_mean_sd,
    total_loss,
)

Slip = Callable[..., Any]


def _of_the_cut(made: Callable[[np.ndarray], np.ndarray]) -> Slip:
    """Return a slip: what is made of grey values once they are cut to the window."""
    return lambda hu, low, high: made(hu.clip(low, high))


def _weighed(weight: Callable[[float], float]) -> Slip:
    """Return a slip: the loss of a step with another weight, a function of t / T."""
    return lambda supervised, disagreement, t, n: supervised + weight(t / n) * disagreement


def _but_the_mean(right: Callable[..., Any], second: Callable[..., Any]) -> Slip:
    """Return a slip: the right mean, and another second number."""
    return lambda *arguments: (right(*arguments)[0], second(*arguments))


def _positions(n_in: int, n_out: int, first: int, stop: int) -> np.ndarray:
    """Return where the output slices read."""
    return (np.arange(first, stop) + 0.5) * n_in / n_out - 0.5


def _read(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.interp(at, np.arange(len(values)), values)


def _summed(tiles: np.ndarray, starts: tuple[int, ...], length: int) -> np.ndarray:
    """Return the sum of the tiles, without a division."""
    total = np.zeros(length)
    for tile, start in zip(tiles, starts, strict=True):
        total[start : start + len(tile)] += tile
    return total


def _last_tile_wins(tiles: np.ndarray, starts: tuple[int, ...], length: int) -> np.ndarray:
    made = np.zeros(length)
    for tile, start in zip(tiles, starts, strict=True):
        made[start : start + len(tile)] = tile
    return made


def _halves(tiles: np.ndarray, starts: tuple[int, ...], length: int) -> np.ndarray:
    """Return the mean of each tile and of what was there before it, where there was something."""
    made = np.full(length, np.nan)
    for tile, start in zip(tiles, starts, strict=True):
        there = made[start : start + len(tile)]
        there[:] = np.where(np.isnan(there), tile, (there + tile) / 2)
    return made


# {the exercise's function: {sentence: what makes the slip}}
SLIPS: dict[str, dict[str, Slip]] = {
    "volume_ml": {
        "that is in cubic millimetres: divide by 1000": lambda m, k, s: (m == k).sum() * np.prod(s),
        "that counts every organ: compare the labels with organ_id": lambda m, k, s: (m > 0).sum() * np.prod(s) / 1000,
        "that adds up the labels themselves: count the voxels that carry the label": lambda m, k, s: (
            m[m == k].sum() * np.prod(s) / 1000
        ),
        "that counts voxels: multiply by the volume of one, the product of its three sides": lambda m, k, s: (
            (m == k).sum() / 1000
        ),
        "that is how many voxels there are: multiply by the volume of one, in mL": lambda m, k, s: (m == k).sum(),
        "1 mL is 1,000 mm³: divide by 1000, do not multiply": lambda m, k, s: (m == k).sum() * np.prod(s) * 1000,
        "that is the whole box: count only the voxels whose label is organ_id": lambda m, k, s: (
            m.size * np.prod(s) / 1000
        ),
        "a voxel's volume is the product of its three sides, not their sum": lambda m, k, s: (
            (m == k).sum() * sum(s) / 1000
        ),
    },
    "normalized": {
        "nothing was cut off: bring everything into the window first": lambda hu, a, b: (hu - hu.mean()) / hu.std(),
        "mean and SD must be those of the values after the cut": lambda hu, a, b: (
            (hu.clip(a, b) - hu.mean()) / hu.std()
        ),
        "divide by the SD, not by the variance": _of_the_cut(lambda cut: (cut - cut.mean()) / cut.var()),
        "the mean is still in it: subtract it before you divide": _of_the_cut(lambda cut: cut / cut.std()),
        "that is the cut alone: now subtract the mean and divide by the SD": _of_the_cut(lambda cut: cut),
        "the SD is missing: divide by it": _of_the_cut(lambda cut: cut - cut.mean()),
        "brackets are missing: subtract first, then divide": _of_the_cut(lambda cut: cut - cut.mean() / cut.std()),
        "this is the sample's SD (n - 1); NumPy's `std()` as it is will do": _of_the_cut(
            lambda cut: (cut - cut.mean()) / cut.std(ddof=1)
        ),
        "that maps the window to 0 to 1; here the mean must become 0 and the SD 1": lambda hu, a, b: (
            (hu.clip(a, b) - a) / (b - a)
        ),
    },
    "head_shape": {
        "that is one stride too many: the first head has the patch's own grid": lambda p, t, k: np.floor_divide(
            p, np.prod(t[: min(k, len(t))], axis=0)
        ),
        "an axis is halved only where its stride is 2: the last stride leaves z alone": lambda p, t, k: np.floor_divide(
            p, 2 ** (k - 1)
        ),
        "the first head has the patch's own grid; and divide by the strides, not always by 2": lambda p, t, k: (
            np.floor_divide(p, 2**k)
        ),
        "arrays are z, y, x: that is the shape the other way round": lambda p, t, k: head_shape(p, t, k)[::-1],
        "that divides by one stride alone: all the strides above a head count": lambda p, t, k: np.floor_divide(
            p, t[max(0, k - 2)] if k > 1 else 1
        ),
    },
    "consistency": {
        "that is the mean over the heads: the paper's loss takes their sum": lambda q: consistency(q) / len(q),
        "that is the mean over the classes too: KL sums over them": lambda q: consistency(q) / q.shape[1],
        "that is the mean over heads and classes: both are summed": lambda q: consistency(q) / q.size,
        "P is the mean over the heads, axis 0, a number for each class": lambda q: (
            q.mean(1, keepdims=True) * np.log(q.mean(1, keepdims=True) / q)
        ).sum(),
        "that is the cross entropy: the divergence has log P as well, P (log P - log head)": lambda q: (
            -(q.mean(0) * np.log(q)).sum()
        ),
        "that is the squared difference; the divergence is P (log P - log head)": lambda q: (
            (q - q.mean(0)) ** 2
        ).sum(),
        "that is KL(head || P): the pseudo-label comes first": lambda q: (q * np.log(q / q.mean(0))).sum(),
        "that is in bits: take the natural logarithm": lambda q: consistency(q) / np.log(2),
        "the sign is turned round: a divergence is never negative": lambda q: -consistency(q),
        "only the first class was counted: sum over all of them": lambda q: (q.mean(0) * np.log(q.mean(0) / q))[
            :, 0
        ].sum(),
    },
    "total_loss": {
        "the weight grows along a straight line: look at the formula for w(t)": _weighed(lambda x: 0.1 * min(x, 1)),
        "after the ramp-up the weight must stay at 0.1: t / T is cut at 1": _weighed(
            lambda x: 0.1 * np.exp(-5 * (1 - x) ** 2)
        ),
        "the ramp-up is not always as long: use `ramp_up_steps`": lambda a, b, t, n: total_loss(a, b, t, 100),
        "the exponent is negative: without its minus the weight is largest at the start": _weighed(
            lambda x: 0.1 * np.exp(5 * (1 - min(x, 1)) ** 2)
        ),
        "the bracket is squared": _weighed(lambda x: 0.1 * np.exp(-5 * (1 - min(x, 1)))),
        "the highest weight, 0.1, is missing": _weighed(lambda x: np.exp(-5 * (1 - min(x, 1)) ** 2)),
        "the weight is 0.1 from the start: it must grow": _weighed(lambda x: 0.1),
        "the second term has no weight: multiply it by w(t)": _weighed(lambda x: 1.0),
        "that is the second term alone: add the supervised loss": lambda a, b, t, n: total_loss(0.0, b, t, n),
        "the weight belongs to the second term, not to the first": lambda a, b, t, n: total_loss(b, a, t, n),
    },
    "pooled_mean_sd": {
        "the order is mean, then SD": lambda n, m, d: pooled_mean_sd(n, m, d)[::-1],
        "that is the mean alone: return two numbers, mean and SD": lambda n, m, d: pooled_mean_sd(n, m, d)[0],
        "large cases must count for more: weigh each case by its number of voxels": lambda n, m, d: pooled_mean_sd(
            np.ones_like(n), m, d
        ),
        "these are plain averages: weigh each case by its voxels, and mind that the means differ": lambda n, m, d: (
            m.mean(),
            d.mean(),
        ),
        "the mean is right; from the mean of the squares the squared mean must be subtracted": _but_the_mean(
            pooled_mean_sd, lambda n, m, d: np.sqrt(np.average(d**2 + m**2, weights=n))
        ),
        "the mean is right; an average of the SDs forgets that the means differ": _but_the_mean(
            pooled_mean_sd, lambda n, m, d: np.average(d, weights=n)
        ),
        "the mean is right; the second number is the variance: take its root": _but_the_mean(
            pooled_mean_sd, lambda n, m, d: pooled_mean_sd(n, m, d)[1] ** 2
        ),
        "the mean is right; averaged variances forget that the means differ": _but_the_mean(
            pooled_mean_sd, lambda n, m, d: np.sqrt(np.average(d**2, weights=n))
        ),
    },
    "averaged": {
        "that is the sum: divide by how many tiles saw each voxel": _summed,
        "divide each voxel by the tiles that saw *it*, not by all the tiles there are": lambda t, a, n: (
            _summed(t, a, n) / len(t)
        ),
        "where tiles overlap, the last one wins: add them up instead": _last_tile_wins,
        "half of what was there and half of the new tile is no mean of three: divide once, at the end": _halves,
        "the tiles do not lie end to end: use their starts": lambda t, a, n: np.resize(t.ravel(), n),
    },
    "output_slab": {
        "that pins the first and last centres (align_corners=True)": lambda v, n, a, b: _read(
            v, np.linspace(0, len(v) - 1, n)[a:b]
        ),
        "half a voxel is missing: i * n_in / n_out is an edge of a voxel, not its centre": lambda v, n, a, b: _read(
            v, np.arange(a, b) * len(v) / n
        ),
        "a position lies half an old voxel lower: subtract 1/2 at the end": lambda v, n, a, b: _read(
            v, _positions(len(v), n, a, b) + 0.5
        ),
        "output slice `first` comes first: count from there, not from 0": lambda v, n, a, b: output_slab(
            v, n, 0, b - a
        ),
        "the slices end at stop - 1, as in `range`": lambda v, n, a, b: output_slab(v, n, a, b + 1),
        "n_in and n_out have changed places": lambda v, n, a, b: _read(v, _positions(n, len(v), a, b)),
        "these are the positions: now read the values there, with np.interp": lambda v, n, a, b: _positions(
            len(v), n, a, b
        ),
        "that is the whole volume: only the slices from first to stop are wanted": lambda v, n, a, b: output_slab(
            v, n, 0, n
        ),
        "that is the nearest slice: weigh the two around the position": lambda v, n, a, b: _read(
            v, np.rint(_positions(len(v), n, a, b))
        ),
    },
    "flare_dsc": {
        "that is intersection over union (Jaccard), not Dice": lambda p, r: (
            1.0 if not (p | r).any() else (p & r).sum() / (p | r).sum()
        ),
        "divide by the sum of both sizes, not by their union": lambda p, r: (
            1.0 if not (p | r).any() else 2 * (p & r).sum() / (p | r).sum()
        ),
        "the overlap counts twice": lambda p, r: 1.0 if not (p | r).any() else (p & r).sum() / (p.sum() + r.sum()),
        "if only one mask is empty, the score is 0": lambda p, r: flare_dsc(p, r) if p.any() and r.any() else 1.0,
        "two empty masks agree: by FLARE's rule that is 1": lambda p, r: flare_dsc(p, r) if (p | r).any() else 0.0,
        "0 / 0 is not a number: what does FLARE's rule say about two empty masks?": lambda p, r: (
            flare_dsc(p, r) if (p | r).any() else np.nan
        ),
    },
    "paired_difference": {
        "a seed that says the opposite counts with its sign: no absolute values": lambda a, b: (
            np.abs(a - b).mean(),
            np.abs(a - b).std(),
        ),
        "the mean is right; the spread within the arms is not that of the differences": _but_the_mean(
            paired_difference, lambda a, b: a.std()
        ),
        "the mean is right; the arms share their seeds, so their variances do not add up": _but_the_mean(
            paired_difference, lambda a, b: np.sqrt(a.var() + b.var())
        ),
        "the order is mean, then SD": lambda a, b: paired_difference(a, b)[::-1],
        "that is the mean alone: return two numbers, mean and SD": lambda a, b: (a - b).mean(),
        "these are the differences: now their mean and SD": lambda a, b: a - b,
        "that is worse minus better": lambda a, b: paired_difference(b, a),
        "the mean is right; a difference of two SDs is not the SD of the differences": _but_the_mean(
            paired_difference, lambda a, b: a.std() - b.std()
        ),
        "the mean is right; this is the sample's SD (n - 1), asked is the population's": _but_the_mean(
            paired_difference, lambda a, b: (a - b).std(ddof=1)
        ),
        "the mean is right; the second number is the variance: take its root": _but_the_mean(
            paired_difference, lambda a, b: (a - b).var()
        ),
    },
    "cut_by_border": {
        "the last slice is a border too": lambda m: m[0].any(),
        "the first slice is a border too": lambda m: m[-1].any(),
        "touching the sides of the picture does not count: look along z alone": lambda m: any(
            np.take(m, end, axis).any() for axis in range(3) for end in (0, -1)
        ),
        "it is the other way round": lambda m: not cut_by_border(m),
        "one of the two ends is enough": lambda m: m[0].any() and m[-1].any(),
    },
}
