"""The log: a line a step, entries after the last checkpoint once, TensorBoard where there is one."""

import sys
import types

from flare_lib.training.log import Log, read_log


def test_entries_come_back_and_those_that_will_be_written_again_go(tmp_path):
    with Log(tmp_path) as log:
        for step in range(4):
            log.write({"step": step, "loss": step / 2})
    with Log(tmp_path, start=2) as log:
        log.write({"step": 2, "loss": 7.0})
    assert read_log(tmp_path / "log.jsonl") == [
        {"step": 0, "loss": 0.0},
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 7.0},
    ]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0, "loss": 1.0}\n{"step": 1, "lo', encoding="utf-8")
    assert read_log(path) == [{"step": 0, "loss": 1.0}]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Log(None) as log:
        log.write({"step": 0})
    assert list(tmp_path.iterdir()) == []


def test_single_numbers_become_curves_where_tensorboard_is_installed(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def close(self):
            calls.append("closed")

    package = types.ModuleType("torch.utils.tensorboard")
    package.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    with Log(tmp_path, start=3) as log:
        log.write({"step": 3, "loss": 0.5, "organs_dice": [0.1, None], "validation_dice": None})
    assert calls == [(str(tmp_path / "tensorboard"), 3), ("loss", 0.5, 3), "closed"]
