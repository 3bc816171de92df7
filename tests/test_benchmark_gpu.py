"""The benchmark for a GPU, with the CPU in its place: every section runs, and its answers are the CPU's."""

import json

import gpu  # of benchmarks/
import pytest
import torch

from flare_lib.evaluation.gpu_record import gpu_row, gpu_table


@pytest.mark.slow("the whole benchmark")
@pytest.mark.usefixtures("quick_phantoms")
def test_every_line_runs_on_the_cpu_and_agrees_with_it(tmp_path, capsys):
    gpu.main(["--dry", "--output", str(tmp_path / "gpu.json"), "--minutes", "60"])
    stored = json.loads((tmp_path / "gpu.json").read_text())
    assert (stored["card"], stored["left_out_or_unfinished"]) == ("none: a dry run", [])
    rows = stored["rows"]
    assert list(dict.fromkeys(row["section"] for row in rows)) == ["resize", "case", "patch", "step", "transfer"]
    assert all(row["seconds"] > 0 for row in rows)
    exact = [row for row in rows if "voxels_that_differ" in row and row["what"].startswith(("torch, whole", "ours"))]
    assert [row["voxels_that_differ"] for row in exact] == [0] * 4
    assert [row["mean_dice"] for row in rows if row["section"] == "case" and row["what"].endswith("float32")] == [1, 1]
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 2 + len(rows)
    assert gpu_table(tmp_path / "gpu.json").endswith(printed.rstrip())


@pytest.mark.usefixtures("quick_phantoms")
def test_when_the_time_is_up_what_is_missing_is_listed(tmp_path):
    done = gpu.run_all(gpu.CPU, gpu.DRY, minutes=0.0)
    assert done["left_out_or_unfinished"] == ["resize", "case", "patch", "step", "transfer"]
    assert len(done["rows"]) == 1


def test_a_full_card_is_a_row_and_not_the_end():
    def too_much():
        raise torch.OutOfMemoryError("no")

    row = gpu.measured(too_much, gpu.CPU, 3)
    assert row == {"seconds": None, "n": 0, "peak_mib": None, "said": "out of memory"}
    named = {"section": "patch", "what": "float32", "shape": [1, 2, 3], "device": "cuda:0"}
    assert gpu_row({**named, **row}) == "| patch | float32 | 1 x 2 x 3 | cuda:0 | out of memory |  |  |  |"


def test_numbers_of_a_dry_run_are_no_results(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--dry"])
    assert "--dry needs --output" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "a CUDA card must be there, got none" in capsys.readouterr().err
