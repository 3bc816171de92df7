"""The scores of a cohort: a folder of label maps compared with a folder of references, as one table.

Columns and names are those of the FLARE 2022 evaluation script, so that its tables and ours can be read side by side.
"""

import csv
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flare_lib.ct.files import load_label_map
from flare_lib.ct.folders import find_images
from flare_lib.ct.labels import ORGANS
from flare_lib.ct.volume import grid_difference
from flare_lib.evaluation.flare_rules import OFFICIAL, Rules, Scores, flare_scores
from flare_lib.machine.atomic_write import atomic_write
from flare_lib.machine.failures import Failure
from flare_lib.machine.processes import Pool
from flare_lib.machine.progress import Progress
from flare_lib.machine.runner import run_in_order

# the challenge's script's names for the organs
COLUMNS = (
    "Liver",
    "RK",
    "Spleen",
    "Pancreas",
    "Aorta",
    "IVC",
    "RAG",
    "LAG",
    "Gallbladder",
    "Esophagus",
    "Stomach",
    "Duodenum",
    "LK",
)


@dataclass(frozen=True)
class Pair:
    """A label map and its reference, two files with the same name; None for a missing one."""

    name: str
    prediction: Path | None
    reference: Path | None


@dataclass(frozen=True)
class CaseScores:
    """A case's scores, or the reason why it has none."""

    name: str
    scores: Scores | None
    problem: str = ""


def find_pairs(predictions: str | Path, references: str | Path) -> list[Pair]:
    """Pair the label maps (.nii, .nii.gz) of two folders by name, including those without a counterpart.

    Raises FileNotFoundError for a folder that does not exist or has no label maps, ValueError for two files with the
    same case name and for one folder in both places, which would score 1 throughout.
    """
    found, true = find_images(predictions), find_images(references)
    for folder, label_maps in ((predictions, found), (references, true)):
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"label maps must be given as a folder that exists, got {folder}")
        if not label_maps:
            raise FileNotFoundError(f"{folder} must hold label maps (.nii or .nii.gz), got none")
    if os.path.samefile(predictions, references):
        raise ValueError(f"predictions and references must lie in two folders, got {predictions} for both")
    return [Pair(name, found.get(name), true.get(name)) for name in sorted({*found, *true})]


def score_pair(pair: Pair, *, rules: Rules = OFFICIAL) -> Scores:
    """Return the scores of one case by `rules`.

    Raises ValueError for a label map that is missing or not on its reference's grid, and the errors of `load_label_map`
    and `flare_scores`.
    """
    if pair.prediction is None or pair.reference is None:
        raise ValueError(f"a case must have both label maps, got no {'reference' if pair.prediction else 'prediction'}")
    prediction, reference = load_label_map(pair.prediction), load_label_map(pair.reference)
    if differs := grid_difference(prediction, reference):
        raise ValueError(f"the prediction must lie on the reference's grid, got {differs}")
    return flare_scores(
        prediction.array_zyx,
        reference.array_zyx,
        reference.spacing_zyx_mm,
        rules=rules,
        file_grid=reference.grid,
    )


def score_pairs(
    pairs: Sequence[Pair],
    *,
    rules: Rules = OFFICIAL,
    pool: Pool | None = None,
    progress: Progress | None = None,
) -> list[CaseScores]:
    """Score all cases, in a `pool` or this process, and return them in order; [] for no cases.

    `progress(done, total)` is called after each. A case that cannot be scored, for whatever reason, has a problem
    instead of scores.
    """
    outcomes = run_in_order(functools.partial(score_pair, rules=rules), pairs, pool, progress=progress)
    return [
        CaseScores(pair.name, None, outcome.reason) if isinstance(outcome, Failure) else CaseScores(pair.name, outcome)
        for pair, outcome in zip(pairs, outcomes, strict=True)
    ]


def write_table(path: str | Path, cases: Sequence[CaseScores]) -> None:
    """Write the scored cases as CSV: Name, then every organ's DSC, then every organ's NSD; NaN as an empty field."""
    header = ["Name", *(f"{organ}_{score}" for score in ("DSC", "NSD") for organ in COLUMNS)]
    rows = [
        [case.name, *("" if np.isnan(v) else f"{v:g}" for v in (*case.scores.dice, *case.scores.nsd))]
        for case in cases
        if case.scores is not None
    ]
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def summary(cases: Sequence[CaseScores]) -> str:
    """Return one line per organ: mean and SD of DSC and NSD over the cases, and the case with the lowest DSC.

    NaN is left out of the means. The last line has the means over the organs. Raises ValueError if no case has scores.
    """
    scored = [case for case in cases if case.scores is not None]
    if not scored:
        raise ValueError("a summary needs a case with scores, got none")
    dice, nsd = (np.array([getattr(case.scores, kind) for case in scored]) for kind in ("dice", "nsd"))
    lines = [f"{'organ':22}{'DSC':>15}{'NSD':>17}   lowest DSC"]
    for k, organ in enumerate(ORGANS):
        known = ~np.isnan(dice[:, k])
        if not known.any():
            lines.append(f"{organ.name:22}{'not scored':>15}")
            continue
        worst = scored[int(np.nanargmin(dice[:, k]))].name
        columns = [f"{v[known, k].mean():.4f} ± {v[known, k].std():.3f}" for v in (dice, nsd)]
        lines.append(f"{organ.name:22}{columns[0]:>15}{columns[1]:>17}   {worst} ({np.nanmin(dice[:, k]):.4f})")
    some = ~np.isnan(dice).all(axis=0)
    means = [np.nanmean(v[:, some], axis=0).mean() for v in (dice, nsd)]
    lines.append(f"{f'mean of {some.sum()} organs':22}{means[0]:>7.4f}{means[1]:>17.4f}")
    return "\n".join(lines)
