"""Commands over several cases, their folders, names and ends: one case that fails fails alone, nothing half-written."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import kill  # of benchmarks/
import numpy as np
import pytest
from scorers import killed_on_b

from flare_lib.ct.files import save_ct, save_label_map
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Volume
from flare_lib.data import cohort
from flare_lib.evaluation import cohort_scores
from flare_lib.inference import coarse_to_fine, cohort_run, methods, stages
from flare_lib.inference.coarse_to_fine import Segmentation

SHAPE, SPACING = (6, 8, 9), (3.0, 2.0, 1.5)
CT = Volume.from_array(np.full(SHAPE, -1000, np.int16), SPACING)
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[1:4, 2:6, 3:7] = 1


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def segment(flare, tmp_path, monkeypatch):
    """Run `flare segment` with nets that need no time, on CTs of these names; a CT's name says what happens to it."""
    ends = {
        "memory": MemoryError("90 TiB for an array"),
        "overflow": OverflowError("cannot fit"),
        "fault": ZeroDivisionError("division by zero"),
        "ctrl-c": KeyboardInterrupt(),
    }

    def load_ct(path):
        if error := ends.get(path.name.split(".")[0].lower()):
            raise error
        return CT

    def segment_ct(ct, coarse, fine, **_):
        return Segmentation(LABELS, ct, Box((0, 0, 0), SHAPE), {"coarse net": 0.0}, (), precision={"fine": "float32"})

    monkeypatch.setattr(cohort_run, "load_ct", load_ct)
    methods.open_method.cache_clear()
    monkeypatch.setattr(stages, "load_stages", lambda folder, **_: (None, None))
    monkeypatch.setattr(coarse_to_fine, "segment", segment_ct)
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()

    def run(*names):
        for name in names:
            (tmp_path / "in" / name).touch()
        given = ("-o", tmp_path / "out", "--workers", 0)
        code, said, err = flare("segment", *(tmp_path / "in" / name for name in names), *given)
        for name in ("manifest.jsonl", ".manifest.jsonl.lock", "cohort.html", "thumbnails"):
            assert (tmp_path / "out" / name).exists() or code, name
            shutil.rmtree(tmp_path / "out" / name, ignore_errors=True)
            (tmp_path / "out" / name).unlink(missing_ok=True)
        return code, said, err

    yield run
    methods.open_method.cache_clear()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("memory.nii", "there must be enough memory for it, got too little (90 TiB for an array)"),
        ("overflow.nii", "OverflowError: cannot fit"),
        ("fault.nii", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_case_that_ends_in_any_exception_ends_alone(segment, tmp_path, name, said):
    code, _, err = segment("a.nii", name, "z.nii")
    assert code == 2
    assert err == [f"error: {tmp_path / 'in' / name}: {said}"]
    assert names_in(tmp_path / "out") == ["a.nii.gz", "z.nii.gz"]


def test_ctrl_c_is_a_line_and_130_and_leaves_whole_files(segment, tmp_path):
    code, _, err = segment("a.nii", "ctrl-c.nii", "z.nii")
    assert (code, len(err)) == (130, 1)
    assert err[0].startswith("stopped")
    assert names_in(tmp_path / "out") == ["a.nii.gz"]


def test_a_full_disk_is_told_by_the_file_and_leaves_nothing(segment, tmp_path, monkeypatch):
    replace = os.replace

    def full_disk(source, target):
        if target.name == "manifest.jsonl":  # it is there from the start; its lines are added in place
            return replace(source, target)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full_disk)
    code, _, err = segment("a.nii")
    target = tmp_path / "out" / "a.nii.gz"
    assert code == 2
    assert f"error: {tmp_path / 'in' / 'a.nii'}: {target}: No space left on device" in err
    assert names_in(tmp_path / "out") == []


def test_labels_of_a_ct_in_capitals_have_a_name_in_small_letters(segment, tmp_path):
    assert segment("CASE_0000.NII.GZ", "Other.Nii")[0] == 0
    assert names_in(tmp_path / "out") == ["CASE.nii.gz", "Other.nii.gz"]


def test_a_long_name_works_and_one_too_long_is_told_before_the_work(segment, tmp_path):
    long = "x" * (255 - len(".nii.gz"))
    assert segment(f"{long}.nii.gz")[0] == 0
    assert names_in(tmp_path / "out") == [f"{long}.nii.gz"]
    (tmp_path / "in" / f"{long}yyy.nii").touch()
    code, _, err = segment(f"{long}yyy.nii")
    assert (code, len(err)) == (2, 1)
    assert "File name too long" in err[0]


