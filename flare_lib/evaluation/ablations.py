"""The paper's comparisons, repeated on a synthetic cohort: what each of its ideas is worth (4.1, 4.5, 4.6, Table 8).

    a cohort of several centres -> nets that differ in one idea only -> arms, ways to segment with them -> scores

All nets in a study have the same architecture, optimiser and labelled cases. A net for one-stage segmentation is
trained for as many steps as the coarse and the fine net together. Work that a study has already done is not repeated.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from flare_lib.ct.files import load_ct
from flare_lib.ct.moments import Moments
from flare_lib.ct.resample import resample_nearest, resample_trilinear
from flare_lib.data.centres import CentreCohort
from flare_lib.data.cohort import Case, load_labels
from flare_lib.data.prepared import PreparedCase, moments_of, prepare_cases
from flare_lib.evaluation.flare_rules import flare_scores
from flare_lib.evaluation.metrics import shares_inside
from flare_lib.inference.coarse_to_fine import Segmentation, segment, segment_in_one_stage
from flare_lib.inference.stages import NetStage, SqueezedStage, Stage
from flare_lib.machine.atomic_write import atomic_write
from flare_lib.machine.progress import StageProgress
from flare_lib.network.weights import TrainedNet, load_strict
from flare_lib.training.loop import train
from flare_lib.training.patches import Patches
from flare_lib.training.recipes import Recipe, preset

SQUEEZED_SHAPE = (32, 40, 48)


@dataclass(frozen=True)
class NetPlan:
    """One net of a study: its recipe, and how its CTs are prepared.

    `around`: what they are cropped around, "foreground" or "organs". `start`: the name of the net it starts from, or
    None for random weights. `squeezed`: each CT is squeezed into one patch. `individual`: each CT is normalised by its
    own mean and SD instead of the cohort's.
    """

    recipe: Recipe
    around: str = "foreground"
    start: str | None = None
    squeezed: bool = False
    individual: bool = False


def net_plans(n_coarse_steps: int, n_fine_steps: int, seed: int) -> dict[str, NetPlan]:
    """Return the nets of a study by name, each listed after the one it starts from."""
    common = {"sources": {"cases": 1.0}, "augmentation": 0.2, "seed": seed, "learning_rate": 1e-2}
    n = n_coarse_steps + n_fine_steps
    coarse = preset("course", "coarse", n_steps=n_coarse_steps, ramp_up_steps=max(1, n_coarse_steps // 2), **common)
    coarse = replace(coarse, foreground_share=1 / 3)
    fine = preset("course", "fine", n_steps=n_fine_steps, **common)
    fine = replace(fine, spacing_zyx_mm=(5.0, 5.0, 5.0), patch_size=(32, 40, 48), n_unlabelled=0)
    alone = replace(fine, n_steps=n, foreground_share=1 / 3)
    with_unlabelled = replace(alone, n_unlabelled=2, ramp_up_steps=max(1, n // 2))
    return {
        "one stage": NetPlan(alone),
        "one stage, kl": NetPlan(replace(with_unlabelled, consistency="kl")),
        "one stage, urpc": NetPlan(replace(with_unlabelled, consistency="urpc")),
        "coarse": NetPlan(coarse, individual=True),
        "coarse, global": NetPlan(coarse),
        "coarse, squeezed": NetPlan(replace(coarse, patch_size=SQUEEZED_SHAPE), squeezed=True, individual=True),
        "fine": NetPlan(fine, around="organs", start="coarse"),
        "fine, individual": NetPlan(fine, around="organs", start="coarse", individual=True),
    }


def train_net(
    name: str,
    plans: dict[str, NetPlan],
    cohort: CentreCohort,
    folder: str | Path,
    *,
    progress: StageProgress | None = None,
) -> NetStage:
    """Train one net of a study in `folder`/name, or resume or load it; the net it starts from is trained first.

    Prepared cases go to `folder`/../prepared, for all seeds. Raises the errors of `prepare_cases` and `train`.
    """
    plan, folder = plans[name], Path(folder)
    labelled = [case for case in cohort.training if case.label_path is not None]
    without = [case for case in cohort.training if case.label_path is None] if plan.recipe.n_unlabelled else []
    cache = folder.parent / "prepared"
    preprocessing = plan.recipe.preprocessing
    cases = prepare_cases(labelled, cache, preprocessing, around=plan.around, margin_mm=plan.recipe.margin_mm)
    unlabelled = prepare_cases(without, cache, preprocessing)
    recipe = plan.recipe
    if plan.squeezed:
        cases, unlabelled = ([_squeeze(case) for case in them] for them in (cases, unlabelled))
    if not plan.individual:
        shared = moments_of(cases)
        recipe = replace(recipe, mean_hu=shared.mean, sd_hu=shared.sd)
    net = recipe.new_net()
    if plan.start is not None:
        load_strict(net, train_net(plan.start, plans, cohort, folder).net.state_dict(), source=plan.start)
    train(
        net,
        Patches({"cases": cases}, recipe, unlabelled=unlabelled),
        recipe,
        folder=folder / name.replace(", ", "-").replace(" ", "-"),
        on_step=None if progress is None else lambda step, _loss: progress(name, step + 1, recipe.n_steps),
    )
    trained = TrainedNet(net.eval(), recipe.preprocessing, recipe.patch_size, {})
    return SqueezedStage(trained) if plan.squeezed else NetStage(trained)


def _squeeze(case: PreparedCase) -> PreparedCase:
    image = resample_trilinear(np.asarray(case.image_hu, np.float32), SQUEEZED_SHAPE)
    labels = None if case.labels is None else resample_nearest(np.asarray(case.labels), SQUEEZED_SHAPE)
    return PreparedCase(case.name, image, labels, {}, Moments.of(image))


# {arm: (nets it needs, how it segments)}; "coarse to fine" is the paper's way, and each later arm changes one thing
ARMS: dict[str, tuple[tuple[str, ...], Callable[..., Segmentation]]] = {
    "one stage": (("one stage",), segment_in_one_stage),
    "one stage, kl": (("one stage, kl",), segment_in_one_stage),
    "one stage, urpc": (("one stage, urpc",), segment_in_one_stage),
    "coarse to fine": (("coarse", "fine"), segment),
    "coarse global": (("coarse, global", "fine"), segment),
    "coarse squeezed": (("coarse, squeezed", "fine"), segment),
    "fine individual": (("coarse", "fine, individual"), segment),
    "no clean-up": (("coarse", "fine"), lambda *a: segment(*a, clean_up=False)),
    "margin 0 mm": (("coarse", "fine"), lambda *a: segment(*a, margin_mm=0.0)),
    "margin 40 mm": (("coarse", "fine"), lambda *a: segment(*a, margin_mm=40.0)),
}


@dataclass(frozen=True)
class CaseResult:
    """A case's DSC and NSD per organ (13 numbers, NaN as None), seconds, and the worst share of an organ in the ROI."""

    case: str
    centre: str
    dice: list[float | None]
    nsd: list[float | None]
    seconds: float
    in_roi: float


