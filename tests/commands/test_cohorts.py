"""Labels of any number of CTs into a folder: what is written and said, what is not done twice, who does it."""

import errno
import json
import os

import numpy as np
import pytest
from scans import assert_refused, files_in, grey_values, save

from flare_lib.ct.files import load_label_map
from flare_lib.ct.labels import IGNORED
from flare_lib.network.weights import save_trained
from flare_lib.training.recipes import preset


def test_several_cts_go_into_a_folder_and_a_bad_one_does_not_stop_the_others(flare, nets, tmp_path):
    first, last = (save(tmp_path / f"{name}_0000.nii.gz", grey_values()) for name in ("a", "c"))
    bad = save(tmp_path / "b.nii", grey_values().astype(np.uint8))
    out = tmp_path / "out"
    command = ("segment", first, bad, last, "-o", out, "--workers", 0, "--device", "cpu")
    code, said, err = flare(*command)
    assert code == 2
    assert [f for f in files_in(out) if not f.startswith(".")] == [
        "a.nii.gz",
        "c.nii.gz",
        "cohort.html",
        "manifest.jsonl",
        "thumbnails",
    ]
    assert [line for line in err if line.startswith("error: ")] == [line for line in err if "b.nii" in line]
    assert said[-1].startswith("3 CTs, 2 segmented, 1 put aside, 0 of them in earlier runs; wrote ")
    assert len(nets) == 2
    code, said, err = flare(*command)
    assert (code, len(err)) == (2, 1)
    assert said[-1].startswith("3 CTs, 2 segmented, 1 put aside, 3 of them in earlier runs; wrote ")
    assert len(nets) == 2
    page = (out / "cohort.html").read_text()
    assert page.index("b.nii must be") < page.index("thumbnails/a.png")


@pytest.fixture
def small_net(tmp_path):
    """The stem of untrained weights that say nothing for sure."""
    net = {"features_per_stage": (2, 3), "strides": ((2, 2, 2),), "n_heads": 1, "patch_size": (8, 6, 4)}
    recipe = preset("course", "fine", **net, spacing_zyx_mm=(4.0, 3.0, 2.0), mean_hu=0.0, sd_hu=100.0)
    card = {"preprocessing": recipe.preprocessing.to_dict(), "patch_size": list(recipe.patch_size)}
    save_trained(tmp_path / "nets" / "small", recipe.new_net(), card)
    return tmp_path / "nets" / "small"


def test_pseudo_labels_ignore_what_the_nets_are_unsure_of_and_are_made_once(flare, ct_path, small_net, tmp_path):
    out = tmp_path / "archive" / "labels"
    command = ("pseudo-label", ct_path, "-o", out, "--weights", small_net, "--scale", 1, "--workers", 0)
    code, said, err = flare(*command, "--device", "cpu")
    assert (code, err) == (0, [])
    assert said[-1].startswith("1 CT, 1 segmented, 0 put aside, 0 of them in earlier runs; wrote ")
    labels, inside = load_label_map(out / "case.nii.gz").array_zyx, grey_values().T > 0
    assert (labels[inside] == IGNORED).all()
    assert not labels[~inside].any()
    [entry] = map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
    assert (entry["settings"]["sure"], entry["settings"]["scales"]) == (0.75, [1.0])
    assert set(entry["volumes_ml"].values()) == {0.0}
    assert flare(*command)[1][-1].startswith("1 CT, 1 segmented, 0 put aside, 1 of them in earlier runs")
    assert flare(*command, "--sure", 0)[1][-1].startswith("1 CT, 1 segmented, 0 put aside, 0 of them in earlier runs")
    assert (load_label_map(out / "case.nii.gz").array_zyx[inside] != IGNORED).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "labels.nii.gz"], "--output must be a folder for the labels, got labels.nii.gz"),
        (["-o", "new", "--weights", "nowhere/fine"], "nowhere/fine.safetensors"),
        (["-o", "new", "--sure", "75"], "--sure"),
        (["-o", "new", "--scale", "0"], "--scale"),
    ],
)
def test_pseudo_labels_that_cannot_be_made_are_refused_before_any_work(flare, ct_path, arguments, message, monkeypatch):
    monkeypatch.chdir(ct_path.parent)
    before = files_in(ct_path.parent)
    assert_refused(flare("pseudo-label", ct_path, *arguments, "--workers", 0), message)
    assert files_in(ct_path.parent) == before


@pytest.mark.slow("a process that loads torch, and the real nets")
def test_other_processes_segment_with_the_packaged_nets(flare, tmp_path):
    ct = np.full((40, 42, 30), -1000, np.int16)
    ct[5:35, 5:37, :] = 30
    save(tmp_path / "in_0000.nii.gz", ct, np.diag([4.0, 4.5, 5.0, 1.0]))
    code, said, _ = flare("segment", tmp_path / "in_0000.nii.gz", "-o", tmp_path / "out", "--workers", 1)
    assert code == 0
    assert said[-1].startswith("1 CT, 1 segmented, 0 put aside")
    [entry] = map(json.loads, (tmp_path / "out" / "manifest.jsonl").read_text().splitlines())
    assert (entry["name"], entry["state"]) == ("in", "done")
    assert entry["peak_mib"] > 100


