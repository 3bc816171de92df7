"""The benchmarks: their arms do what they are called, their targets and tables say what was measured."""

import json
import os
from types import SimpleNamespace

import first_picture  # of benchmarks/, as leave_one_out, mutants, postprocess, slice_interpolation and weights
import leave_one_out
import mutants
import numpy as np
import postprocess
import pytest
import slice_interpolation as benchmark
import torch
import weights

from flare_lib.ct.volume import Volume
from flare_lib.inference.postprocess import keep_largest_components
from flare_lib.synthetic.structures import Structures, organ_labels

SHAPE = (18, 22, 26)


@pytest.fixture(scope="module")
def scores():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 14, 3, 4, 3, generator=generator)
    return torch.nn.functional.interpolate(coarse, (9, 10, 12), mode="trilinear")[0].contiguous()


@pytest.mark.parametrize("arm", [a for a in benchmark.ARMS if a.startswith(("skimage, order 1", "scipy", "ours"))])
def test_exact_arms_agree_with_the_whole_volume(scores, arm):
    differ = (benchmark.ARMS[arm](scores, SHAPE) != benchmark.torch_whole(scores, SHAPE)).mean()
    assert differ < 1e-3  # ties within rounding


@pytest.mark.parametrize("arm", ["authors' 4 slabs", "winner: argmax, nearest", "skimage, order 3"])
def test_the_other_ways_give_other_labels(scores, arm):
    labels = benchmark.ARMS[arm](scores, SHAPE)
    assert labels.shape == SHAPE
    assert 0.001 < (labels != benchmark.torch_whole(scores, SHAPE)).mean() < 0.5


def test_a_wrong_label_is_found_by_float64(scores):
    labels = benchmark.torch_whole(scores, SHAPE)
    assert [benchmark.differ_from_float64(scores, labels, z) for z in (0, 7, 17)] == [0, 0, 0]
    labels[7, 3:5, 4] = (labels[7, 3:5, 4] + 1) % 14
    assert benchmark.differ_from_float64(scores, labels, 7) == 2


def row(arm, seconds, extra_mib=10.0, differ=0):
    return {"arm": arm, "seconds": seconds, "n": 5, "extra_mib": extra_mib, "voxels_differ": differ}


def a_case(ours_s):
    rows = [row("skimage, order 1", 20.0), row("torch, whole volume", 5.0), row("ours, torch", 1.0, 50.0)]
    rows += [row("ours, numba_dense", 0.1), row("ours, auto", ours_s, 30.0), row("floor", 0.01, differ=None)]
    return {"scores": "anatomy", "grid": [1, 2, 3], "shape": [256, 320, 320], "reference": "all of it", "rows": rows}


@pytest.mark.parametrize(("ours_s", "met"), [(0.05, True), (0.2, False)])
def test_targets_compare_ratios(ours_s, met):
    found = {t["target"]: t for t in benchmark.targets([a_case(ours_s)], [])}
    skimage = found["256 x 320 x 320: times faster than skimage order 1 >= 300"]
    assert skimage["measured"] == pytest.approx(20 / ours_s)
    assert skimage["met"] is met
    assert found["256 x 320 x 320: times the floor <= 8"]["measured"] == pytest.approx(ours_s / 0.01)
    assert found["256 x 320 x 320: torch path, extra MiB beside labels <= 100"]["measured"] == pytest.approx(25)


def test_tables_say_what_was_not_measured_and_go_between_the_marks(tmp_path):
    case = a_case(0.05)
    results = {"machine": {"cores": 2, "torch": "2"}, "date": "today", "cases": [case], "stream": []}
    results["targets"] = benchmark.targets([case], [])
    text = benchmark.tables(results)
    assert "| torch, whole volume | 5 (5) | 100.0 | 10 | 0 | not measured |" in text
    page = tmp_path / "README.md"
    page.write_text(
        "before\n<!-- slice_interpolation -->\nold\n<!-- /slice_interpolation -->\nafter\n", encoding="utf-8"
    )
    benchmark.write_page(text, page)
    written = page.read_text(encoding="utf-8")
    assert "old" not in written
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert text in written


