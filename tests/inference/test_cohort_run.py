"""Thousands of cases in small: what is done, what is done again, what is put aside, and what the manifest says."""

import errno
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from flare_lib.ct.files import load_label_map, save_ct
from flare_lib.ct.labels import organ
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Volume
from flare_lib.data.cohort import Case
from flare_lib.inference import coarse_to_fine, cohort_run, methods, postprocess, stages
from flare_lib.inference.coarse_to_fine import Segmentation
from flare_lib.inference.cohort_run import segment_cohort
from flare_lib.inference.expected_memory import expected_memory_mib
from flare_lib.inference.methods import Settings, weights_sha256

SPACING = (3.0, 2.0, 1.5)
ABSENT = 0.0


@pytest.fixture
def segmented(monkeypatch):
    """Nets that find 12 voxels of liver wherever it is bright; the list holds the brightness of what they saw."""
    seen = []

    def segment(ct, coarse, fine, **_):
        seen.append(int(ct.array_zyx.max()))
        labels = np.zeros(ct.shape_zyx, np.uint8)
        labels[1:3, 2:4, 2:5] = organ("liver").id
        return Segmentation(labels, ct, Box((0, 0, 0), ct.shape_zyx), {"net": 0.25}, ("looked",))

    fine = SimpleNamespace(scales=(1.0, 1.5), with_scales=lambda *_: "fine, once")
    monkeypatch.setattr(stages, "load_stages", lambda folder, **_: ("coarse", fine))
    monkeypatch.setattr(coarse_to_fine, "segment", segment)
    methods.open_method.cache_clear()
    yield seen
    methods.open_method.cache_clear()


def write(path, hu):
    values = np.full((5, 6, 7), -1000, np.int16)
    values[1:4, 1:5, 1:6] = hu
    save_ct(path, Volume.from_array(values, SPACING))
    return Case(path.name.removesuffix(".nii.gz"), path)


@pytest.fixture
def cases(tmp_path):
    return [write(tmp_path / f"c{k}.nii.gz", 40 + k) for k in range(3)]


def test_a_line_says_all_of_a_case_and_the_labels_are_there(segmented, cases, tmp_path):
    seen = []
    entry, *_ = segment_cohort(cases, tmp_path / "out", progress=lambda *at: seen.append(at))
    assert segmented == [40, 41, 42]
    assert seen[-3:] == [(1, 3), (2, 3), (3, 3)]
    assert entry["state"] == "done"
    assert entry["volumes_ml"]["liver"] == pytest.approx(12 * 9 / 1000, abs=0.005)
    assert entry["volumes_ml"]["spleen"] == ABSENT
    assert entry["notes"] == ["looked"]
    assert set(entry["seconds"]) == {"load", "net", "save"}
    assert entry["seconds"]["net"] == 0.25
    assert entry["weights_sha256"] == weights_sha256(Settings())
    assert entry["peak_mib"] > 1
    labels = load_label_map(tmp_path / "out" / entry["output"])
    assert (labels.array_zyx == 1).sum() == 12
    assert entry["output_bytes"] == (tmp_path / "out" / "c0.nii.gz").stat().st_size


def test_what_is_done_is_not_done_again_unless_something_changed(segmented, cases, tmp_path, monkeypatch):
    out = tmp_path / "out"
    segment_cohort(cases[:2], out)
    segment_cohort(cases, out)
    assert segmented == [40, 41, 42]
    os.utime(cases[0].ct_path, (1, 1))  # touched, but the same
    segment_cohort(cases, out)
    assert segmented == [40, 41, 42]
    write(cases[1].ct_path, 50)
    (out / "c2.nii.gz").unlink()
    segment_cohort(cases, out)
    assert segmented[3:] == [50, 42]
    segment_cohort(cases[:1], out, Settings(margin_mm=5.0))
    assert segmented[5:] == [40]
    entry, *_ = segment_cohort(cases[:1], out, Settings(margin_mm=5.0, tile_step=0.75, fit_tiles=1.5))
    assert (segmented.pop(), len(segmented)) == (40, 6)
    assert (entry["settings"]["tile_step"], entry["settings"]["fit_tiles"]) == (0.75, 1.5)
    segment_cohort(cases[:1], out, Settings(margin_mm=5.0, tile_step=0.75, fit_tiles=2.0))
    assert (segmented.pop(), len(segmented)) == (40, 6)
    segment_cohort(cases[:1], out, Settings(margin_mm=5.0, tile_step=0.75, fit_tiles=2.0, fast=True))
    assert (segmented.pop(), len(segmented)) == (40, 6)
    monkeypatch.setattr(cohort_run, "weights_sha256", lambda _: {"coarse": "other", "fine": "other"})
    entries = segment_cohort(cases, out)
    assert segmented[6:] == [40, 50, 42]
    assert [entry["name"] for entry in entries] == ["c0", "c1", "c2"]
    assert (out / "manifest.jsonl").read_bytes().count(b"\n") >= 3