def test_the_page_is_written_when_a_run_is_stopped(flare, nets, ct_path, tmp_path, monkeypatch):
    other = save(tmp_path / "other.nii.gz", grey_values())

    def stopped(folder, name, ct, labels):
        if name == "other":
            raise KeyboardInterrupt

    monkeypatch.setattr("flare_lib.display.cohort_page.save_thumbnail", stopped)
    code, _, err = flare("segment", ct_path, other, "-o", tmp_path / "out", "--workers", 0)
    assert code == 130
    assert "stopped" in err[-1]
    page = (tmp_path / "out" / "cohort.html").read_text()
    assert "1 case, 0 put aside" in page
    assert len((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()) == 1


def test_what_a_batch_job_would_be_is_printed_and_nothing_is_submitted(flare, tmp_path):
    settings = ("--job", "cores=3", "--job", "memory=5GB", "--job", "walltime=01:00:00", "--job", "interface=lo")
    code, said, _ = flare("segment", tmp_path, "-o", tmp_path / "out", "--slurm", "--dry-run", *settings)
    assert code == 0
    assert "#SBATCH --cpus-per-task=3" in said
    assert "#SBATCH -t 01:00:00" in said
    assert "export OMP_NUM_THREADS=3" in said
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_together_is_refused(flare, ct_path, tmp_path):
    answer = flare("segment", ct_path, "-o", tmp_path / "out", "--dry-run")
    assert_refused(answer, "--dry-run and --job are about batch jobs and need --slurm, got no --slurm")
    answer = flare("segment", ct_path, "-o", tmp_path)
    assert_refused(answer, f"the output must be another folder than that of a CT, got {tmp_path}")
    answer = flare("segment", tmp_path / "none", "-o", tmp_path / "out")
    assert_refused(answer, "every input must exist, got ")
    assert not (tmp_path / "out").exists()


def test_a_ct_is_never_overwritten_through_a_link_or_a_name(flare, nets, tmp_path):
    (tmp_path / "scans").mkdir()
    ct = save(tmp_path / "scans" / "a.nii.gz", grey_values())
    content = ct.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "scans")
    code, _, err = flare("segment", tmp_path / "link", "-o", tmp_path / "scans", "--workers", "0")
    assert (code, "must be another folder than that of a CT" in err[0]) == (2, True)
    (tmp_path / "list.csv").write_text("name,ct\n../scans/a,scans/a.nii.gz\n")
    code, _, err = flare("segment", tmp_path / "list.csv", "-o", tmp_path / "out", "--workers", "0")
    assert (code, "a CT's name must be a file's name, without folders, got '../scans/a'" in err[0]) == (2, True)
    assert ct.read_bytes() == content


def test_labels_below_their_cts_are_no_cts_of_the_next_run(flare, nets, tmp_path):
    (tmp_path / "scans").mkdir()
    save(tmp_path / "scans" / "a.nii.gz", grey_values())
    for n_before in (0, 1):
        code, out, _ = flare("segment", tmp_path / "scans", "-o", tmp_path / "scans" / "labels", "--workers", "0")
        assert code == 0
        assert out[-1].startswith(f"1 CT, 1 segmented, 0 put aside, {n_before} of them in earlier runs")


def test_labels_of_an_earlier_run_among_the_cts_are_no_cts_of_another_one(flare, nets, tmp_path):
    (tmp_path / "scans").mkdir()
    save(tmp_path / "scans" / "a.nii.gz", grey_values())
    for name in ("first", "second"):
        code, out, err = flare("segment", tmp_path / "scans", "-o", tmp_path / "scans" / name, "--workers", "0")
        assert (code, err) == (0, [])
        assert out[-1].startswith("1 CT, 1 segmented")
    assert [path.name for path in (tmp_path / "scans" / "second").glob("*.gz")] == ["a.nii.gz"]


@pytest.mark.parametrize("place", ["cohort.html/", "thumbnails"])
def test_what_lies_where_page_and_pictures_go_is_told_before_any_work(flare, nets, ct_path, tmp_path, place):
    (tmp_path / "out").mkdir()
    if place.endswith("/"):
        (tmp_path / "out" / place).mkdir()
    else:
        (tmp_path / "out" / place).write_text("mine")
    answer = flare("segment", ct_path, "-o", tmp_path / "out", "--workers", "0")
    assert_refused(
        answer, "the page of a cohort must be a file" if "html" in place else "the pictures of a cohort must"
    )
    assert nets == []


def test_a_page_that_cannot_be_written_is_a_failure(flare, nets, ct_path, tmp_path, monkeypatch):
    def full(path, entries, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("flare_lib.display.cohort_page.write_cohort_page", full)
    code, out, err = flare("segment", ct_path, "-o", tmp_path / "out", "--workers", "0")
    assert (code, err) == (2, [f"error: {tmp_path / 'out' / 'cohort.html'}: No space left on device"])
    assert out[-1].endswith(f"wrote {tmp_path / 'out' / 'manifest.jsonl'}")
