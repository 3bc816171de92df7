"""The course's exercises: each one's right function, the cases it is checked with, and the slips that people make.

A slip is written as a function that makes it: it is recognised by its values, whatever the reader's code looks like.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from flare_lib.course import solutions as s


class Check(NamedTuple):
    """One exercise: the right function, the arguments it is called with, and slips, {sentence: wrong function}."""

    right: Callable[..., Any]
    cases: tuple[tuple, ...]
    slips: Mapping[str, Callable[..., Any]]


def _label_map() -> np.ndarray:
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 1:3, 1:4], labels[2, 0, :2] = 3, 1
    return labels


def _tiles(tiles: np.ndarray, starts: tuple[int, ...], length: int) -> np.ndarray:
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


_STRIDES = ((2, 2, 2), (2, 2, 2), (1, 2, 2))
_SQUARE, _SHIFTED = np.pad(np.ones((2, 4)), 2) > 0, np.roll(np.pad(np.ones((2, 4)), 2) > 0, 1, axis=1)
_EMPTY = np.zeros_like(_SQUARE)
_INSIDE = np.pad(np.ones((2, 2, 2)), ((1, 1), (0, 1), (1, 0))) > 0  # touches the sides, not the first and last slice

CHECKS: dict[str, Check] = {
    "volume_ml": Check(
        s.volume_ml,
        ((_label_map(), 3, (5.0, 0.8, 0.9)), (_label_map(), 1, (5.0, 0.8, 0.9)), (_label_map(), 2, (5.0, 0.8, 0.9))),
        {
            "that is in cubic millimetres: divide by 1000": lambda m, k, s_: (m == k).sum() * np.prod(s_),
            "that counts every organ: compare the labels with organ_id": lambda m, k, s_: (
                (m > 0).sum() * np.prod(s_) / 1000
            ),
            "that adds up the labels themselves: count the voxels that carry the label": lambda m, k, s_: (
                m[m == k].sum() * np.prod(s_) / 1000
            ),
            "that counts voxels: multiply by the volume of one, the product of its three sides": lambda m, k, s_: (
                (m == k).sum() / 1000
            ),
            "that is how many voxels there are: multiply by the volume of one, in mL": lambda m, k, s_: (m == k).sum(),
            "1 mL is 1,000 mm³: divide by 1000, do not multiply": lambda m, k, s_: (m == k).sum() * np.prod(s_) * 1000,
            "that is the whole box: count only the voxels whose label is organ_id": lambda m, k, s_: (
                m.size * np.prod(s_) / 1000
            ),
            "a voxel's volume is the product of its three sides, not their sum": lambda m, k, s_: (
                (m == k).sum() * sum(s_) / 1000
            ),
        },
    ),
    "normalized": Check(
        s.normalized,
        (
            (np.array([-1000.0, -100.0, 40.0, 60.0, 900.0]), -325.0, 325.0),
            (np.array([[0.0, 50.0], [400.0, 80.0]]), -100.0, 200.0),
        ),
        {
            "nothing was cut off: bring everything into the window first": lambda hu, a, b: (hu - hu.mean()) / hu.std(),
            "mean and SD must be those of the values after the cut": lambda hu, a, b: (
                (hu.clip(a, b) - hu.mean()) / hu.std()
            ),
            "divide by the SD, not by the variance": lambda hu, a, b: (
                (hu.clip(a, b) - hu.clip(a, b).mean()) / hu.clip(a, b).var()
            ),
            "the mean is still in it: subtract it before you divide": lambda hu, a, b: (
                hu.clip(a, b) / hu.clip(a, b).std()
            ),
            "that is the cut alone: now subtract the mean and divide by the SD": lambda hu, a, b: hu.clip(a, b),
            "the SD is missing: divide by it": lambda hu, a, b: hu.clip(a, b) - hu.clip(a, b).mean(),
            "brackets are missing: subtract first, then divide": lambda hu, a, b: (
                hu.clip(a, b) - hu.clip(a, b).mean() / hu.clip(a, b).std()
            ),
            "this is the sample's SD (n - 1); NumPy's `std()` as it is will do": lambda hu, a, b: (
                (hu.clip(a, b) - hu.clip(a, b).mean()) / hu.clip(a, b).std(ddof=1)
            ),
            "that maps the window to 0 to 1; here the mean must become 0 and the SD 1": lambda hu, a, b: (
                (hu.clip(a, b) - a) / (b - a)
            ),
        },
    ),
    "head_shape": Check(
        s.head_shape,
        (((24, 32, 40), _STRIDES, 1), ((24, 32, 40), _STRIDES, 3), ((40, 48, 56), _STRIDES, 4)),
        {
            "that is one stride too many: the first head has the patch's own grid": lambda p, t, k: np.floor_divide(
                p, np.prod(t[: min(k, len(t))], axis=0)
            ),
            "an axis is halved only where its stride is 2: the last stride leaves z alone": lambda p, t, k: (
                np.floor_divide(p, 2 ** (k - 1))
            ),
            "the first head has the patch's own grid; and divide by the strides, not always by 2": lambda p, t, k: (
                np.floor_divide(p, 2**k)
            ),
            "arrays are z, y, x: that is the shape the other way round": lambda p, t, k: s.head_shape(p, t, k)[::-1],
            "that divides by one stride alone: all the strides above a head count": lambda p, t, k: np.floor_divide(
                p, t[max(0, k - 2)] if k > 1 else 1
            ),
        },
    ),
    "consistency": Check(
        s.consistency,
        ((np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]]),), (np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]),)),
        {
            "that is the mean over the heads: the paper's loss takes their sum": lambda q: s.consistency(q) / len(q),
            "that is the mean over the classes too: KL sums over them": lambda q: s.consistency(q) / q.shape[1],
            "that is the mean over heads and classes: both are summed": lambda q: s.consistency(q) / q.size,
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
            "that is in bits: take the natural logarithm": lambda q: s.consistency(q) / np.log(2),
            "the sign is turned round: a divergence is never negative": lambda q: -s.consistency(q),
            "only the first class was counted: sum over all of them": lambda q: (q.mean(0) * np.log(q.mean(0) / q))[
                :, 0
            ].sum(),
        },
    ),
    "total_loss": Check(
        s.total_loss,
        ((2.0, 0.5, 0, 100), (1.5, 0.4, 50, 200), (0.9, 0.3, 100, 100), (0.6, 0.2, 250, 100)),
        {
            "the weight grows along a straight line: look at the formula for w(t)": lambda a, b, t, n: (
                a + 0.1 * min(t / n, 1) * b
            ),
            "after the ramp-up the weight must stay at 0.1: t / T is cut at 1": lambda a, b, t, n: (
                a + 0.1 * np.exp(-5 * (1 - t / n) ** 2) * b
            ),
            "the ramp-up is not always as long: use `ramp_up_steps`": lambda a, b, t, n: s.total_loss(a, b, t, 100),
            "the exponent is negative: without its minus the weight is largest at the start": lambda a, b, t, n: (
                a + 0.1 * np.exp(5 * (1 - min(t / n, 1)) ** 2) * b
            ),
            "the bracket is squared": lambda a, b, t, n: a + 0.1 * np.exp(-5 * (1 - min(t / n, 1))) * b,
            "the highest weight, 0.1, is missing": lambda a, b, t, n: a + np.exp(-5 * (1 - min(t / n, 1)) ** 2) * b,
            "the weight is 0.1 from the start: it must grow": lambda a, b, t, n: a + 0.1 * b,
            "the second term has no weight: multiply it by w(t)": lambda a, b, t, n: a + b,
            "that is the second term alone: add the supervised loss": lambda a, b, t, n: s.total_loss(0.0, b, t, n),
            "the weight belongs to the second term, not to the first": lambda a, b, t, n: (
                b + 0.1 * np.exp(-5 * (1 - min(t / n, 1)) ** 2) * a
            ),
        },
    ),
    "pooled_mean_sd": Check(
        s.pooled_mean_sd,
        (
            (np.array([100, 300]), np.array([50.0, 90.0]), np.array([10.0, 20.0])),
            (np.array([5, 5, 90]), np.array([0.0, 10.0, 20.0]), np.array([1.0, 2.0, 3.0])),
        ),
        {
            "the order is mean, then SD": lambda n, m, d: s.pooled_mean_sd(n, m, d)[::-1],
            "that is the mean alone: return two numbers, mean and SD": lambda n, m, d: s.pooled_mean_sd(n, m, d)[0],
            "large cases must count for more: weigh each case by its number of voxels": lambda n, m, d: (
                m.mean(),
                np.sqrt((d**2 + m**2).mean() - m.mean() ** 2),
            ),
            "these are plain averages: weigh each case by its voxels, and mind that the means differ": lambda n, m, d: (
                m.mean(),
                d.mean(),
            ),
            "the mean is right; from the mean of the squares the squared mean must be subtracted": lambda n, m, d: (
                np.average(m, weights=n),
                np.sqrt(np.average(d**2 + m**2, weights=n)),
            ),
            "the mean is right; an average of the SDs forgets that the means differ": lambda n, m, d: (
                np.average(m, weights=n),
                np.average(d, weights=n),
            ),
            "the mean is right; the second number is the variance: take its root": lambda n, m, d: (
                s.pooled_mean_sd(n, m, d)[0],
                s.pooled_mean_sd(n, m, d)[1] ** 2,
            ),
            "the mean is right; averaged variances forget that the means differ": lambda n, m, d: (
                np.average(m, weights=n),
                np.sqrt(np.average(d**2, weights=n)),
            ),
        },
    ),
    "averaged": Check(
        s.averaged,
        (
            (np.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]), (0, 2), 5),
            (np.repeat([[1.0], [3.0], [8.0]], 3, axis=1), (0, 1, 2), 5),  # one voxel is seen three times
        ),
        {
            "that is the sum: divide by how many tiles saw each voxel": _tiles,
            "divide each voxel by the tiles that saw *it*, not by all the tiles there are": lambda t, a, n: (
                _tiles(t, a, n) / len(t)
            ),
            "where tiles overlap, the last one wins: add them up instead": _last_tile_wins,
            "half of what was there and half of the new tile is no mean of three: divide once, at the end": _halves,
            "the tiles do not lie end to end: use their starts": lambda t, a, n: np.resize(t.ravel(), n),
        },
    ),
    "output_slab": Check(
        s.output_slab,
        (
            (np.array([0.0, 1.0, 4.0, 9.0]), 10, 3, 7),
            (np.array([2.0, 1.0, 5.0]), 6, 0, 3),
            (np.array([2.0, 1.0, 5.0]), 6, 3, 6),
        ),
        {
            "that pins the first and last centres (align_corners=True)": lambda v, n, a, b: np.interp(
                np.linspace(0, len(v) - 1, n)[a:b], np.arange(len(v)), v
            ),
            "half a voxel is missing: i * n_in / n_out is an edge of a voxel, not its centre": lambda v, n, a, b: (
                np.interp(np.arange(a, b) * len(v) / n, np.arange(len(v)), v)
            ),
            "a position lies half an old voxel lower: subtract 1/2 at the end": lambda v, n, a, b: np.interp(
                (np.arange(a, b) + 0.5) * len(v) / n, np.arange(len(v)), v
            ),
            "output slice `first` comes first: count from there, not from 0": lambda v, n, a, b: s.output_slab(
                v, n, 0, b - a
            ),
            "the slices end at stop - 1, as in `range`": lambda v, n, a, b: s.output_slab(v, n, a, b + 1),
            "n_in and n_out have changed places": lambda v, n, a, b: np.interp(
                (np.arange(a, b) + 0.5) * n / len(v) - 0.5, np.arange(len(v)), v
            ),
            "these are the positions: now read the values there, with np.interp": lambda v, n, a, b: (
                (np.arange(a, b) + 0.5) * len(v) / n - 0.5
            ),
            "that is the whole volume: only the slices from first to stop are wanted": lambda v, n, a, b: s.output_slab(
                v, n, 0, n
            ),
            "that is the nearest slice: weigh the two around the position": lambda v, n, a, b: v[
                np.clip(np.rint((np.arange(a, b) + 0.5) * len(v) / n - 0.5).astype(int), 0, len(v) - 1)
            ],
        },
    ),
    "flare_dsc": Check(
        s.flare_dsc,
        ((_SQUARE, _SHIFTED), (_SQUARE, _SQUARE), (_SQUARE, _EMPTY), (_EMPTY, _SQUARE), (_EMPTY, _EMPTY)),
        {
            "that is intersection over union (Jaccard), not Dice": lambda p, r: (
                1.0 if not (p | r).any() else (p & r).sum() / (p | r).sum()
            ),
            "divide by the sum of both sizes, not by their union": lambda p, r: (
                1.0 if not (p | r).any() else 2 * (p & r).sum() / (p | r).sum()
            ),
            "the overlap counts twice": lambda p, r: 1.0 if not (p | r).any() else (p & r).sum() / (p.sum() + r.sum()),
            "if only one mask is empty, the score is 0": lambda p, r: s.flare_dsc(p, r) if p.any() and r.any() else 1.0,
            "two empty masks agree: by FLARE's rule that is 1": lambda p, r: (
                s.flare_dsc(p, r) if (p | r).any() else 0.0
            ),
            "0 / 0 is not a number: what does FLARE's rule say about two empty masks?": lambda p, r: (
                s.flare_dsc(p, r) if (p | r).any() else np.nan
            ),
        },
    ),
    "paired_difference": Check(
        s.paired_difference,
        (
            (np.array([0.72, 0.76, 0.68]), np.array([0.70, 0.74, 0.66])),
            (np.array([0.60, 0.70, 0.50]), np.array([0.50, 0.49, 0.62])),  # one seed says the opposite
        ),
        {
            "a seed that says the opposite counts with its sign: no absolute values": lambda a, b: (
                np.abs(a - b).mean(),
                np.abs(a - b).std(),
            ),
            "the mean is right; the spread within the arms is not that of the differences": lambda a, b: (
                (a - b).mean(),
                a.std(),
            ),
            "the mean is right; the arms share their seeds, so their variances do not add up": lambda a, b: (
                (a - b).mean(),
                np.sqrt(a.var() + b.var()),
            ),
            "the order is mean, then SD": lambda a, b: ((a - b).std(), (a - b).mean()),
            "that is the mean alone: return two numbers, mean and SD": lambda a, b: (a - b).mean(),
            "these are the differences: now their mean and SD": lambda a, b: a - b,
            "that is worse minus better": lambda a, b: ((b - a).mean(), (b - a).std()),
            "the mean is right; a difference of two SDs is not the SD of the differences": lambda a, b: (
                (a - b).mean(),
                a.std() - b.std(),
            ),
            "the mean is right; this is the sample's SD (n - 1), asked is the population's": lambda a, b: (
                (a - b).mean(),
                (a - b).std(ddof=1),
            ),
            "the mean is right; the second number is the variance: take its root": lambda a, b: (
                (a - b).mean(),
                (a - b).var(),
            ),
        },
    ),
    "cut_by_border": Check(
        s.cut_by_border,
        ((_INSIDE,), (_INSIDE[1:],), (_INSIDE[:-1],), (np.zeros((3, 4, 5), bool),)),
        {
            "the last slice is a border too": lambda m: m[0].any(),
            "the first slice is a border too": lambda m: m[-1].any(),
            "touching the sides of the picture does not count: look along z alone": lambda m: any(
                np.take(m, end, axis).any() for axis in range(3) for end in (0, -1)
            ),
            "it is the other way round": lambda m: not s.cut_by_border(m),
            "one of the two ends is enough": lambda m: m[0].any() and m[-1].any(),
        },
    ),
}