def test_labels_of_other_rules_or_another_version_are_not_taken_for_todays(segmented, cases, tmp_path, monkeypatch):
    out = tmp_path / "out"
    segment_cohort(cases[:2], out)
    monkeypatch.setattr(postprocess, "MIN_SHARE", 0.25)
    entry, _ = segment_cohort(cases[:2], out)
    assert (segmented, entry["rules"]["min_share"]) == ([40, 41, 40, 41], 0.25)
    monkeypatch.setattr(cohort_run, "__version__", "0.0.9")
    entry, _ = segment_cohort(cases[:2], out)
    assert (segmented[4:], entry["version"]) == ([40, 41], "0.0.9")
    segment_cohort(cases[:2], out)
    assert segmented[6:] == []


def test_a_case_that_found_no_room_on_the_disk_is_tried_again_by_the_next_run(segmented, cases, tmp_path, monkeypatch):
    def full(path, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    out, real = tmp_path / "out", cohort_run.save_label_map
    monkeypatch.setattr(cohort_run, "save_label_map", full)
    entries = segment_cohort(cases[:2], out)
    assert [entry["state"] for entry in entries] == ["failed"] * 2
    assert entries[1]["error"].endswith("c1.nii.gz: No space left on device")
    monkeypatch.setattr(cohort_run, "save_label_map", real)
    assert [entry["state"] for entry in segment_cohort(cases[:2], out)] == ["done"] * 2
    assert segmented == [40, 41, 40, 41]


def test_a_bad_case_is_put_aside_and_tried_again_when_it_changes_or_on_request(segmented, cases, tmp_path):
    cases[1].ct_path.write_bytes(b"junk")
    cases.append(Case("gone", tmp_path / "gone.nii.gz"))
    out = tmp_path / "out"
    entries = segment_cohort(cases, out)
    assert [entry["state"] for entry in entries] == ["done", "failed", "done", "failed"]
    assert "c1.nii.gz must be a NIfTI-1 or NIfTI-2 file" in entries[1]["error"]
    assert "must exist" in entries[3]["error"] or "No such file" in entries[3]["error"]
    lines = (out / "manifest.jsonl").read_bytes()
    segment_cohort(cases, out)
    assert (out / "manifest.jsonl").read_bytes() == lines
    assert segmented == [40, 42]
    segment_cohort(cases, out, retry_failed=True)
    assert segmented == [40, 42]
    write(cases[1].ct_path, 60)
    write(tmp_path / "gone.nii.gz", 70)
    assert [entry["state"] for entry in segment_cohort(cases, out)] == ["done"] * 4
    assert segmented == [40, 42, 60, 70]


def test_weights_that_have_been_trained_on_are_loaded_anew_in_the_same_process(segmented, cases, tmp_path, monkeypatch):
    weights, loaded = tmp_path / "weights", []
    weights.mkdir()
    for name in ("coarse.safetensors", "coarse.json", "fine.safetensors", "fine.json"):
        (weights / name).write_text("{}")
    monkeypatch.setattr(stages, "load_stages", lambda folder, **_: loaded.append(folder) or ("coarse", "fine"))
    segment_cohort(cases[:2], tmp_path / "out", Settings(weights))
    assert loaded == [weights]
    (weights / "fine.safetensors").write_text("trained on")
    segment_cohort(cases[:2], tmp_path / "out", Settings(weights))
    assert (loaded, segmented) == ([weights, weights], [40, 41, 40, 41])


def test_a_case_that_failed_is_tried_again_by_another_engine_or_number_format(segmented, cases, tmp_path, monkeypatch):
    def fail(ct, coarse, fine, **_):
        raise ValueError("this engine cannot")

    works = coarse_to_fine.segment
    for k, settings in enumerate((Settings(engine="openvino"), Settings(precision="float16"), Settings(device="cuda"))):
        monkeypatch.setattr(coarse_to_fine, "segment", fail)
        methods.open_method.cache_clear()
        monkeypatch.setattr(methods, "choose_device", lambda device: device)
        entry, *_ = segment_cohort(cases[:1], tmp_path / f"out{k}", settings)
        assert (entry["state"], entry["error"]) == ("failed", "this engine cannot")
        monkeypatch.setattr(coarse_to_fine, "segment", works)
        methods.open_method.cache_clear()
        entry, *_ = segment_cohort(cases[:1], tmp_path / f"out{k}", settings)
        assert entry["state"] == "failed"
        entry, *_ = segment_cohort(cases[:1], tmp_path / f"out{k}")
        assert entry["state"] == "done"


def test_what_a_caller_wants_beside_the_labels_is_made_in_the_worker(segmented, cases, tmp_path):
    made = []
    segment_cohort(cases[:1], tmp_path / "out", also=lambda folder, name, ct, labels: made.append((name, labels.sum())))
    assert made == [("c0", 12)]


def test_workers_are_counted_by_the_memory_of_fitted_tiles(segmented, cases, tmp_path, monkeypatch):
    expected, runs = [], cohort_run.run

    def run(work, todo, pool, *, memory_mib, **how):
        expected.append(memory_mib(todo[0]))
        return runs(work, todo, pool, memory_mib=memory_mib, **how)

    monkeypatch.setattr(cohort_run, "run", run)
    segment_cohort(cases[:1], tmp_path / "out", Settings(fit_tiles=2.0))
    assert expected == [expected_memory_mib(cases[0], Settings(fit_tiles=2.0))]


def test_labels_that_no_run_of_ours_has_made_are_never_replaced(segmented, cases, tmp_path):
    (tmp_path / "labels").mkdir()
    reference = tmp_path / "labels" / "c1.nii.gz"
    reference.write_bytes(b"drawn by hand")
    with pytest.raises(
        ValueError, match=r"with its manifest\.jsonl, got .*labels, where c1\.nii\.gz would be replaced"
    ):
        segment_cohort(cases, tmp_path / "labels")
    assert (reference.read_bytes(), segmented) == (b"drawn by hand", [])
    segment_cohort(cases[:1], tmp_path / "labels")  # nothing of theirs is in its way
    (tmp_path / "killed").mkdir()
    with cohort_run.open_manifest(tmp_path / "killed" / "manifest.jsonl"):
        pass  # a run that was killed before its first line
    (tmp_path / "killed" / "c0.nii.gz").write_bytes(b"half")
    assert segment_cohort(cases[:1], tmp_path / "killed")[0]["state"] == "done"


@pytest.mark.parametrize(
    "change",
    [{"state": "finished"}, {"notes": 5}, {"volumes_ml": {"liver": "much"}}, {"cut_off": [1]}, {"total_s": None}],
    ids=lambda change: next(iter(change)),
)
def test_an_entry_that_somebody_has_edited_is_none(segmented, cases, tmp_path, change):
    entry, *_ = segment_cohort(cases[:1], tmp_path / "out")
    assert cohort_run.read_entries(tmp_path / "out") == {"c0": entry}
    (tmp_path / "out" / "manifest.jsonl").write_text(json.dumps(entry) + "\n" + json.dumps(entry | change) + "\n")
    assert cohort_run.read_entries(tmp_path / "out") == {"c0": entry}


def test_no_cases_are_no_entries(segmented, tmp_path):
    assert segment_cohort([], tmp_path / "out") == []


def test_what_is_refused_leaves_no_folder(segmented, cases, tmp_path):
    long = Case("x" * 250, cases[0].ct_path)
    with pytest.raises(OSError, match="too long"):
        segment_cohort([long], tmp_path / "out" / "labels")
    with pytest.raises(ValueError, match="a CT's name must be a file's name"):
        segment_cohort([Case("../c", cases[0].ct_path)], tmp_path / "out")
    with pytest.raises(OSError, match=r"none.coarse.safetensors"):
        segment_cohort(cases, tmp_path / "out", Settings(weights_dir=tmp_path / "none"))
    assert not (tmp_path / "out").exists()


def test_labels_do_not_go_among_the_files_of_a_dicom_folder(segmented, tmp_path):
    (tmp_path / "patient" / "series").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"the output must lie outside of a CT's own folder, got .*labels in .*patient"
    ):
        segment_cohort([Case("patient", tmp_path / "patient")], tmp_path / "patient" / "labels")
    assert not (tmp_path / "patient" / "labels").exists()
