"""Who does the work: what the options open."""

import pytest
from scans import grey_values, labels_zyx, save, save_labels

from flare_lib.commands.workers import chosen_pool
from flare_lib.machine import cluster
from flare_lib.machine.processes import Processes


def test_this_process_is_no_pool_and_processes_are_one():
    with chosen_pool(0, None) as pool:
        assert pool is None
    with chosen_pool(3, None) as pool:
        assert isinstance(pool, Processes)
        assert pool.n_slots() == 3


def test_a_scheduler_comes_before_processes_and_its_page_is_told(monkeypatch, capsys):
    class Workers:
        dashboard = "http://there/status"

        def __init__(self, address, on_note):
            self.address = address

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(cluster, "DaskWorkers", Workers)
    with chosen_pool(2, "tcp://there:1") as pool:
        assert pool.address == "tcp://there:1"
    assert capsys.readouterr().err == "note: Dask shows the progress at http://there/status\n"


def test_a_scheduler_and_batch_jobs_exclude_each_other():
    said = "got --scheduler tcp://there:1 as well"
    with pytest.raises(ValueError, match=said), chosen_pool(2, "tcp://there:1", jobs={}):
        pass


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow("two processes that load the library"))])
def test_cases_are_checked_by_whom_one_likes(flare, ct_path, tmp_path, workers):
    code, out, _ = flare("check", tmp_path, "--workers", workers)
    assert (code, out[-1]) == (0, "1 case, 0 of them with labels: none with problems")


@pytest.fixture(scope="module")
def scheduler():
    """The address of a Dask scheduler with one worker, in this process."""
    distributed = pytest.importorskip("distributed")
    port = {"dashboard_address": ":0"}  # whichever is free
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, scheduler_kwargs=port
    ) as cluster:
        yield cluster.scheduler_address


def test_a_scheduler_does_it_and_a_bad_file_costs_only_itself(flare, scheduler, tmp_path):
    for folder in ("images", "labels", "predictions"):
        (tmp_path / "cases" / folder).mkdir(parents=True)
    for name in ("a", "b", "c"):
        save(tmp_path / "cases" / "images" / f"{name}_0000.nii.gz", grey_values())
        for folder in ("labels", "predictions"):
            save_labels(tmp_path / "cases" / folder / f"{name}.nii.gz", labels_zyx())
    (tmp_path / "cases" / "labels" / "b.nii.gz").write_bytes(b"junk")
    cases, references = tmp_path / "cases", tmp_path / "cases" / "labels"

    code, out, err = flare("check", cases, "--scheduler", scheduler)
    assert (code, out[-1]) == (1, "3 cases, 3 of them with labels: 1 with problems")
    assert sum("b.nii.gz must be a NIfTI-1 or NIfTI-2 file" in line for line in out) == 1

    scores = tmp_path / "scores.csv"
    code, out, err = flare("evaluate", cases / "predictions", references, "-o", scores, "--scheduler", scheduler)
    assert (code, out[-1]) == (2, f"2 of 3 cases scored; wrote {scores}")
    assert [line for line in err if "b.nii.gz must be" in line] == [err[-1]]

    organs = tmp_path / "organs.csv"
    code, out, err = flare("measure", cases / "images", references, "-o", organs, "--scheduler", scheduler)
    assert (code, out[-1]) == (2, f"2 of 3 cases measured; wrote {organs}")
    assert len(organs.read_text().splitlines()) == 1 + 2 * 2


def test_a_scheduler_prepares_what_training_reads(flare, scheduler, tmp_path, monkeypatch):
    for folder in ("images", "labels"):
        (tmp_path / "cases" / folder).mkdir(parents=True)
    for name in ("a", "b"):
        save(tmp_path / "cases" / "images" / f"{name}_0000.nii.gz", grey_values())
        save_labels(tmp_path / "cases" / "labels" / f"{name}.nii.gz", labels_zyx())
    monkeypatch.chdir(tmp_path)  # the workers are elsewhere
    tiny = {"n_steps": 1, "patch_size": (8, 16, 16), "features_per_stage": (4, 6), "strides": "((2,2,2),)"}
    tiny |= {"n_heads": 1, "n_unlabelled": 0, "sources": '{"cases":1.0}', "batch_size": 1}
    changes = [part for name, value in tiny.items() for part in ("--set", f"{name}={value}".replace(" ", ""))]
    code, out, err = flare(
        "train", "coarse", "-o", "t", "--preset", "course", "--cohort", "cases", *changes, "--workers", 0,
        "--scheduler", scheduler,
    )  # fmt: skip
    assert (code, err[0][:16]) == (0, "note: Dask shows")
    assert out[-1].startswith("1 steps, ")
    prepared = sorted(path.parent.name for path in (tmp_path / "t" / "prepared").glob("*/*/image.npy"))
    assert prepared == ["a", "b"]
