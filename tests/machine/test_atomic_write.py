"""A file that appears complete or not at all."""

import errno
import os

import pytest

from flare_lib.machine.atomic_write import atomic_folder, atomic_write


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


@pytest.mark.parametrize("atomic", [atomic_write, atomic_folder])
def test_what_the_system_has_against_the_writing_names_the_path_that_was_wanted(tmp_path, atomic):
    with pytest.raises(OSError, match="No space left") as full, atomic(tmp_path / "card"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert full.value.filename == str(tmp_path / "card")
    with pytest.raises(FileNotFoundError) as gone, atomic(tmp_path / "no" / "card") as unfinished:
        (unfinished / "x").write_text("new")
    assert gone.value.filename == str(tmp_path / "no" / "card")
    with pytest.raises(FileNotFoundError) as other, atomic(tmp_path / "card"):
        (tmp_path / "another").read_text()
    assert other.value.filename == str(tmp_path / "another")
    with pytest.raises(OSError, match=r"^must be another$"), atomic(tmp_path / "card"):
        raise OSError("must be another")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_takes_the_place_of_another_when_it_is_complete(tmp_path):
    for number in (1, 2):
        with atomic_folder(tmp_path / "case") as unfinished:
            (unfinished / f"file{number}").write_text("new")
            assert (tmp_path / "case").exists() == (number == 2)
    with pytest.raises(RuntimeError, match="half way"), atomic_folder(tmp_path / "case") as unfinished:
        (unfinished / "file3").write_text("ne")
        raise RuntimeError("half way")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["case", "case/file2"]


@pytest.mark.parametrize("atomic", [atomic_write, atomic_folder])
@pytest.mark.parametrize("name", ["n" * 251 + ".csv", "\u5f71" * 82 + ".nii.gz", "x.gz"])
def test_a_name_as_long_as_a_file_system_takes_leaves_room_for_the_unfinished_one(tmp_path, atomic, name):
    with atomic(tmp_path / name) as unfinished:
        assert unfinished.name.endswith(name[-7:])
        assert unfinished.name.startswith(".")
        if atomic is atomic_write:
            unfinished.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == [name]
