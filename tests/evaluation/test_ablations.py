"""Ablations: nets that differ in one thing, arms scored alike, and what is done is not done again."""

from dataclasses import replace

import pytest

from flare_lib.data import centres
from flare_lib.data.centres import CENTRES, write_centres
from flare_lib.evaluation import ablations
from flare_lib.evaluation.ablations import (
    ARMS,
    CaseResult,
    mean_score,
    net_plans,
    run_study,
    train_net,
)
from flare_lib.inference.stages import SqueezedStage
from flare_lib.training import loop
from flare_lib.training.patches import loader


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, quick_phantoms):
    small = tuple(replace(c, spacing_zyx_mm=(9.9, 9.0, 8.0)) for c in CENTRES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(centres, "CENTRES", small)
        return write_centres(tmp_path_factory.mktemp("cohort"), 1, 1, 2)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Where the tests' studies lie side by side, so that all take the same prepared cases."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(autouse=True)
def patches_made_here(monkeypatch):
    """Make patches in the test's own process, which must not be forked."""
    monkeypatch.setattr(loop, "loader", lambda patches, **_how: loader(patches, n_workers=0))


@pytest.fixture
def small_plans(monkeypatch):
    """`net_plans` with narrow nets, small patches and large voxels, for which a step takes no time.

    `run_study` takes them too.
    """

    def small(*arguments, **keywords):
        narrow = {"features_per_stage": (2, 3), "strides": ((2, 2, 2),), "n_heads": 1}
        narrow |= {"spacing_zyx_mm": (10.0, 10.0, 10.0)}
        plans = {}
        for name, plan in net_plans(*arguments, **keywords).items():
            patch_size = plan.recipe.patch_size if plan.squeezed else (16, 20, 24)
            plans[name] = replace(plan, recipe=replace(plan.recipe, patch_size=patch_size, **narrow))
        return plans

    monkeypatch.setattr(ablations, "net_plans", small)
    return small


def test_arms_differ_in_one_thing():
    plans = net_plans(40, 20, seed=3)
    one, fine = plans["one stage"].recipe, plans["fine"].recipe
    assert one.n_steps == plans["coarse"].recipe.n_steps + fine.n_steps == 60
    kl = plans["one stage, kl"].recipe
    assert replace(kl, n_unlabelled=0, ramp_up_steps=one.ramp_up_steps) == one
    assert replace(plans["one stage, urpc"].recipe, consistency="kl") == kl
    assert replace(plans["coarse"], individual=False) == plans["coarse, global"]
    assert replace(plans["fine, individual"], individual=False) == plans["fine"]
    assert all(plan.recipe.seed == 3 for plan in plans.values())
    assert {name for needed, _ in ARMS.values() for name in needed} == set(plans)


@pytest.mark.slow("trains three nets")
@pytest.mark.usefixtures("small_plans")
def test_a_study_is_done_once_and_gives_each_arm_each_case(cohort, work, monkeypatch):
    settings = {"seeds": [4], "n_coarse_steps": 2, "n_fine_steps": 1, "arms": ["one stage", "coarse to fine"]}
    calls = []
    results = run_study(cohort, work / "study", progress=lambda *call: calls.append(call), **settings)
    assert list(results) == settings["arms"]
    for arm in results:
        assert [r.case for r in results[arm]["4"]] == [case.name for case in cohort.test]
        assert [r.centre for r in results[arm]["4"]] == ["arterial", "portal"]
        assert all(len(r.dice) == len(r.nsd) == 13 and r.seconds > 0 for r in results[arm]["4"])
    assert all(r.in_roi == 1 for r in results["one stage"]["4"])  # it looks at the whole foreground
    assert ("one stage", 3, 3) in calls
    assert ("coarse to fine, seed 4", 2, 2) in calls

    def never(*_arguments, **_keywords):
        raise AssertionError("trained again")

    monkeypatch.setattr(ablations, "train_net", never)
    assert run_study(cohort, work / "study", **settings) == results


def test_an_unknown_arm_is_refused_before_any_work(cohort, tmp_path):
    with pytest.raises(ValueError, match=r"arms must be of one stage, .*got three stages"):
        run_study(
            cohort, tmp_path / "work", seeds=[0], n_coarse_steps=1, n_fine_steps=1, arms=["one stage", "three stages"]
        )
    assert not (tmp_path / "work").exists()


@pytest.mark.slow("trains two nets")
def test_normalisation_is_what_the_plan_says(cohort, work, small_plans):
    plans = small_plans(1, 1, seed=0)
    own, shared = (train_net(name, plans, cohort, work / "normalised") for name in ("coarse", "coarse, global"))
    assert own.preprocessing.mean_hu is None
    assert -325 < shared.preprocessing.mean_hu < 325
    assert 0 < shared.preprocessing.sd_hu < 325


@pytest.mark.slow("trains a net")
def test_a_plan_for_squeezed_cts_gives_a_stage_that_squeezes(cohort, work, small_plans):
    stage = train_net("coarse, squeezed", small_plans(1, 1, seed=0), cohort, work / "squeezed")
    assert isinstance(stage, SqueezedStage)
    assert stage.patch_size == ablations.SQUEEZED_SHAPE


def test_a_mean_is_over_cases_first_and_leaves_out_what_is_not_scored():
    def case(centre, first, second):
        rest = [0.5] * 11
        return CaseResult("c", centre, [first, second, *rest], [1.0] * 13, 1.0, 1.0)

    cases = [case("a", 0.2, None), case("b", 0.4, 0.9)]
    assert mean_score(cases) == pytest.approx((0.3 + 0.9 + 11 * 0.5) / 13)
    assert mean_score(cases, "nsd") == 1
    assert mean_score(cases, centres=["b"]) == pytest.approx((0.4 + 0.9 + 11 * 0.5) / 13)
    with pytest.raises(ValueError, match=r"one case of \['c'\], got none"):
        mean_score(cases, centres=["c"])