def test_scores_are_probabilities(monkeypatch):
    labels = np.zeros((10, 12, 14), np.uint8)
    labels[2:8, 3:9, 4:10] = 5
    monkeypatch.setattr(benchmark, "sample_or_phantom", lambda: type("Case", (), {"label_map_path": ""})())
    monkeypatch.setattr(benchmark, "load_label_map", lambda _: type("Volume", (), {"array_zyx": labels})())
    soft = benchmark.anatomy((6, 7, 8))
    assert soft.shape == (14, 6, 7, 8)
    np.testing.assert_allclose(soft.sum(axis=0), 1, rtol=1e-5)
    assert set(soft.argmax(axis=0).ravel()) <= {0, 5}


def test_scipy_organ_by_organ_keeps_the_same_components_on_a_phantom_with_islands():
    label_map = postprocess.label_map_with_islands((40, 56, 72), (6.5, 5.5, 5.0))
    kept = postprocess.by_scipy(label_map)
    assert np.count_nonzero(label_map) > np.count_nonzero(kept) > 0
    np.testing.assert_array_equal(kept, keep_largest_components(label_map))


def test_a_sample_of_mutants_is_the_same_each_time_and_as_large_in_every_folder():
    names = [f"flare_lib.ct.roi.x_crop__mutmut_{k}" for k in range(50)]
    names += [f"flare_lib.network.unet.xǁUNetǁforward__mutmut_{k}" for k in range(3)]
    chosen = mutants.sample(names, 5, seed=1)
    assert [mutants.chapter_of(name) for name in chosen] == ["ct"] * 5 + ["network"] * 3
    assert mutants.sample(reversed(names), 5, seed=1) == chosen
    assert mutants.sample(names, 5, seed=2) != chosen
    assert len(set(chosen) & set(mutants.sample(names[1:], 5, seed=1))) >= 7
    assert [mutants.tests_of(name) for name in (chosen[0], chosen[-1])] == [
        "tests/ct/test_roi.py",
        "tests/network/test_unet.py",
    ]


def test_the_share_of_mutants_noticed_leaves_out_those_that_no_test_could_notice(tmp_path):
    names = [f"flare_lib.ct.roi.x_crop__mutmut_{k}" for k in range(8)] + ["flare_lib.network.unet.x_f__mutmut_1"]
    unnoticed = [{"name": names[2], "change": "- a\n+ b", "equivalent": None}]
    unnoticed += [{"name": names[k], "change": f"- {k}\n+ b", "equivalent": "c is never negative"} for k in (3, 4, 5)]
    folders = mutants.counts(names, unnoticed)
    assert folders["ct"] == {"mutants": 8, "noticed": 4, "equivalent": 3}
    assert mutants.table(folders)[2:] == ["| ct | 8 | 4 | 3 | 80% |", "| network | 1 | 1 | 0 | 100% |"]
    (tmp_path / "mutants.json").write_text(json.dumps({"unnoticed": unnoticed}), encoding="utf-8")
    known = mutants.reasons(tmp_path / "mutants.json")
    assert known["flare_lib.ct.roi.x_crop", "- 4\n+ b"] == "c is never negative"
    assert len(known) == 3
    assert mutants.reasons(tmp_path / "none.json") == {}
    others = mutants.of_other_samples(tmp_path / "mutants.json", unnoticed[:2])
    assert others == unnoticed[2:]
    later = {"unnoticed": unnoticed[:2], "of_other_samples": others}
    (tmp_path / "mutants.json").write_text(json.dumps(later), encoding="utf-8")
    assert mutants.reasons(tmp_path / "mutants.json") == known
    assert mutants.of_other_samples(tmp_path / "none.json", unnoticed) == []


def test_folders_that_were_not_asked_for_keep_their_results(tmp_path):
    path = tmp_path / "mutants.json"
    of_ct = {"name": "flare_lib.ct.roi.x_crop__mutmut_1", "change": "- a\n+ b", "equivalent": None}
    of_unet = {
        "name": "flare_lib.network.unet.x_f__mutmut_2",
        "change": "- a\n+ b",
        "equivalent": "c is never negative",
    }
    assert mutants.merged(path, {"ct": {"seed": 1}}, [of_ct]) == {
        "folders": {"ct": {"seed": 1}},
        "unnoticed": [of_ct],
        "of_other_samples": [],
    }
    stored = {"folders": {"ct": {"seed": 1}, "network": {"seed": 1}}, "unnoticed": [of_ct, of_unet]}
    path.write_text(json.dumps(stored), encoding="utf-8")
    assert mutants.merged(path, {"network": {"seed": 3}}, []) == {
        "folders": {"ct": {"seed": 1}, "network": {"seed": 3}},
        "unnoticed": [of_ct],
        "of_other_samples": [of_unet],
    }