@pytest.fixture
def pairs(tmp_path):
    """Predictions and references of three cases."""
    for folder in ("found", "true"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            save_label_map(tmp_path / folder / f"{name}.nii.gz", LABELS, CT)
    return tmp_path / "found", tmp_path / "true"


def test_scores_of_the_others_are_kept_when_one_case_needs_too_much_memory(flare, pairs, tmp_path, monkeypatch):
    def load(path):
        if path.name == "b.nii.gz":
            raise MemoryError
        return CT.with_array(LABELS)

    monkeypatch.setattr(cohort_scores, "load_label_map", load)
    code, out, err = flare("evaluate", *pairs, "-o", tmp_path / "s.csv")
    assert (code, err) == (2, ["error: b: there must be enough memory for it, got too little"])
    assert out[-1].startswith("2 of 3 cases scored")
    assert [line.split(",")[0] for line in (tmp_path / "s.csv").read_text().splitlines()] == ["Name", "a", "c"]


@pytest.mark.slow("two processes that load the library")
def test_a_worker_that_is_killed_costs_its_own_case(flare, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(cohort_scores, "score_pair", killed_on_b)
    code, out, err = flare("evaluate", *pairs, "-o", tmp_path / "s.csv", "--workers", 1)
    assert (code, len(err)) == (2, 1)
    assert err[0].startswith("error: b: its process must run to the end, got killed")
    assert out[-1].startswith("2 of 3 cases scored")


def test_a_case_that_checking_fails_on_is_a_problem_of_its_own(flare, tmp_path, monkeypatch):
    def load_ct(path):
        raise RecursionError("too deep")

    for name in "ab":
        save_ct(tmp_path / f"{name}.nii.gz", CT)
    monkeypatch.setattr(cohort, "load_ct", load_ct)
    code, out, _ = flare("check", tmp_path)
    assert (code, out[:2]) == (1, ["a: RecursionError: too deep", "b: RecursionError: too deep"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["measure", "ct.nii", "labels.nii", "-o", "no/t.csv"],
            "the table's folder must exist and be writable",
        ),
        (["evaluate", "a", "b", "-o", "folder.csv"], "the table must be a file, got the folder folder.csv"),
        (["evaluate", "a", "b", "-o", f"{'x' * 252}.csv"], "File name too long"),
        (
            ["train", "coarse", "-o", "a-file"],
            "the output must be a writable folder, or one that can be created, got a-file",
        ),
        (["train", "coarse", "-o", "a-file/new"], "the output must be a writable folder, or one that can be created"),
        (["fetch", "--to", "a-file"], "the output must be a writable folder, or one that can be created, got a-file"),
        (
            ["notebooks", "--out", "a-file"],
            "the output must be a writable folder, or one that can be created, got a-file",
        ),
        (["phantom", "no/ct.nii.gz", "labels.nii.gz"], "the output's folder must exist, got no"),
    ],
)
def test_an_output_that_cannot_be_is_told_before_any_work(flare, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    (tmp_path / "folder.csv").mkdir()
    before = names_in(tmp_path)
    code, out, err = flare(*arguments)
    assert (code, out, len(err)) == (2, [], 1)
    assert said in err[0]
    assert names_in(tmp_path) == before


@pytest.mark.slow("a process that compiles")
def test_who_can_write_nowhere_has_loops_compiled_in_every_run(tmp_path):
    code = (
        "from numba.core import caching; caching.CacheImpl._locator_classes = []\n"
        "import numpy as np\n"
        "from flare_lib.inference.components import find_components\n"
        "print(find_components(np.full((2, 3, 4), 7, np.uint8)).sizes.tolist())"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 24]\n", "")


@pytest.mark.slow("every kind of job, started, killed and started again")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the jobs are forks")
def test_killed_at_random_moments_nothing_is_lost_or_half_written(fresh_processes):
    with fresh_processes(1) as pool:  # it forks
        found = pool.submit(kill.measure, 1, n_cts=2, n_steps=6).result()
    assert found.keys() == set(kill.JOBS)
    for job, counts in found.items():
        assert counts["kills"] == 1, job
        assert (counts["lost"], counts["half_written"], counts["different_in_the_end"]) == (0, 0, 0), job
        assert counts["files"] > 0, job