def score_case(case: Case, stages: Sequence[Stage], way: Callable[..., Segmentation]) -> CaseResult:
    """Segment a test case in one of the ways and score it by the official rules."""
    ct, reference = load_ct(case.ct_path), load_labels(case)
    result = way(ct, *stages)
    scores = flare_scores(result.label_map_zyx, reference.array_zyx, reference.spacing_zyx_mm, file_grid=reference.grid)
    return CaseResult(
        case.name,
        case.name.rpartition("_")[0],
        _plain(scores.dice),
        _plain(scores.nsd),
        round(sum(result.seconds.values()), 3),
        round(float(np.nanmin(shares_inside(reference.array_zyx, result.roi), initial=1.0)), 4),
    )


def _plain(scores: np.ndarray) -> list[float | None]:
    return [None if np.isnan(s) else round(float(s), 4) for s in scores]


def run_study(
    cohort: CentreCohort,
    folder: str | Path,
    *,
    seeds: Sequence[int],
    n_coarse_steps: int,
    n_fine_steps: int,
    arms: Sequence[str] = tuple(ARMS),
    progress: StageProgress | None = None,
) -> dict[str, dict[str, list[CaseResult]]]:
    """Train the nets that the arms need, for every seed; segment all test cases and return {arm: {seed: results}}.

    Results are kept in `folder`/seedN/ARM.json. Raises ValueError for an unknown arm, and the errors of `train_net`.
    """
    if unknown := set(arms) - set(ARMS):
        raise ValueError(f"arms must be of {', '.join(ARMS)}, got {', '.join(sorted(unknown))}")
    results: dict[str, dict[str, list[CaseResult]]] = {arm: {} for arm in arms}
    for seed in seeds:
        plans = net_plans(n_coarse_steps, n_fine_steps, seed)
        nets: dict[str, NetStage] = {}
        for arm in arms:
            at = Path(folder) / f"seed{seed}"
            stored = at / f"{arm.replace(' ', '-').replace(',', '')}.json"
            if not stored.is_file():
                names, way = ARMS[arm]
                for name in names:
                    nets[name] = nets.get(name) or train_net(name, plans, cohort, at, progress=progress)
                scored = []
                for done, case in enumerate(cohort.test, start=1):
                    scored.append(score_case(case, [nets[name] for name in names], way))
                    if progress:
                        progress(f"{arm}, seed {seed}", done, len(cohort.test))
                with atomic_write(stored) as unfinished:
                    unfinished.write_text(json.dumps([asdict(r) for r in scored]), encoding="utf-8")
            results[arm][str(seed)] = [CaseResult(**r) for r in json.loads(stored.read_text(encoding="utf-8"))]
    return results


def mean_score(results: Sequence[CaseResult], kind: str = "dice", centres: Sequence[str] | None = None) -> float:
    """Return the mean over organs of the mean over cases of "dice" or "nsd", for all cases or only some centres'.

    Organs that the official rules did not score (NaN) are left out. Raises ValueError if no case is left.
    """
    rows = np.array([getattr(r, kind) for r in results if centres is None or r.centre in centres], float)
    if not rows.size:
        raise ValueError(f"a mean needs at least one case{f' of {centres}' if centres else ''}, got none")
    return float(np.nanmean(np.nanmean(rows, axis=0)))