def exit_codes(folder):
    os.chdir(folder)
    return [mutants.exit_code(name, "test_a.py") for name in (None, "m1", "m2")], mutants.exit_code(None, "test_b.py")


@pytest.mark.slow("a process of its own")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a mutant has a forked process")
def test_tests_that_pass_fail_or_do_not_exist_are_told_apart(fresh_processes, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["slow"]\n')
    (tmp_path / "test_a.py").write_text(
        "import os, pytest\n"
        "def test_that_notices_one():\n    assert os.environ['MUTANT_UNDER_TEST'] != 'm1'\n"
        "@pytest.mark.slow\ndef test_that_is_slow():\n    assert False\n"
    )
    with fresh_processes(1) as pool:  # it forks
        told_apart, missing = pool.submit(exit_codes, tmp_path).result()
    assert told_apart == [0, 1, 0]
    assert missing not in (0, 1)


def test_a_score_knows_organs_that_are_absent_and_a_duodenum_drawn_as_stomach():
    reference = np.zeros((2, 3, 4), np.uint8)
    reference[0, 0], reference[0, 1] = 1, 11
    prediction = reference.copy()
    prediction[0, 1, 2:] = 12
    assert weights.score(prediction, reference) == [1.0] + [None] * 9 + [1.0, None, None]
    reference[1, 0, 0] = 12
    assert weights.score(prediction, reference)[10:12] == [pytest.approx(2 / 3, abs=1e-4), 0.0]


def test_the_mean_of_an_organ_is_over_the_cases_that_hold_it():
    assert weights.means([[0.5, None, None], [1.0, 0.2, None]]) == [0.75, 0.2, None]


def test_the_first_picture_shows_a_slice_both_sides_and_the_legend():
    labels = np.zeros((6, 30, 40), np.uint8)
    labels[1:5, 5:25, 20:35], labels[2:5, 8:20, 4:12] = 1, 3
    ct = Volume.from_array(np.where(labels > 0, 50, -100).astype(np.int16), (5.0, 2.0, 3.0))
    figure = first_picture.first_picture(ct, labels)
    assert [axes.get_title() for axes in figure.axes] == ["one slice", "from the front", "from behind"]
    front, behind = (np.asarray(axes.images[0].get_array()) for axes in figure.axes[1:])
    assert front[0, 0].tolist() == [17, 17, 17]  # the page's own black
    left, right = np.array_split(np.arange(front.shape[1]), 2)
    brown = [
        picture[:, half, 0].max() > picture[:, half, 1].max() for picture in (front, behind) for half in (left, right)
    ]
    assert brown == [True, False, False, True]  # the liver is on the patient's right
    assert [text.get_text() for text in figure.legends[0].texts] == ["Liv  liver", "Spl  spleen"]


def test_nets_learn_from_these_people_and_from_those_between_them_alone():
    bodies = {("a",): ["a1", "a2"], ("b",): ["b1"], ("c",): [], ("a", "b"): ["ab"], ("b", "c"): ["bc"]}
    assert leave_one_out.of_these(["b", "c"], bodies) == ["b1", "bc"]
    assert leave_one_out.of_these(["a", "c"], bodies) == ["a1", "a2"]


def test_only_organs_that_are_whole_are_scored(monkeypatch):
    person = Structures(
        np.zeros((9, 8, 7), np.uint8), {0: "nothing", 1: "liver", 2: "spleen", 3: "pancreas"}, (3, 2, 1)
    )
    person.array_zyx[2:5, 2:5, 2:4], person.array_zyx[:2, 6, 2:5] = 1, 2  # the map's end cuts the spleen
    ct = Volume.from_array(np.zeros((9, 8, 7), np.float32), (3, 2, 1))
    painted = organ_labels(person)
    painted[0, 6, :], painted[4, 4:, 5] = 0, 4  # the spleen is pulled in, and the CT's edge cuts the pancreas
    found = np.where(painted == 1, 1, 0).astype(np.uint8)
    monkeypatch.setattr(leave_one_out, "painted_cases", lambda *_: [("painted 5", ct, painted)])
    monkeypatch.setattr(leave_one_out, "segment", lambda *_: SimpleNamespace(label_map_zyx=found))
    ((name, dice),) = leave_one_out.scores_of((None, None), person, range(5, 6))
    assert (name, dice) == ("painted 5", [1.0] + [None] * 12)
