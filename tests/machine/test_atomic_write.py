"""A file that appears complete or not at all."""

import os

import pytest

from flare_lib.machine.atomic_write import atomic_write


def test_a_block_that_ends_well_leaves_the_new_file_alone(tmp_path):
    path = tmp_path / "card.json"
    path.write_text("old")
    with atomic_write(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
        assert unfinished.suffix == ".json"
        assert unfinished.parent == tmp_path
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("card.json", "new")]


def test_a_block_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "card.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), atomic_write(path) as unfinished:
        unfinished.write_text("ne")
        raise RuntimeError("half way")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("card.json", "old")]


def test_a_rename_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"), atomic_write(tmp_path / "card.json") as unfinished:
        unfinished.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "card.json"):
        pass
