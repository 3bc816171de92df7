"""The log: a line a step, entries after the last checkpoint once, TensorBoard where there is one."""

import sys

import pytest

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
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # files of one second are read in the order of this count as text, in which 10 comes before 9
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    monkeypatch.setattr(writer, "_global_uid", writer.AtomicCounter(0))
    for start, losses in ((0, [4.0, 3.0, 2.0]), (2, [1.0])):  # the second run goes on after step 1
        with Log(tmp_path, start=start) as log:
            for step, loss in enumerate(losses, start=start):
                log.write({"step": step, "loss": loss, "organs_dice": [0.1, None], "validation_dice": None})
    curves = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert curves.Tags()["scalars"] == ["loss"]
    assert [(point.step, point.value) for point in curves.Scalars("loss")] == [(0, 4.0), (1, 3.0), (2, 1.0)]


def test_without_tensorboard_there_is_the_log_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with Log(tmp_path) as log:
        log.write({"step": 0, "loss": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
