"""A manifest: one whole line an item, whatever happens to the run that writes it."""

import errno
import os
import subprocess
import sys

import pytest

from flare_lib.machine import manifest
from flare_lib.machine.manifest import open_manifest, read_manifest


def test_what_is_added_is_there_for_the_next_run(tmp_path):
    path = tmp_path / "manifest.jsonl"
    with open_manifest(path) as first:
        assert first.entries == {}
        first.add({"name": "a", "seconds": 1.5, "notes": ["größer\nals sonst"]})
        first.add({"name": "b", "error": "broken"})
        assert list(first.entries) == ["a", "b"]
    assert path.read_bytes().count(b"\n") == 2
    with open_manifest(path) as second:
        assert second.entries["a"] == {"name": "a", "seconds": 1.5, "notes": ["größer\nals sonst"]}
    assert read_manifest(tmp_path / "none.jsonl") == {}


def test_the_last_line_of_a_name_counts_and_is_the_only_one_kept(tmp_path):
    path = tmp_path / "manifest.jsonl"
    with open_manifest(path) as first:
        for name, seconds in (("a", 1), ("b", 2), ("a", 3)):
            first.add({"name": name, "seconds": seconds})
    with open_manifest(path):
        assert path.read_text().splitlines() == ['{"name": "a", "seconds": 3}', '{"name": "b", "seconds": 2}']


@pytest.mark.parametrize(
    "broken", [b'{"name": "c", "sec', b'{"name": "c"', b"\xff\xfe\n", b"[1]\n", b'{"no": 1}\n', b"\0\0"]
)
def test_a_broken_line_is_dropped_and_costs_no_other(tmp_path, broken):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b'{"name": "a"}\n' + broken)
    assert list(read_manifest(path)) == ["a"]
    with open_manifest(path) as second:
        second.add({"name": "d"})
    assert path.read_bytes() == b'{"name": "a"}\n{"name": "d"}\n'


def test_a_full_disk_leaves_no_half_of_a_line(tmp_path, monkeypatch):
    path = tmp_path / "manifest.jsonl"
    real, left = os.write, [20]

    def little_room(file, content):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        n = real(file, content[: left[0]])
        left[0] -= n
        return n

    with open_manifest(path) as first:
        monkeypatch.setattr(manifest.os, "write", little_room)
        first.add({"name": "a"})
        with pytest.raises(OSError, match=r"No space left on device: '.*m.*\.jsonl'"):
            first.add({"name": "b"})
    monkeypatch.undo()
    assert path.read_bytes() == b'{"name": "a"}\n'
    assert list(first.entries) == ["a"]


def test_an_entry_must_have_a_name_and_be_json(tmp_path):
    with open_manifest(tmp_path / "m.jsonl") as first:
        with pytest.raises(ValueError, match=r"must have the name of its item, got \['seconds'\]"):
            first.add({"seconds": 1})
        with pytest.raises(ValueError, match="JSON"):
            first.add({"name": "a", "seconds": float("nan")})
    assert (tmp_path / "m.jsonl").read_bytes() == b""


def test_only_one_run_at_a_time_writes_and_a_killed_one_leaves_nothing_locked(tmp_path):
    path = tmp_path / "manifest.jsonl"
    script = (
        "import os, sys; from flare_lib.machine.manifest import open_manifest\n"
        "with open_manifest(sys.argv[1]) as m: m.add({'name': 'a'}); os.kill(os.getpid(), 9)"
    )
    with (
        open_manifest(path),
        pytest.raises(ValueError, match="must be free, got another run that is writing into it"),
        open_manifest(path),
    ):
        pass
    subprocess.run([sys.executable, "-c", script, path])
    with open_manifest(path) as second:
        assert list(second.entries) == ["a"]


def test_a_name_that_is_not_utf_8_comes_back(tmp_path):
    with open_manifest(tmp_path / "m.jsonl") as manifest:
        manifest.add({"name": "caf\udce9", "state": "done"})
    assert list(read_manifest(tmp_path / "m.jsonl")) == ["caf\udce9"]


@pytest.mark.parametrize(
    "content", [b'{"audio": "a.wav"}\n{"audio": "b.wav"}\n', b'[{"name": "a"}]', b"\xff\xfe\0b", b'{"name": 5}\n']
)
def test_a_file_of_somebody_else_is_refused_and_stays(tmp_path, content):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be written by earlier runs, got a file of something else"):
        open_manifest(path).__enter__()
    assert path.read_bytes() == content
    assert read_manifest(path) == {}


@pytest.mark.parametrize("content", [b'{"name": "my data", "files": ["a.wav"]}', b'{"name": "a", "state": "done"}\n'])
def test_a_single_line_of_somebody_else_is_refused_and_stays(tmp_path, content):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be written by earlier runs, got a file of something else"):
        open_manifest(path, lambda entry: False).__enter__()
    assert path.read_bytes() == content


@pytest.mark.parametrize("left", [b"", b"\0\0\0", b'{"na', b'{"name": "a", "se', b'{"name": "a", "ml": {"liver": 1}'])
def test_what_a_kill_leaves_of_the_first_line_is_dropped(tmp_path, left):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(left)
    with open_manifest(path) as first:
        first.add({"name": "a"})
    assert path.read_bytes() == b'{"name": "a"}\n'


def test_a_line_without_what_it_must_have_is_a_broken_one(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b'{"name": "a", "state": 1}\n{"name": "b"}\n')
    assert list(read_manifest(path, lambda entry: "state" in entry)) == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows locks files in its own way")
@pytest.mark.parametrize("answer", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_has_one_run_at_a_time_as_well(tmp_path, monkeypatch, answer):
    def refuse(*_):
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr("fcntl.flock", refuse)
    path = tmp_path / "manifest.jsonl"
    with open_manifest(path) as first:
        first.add({"name": "a"})
        with pytest.raises(ValueError, match="must be free, got another run"), open_manifest(path):
            pass
    with open_manifest(path) as second:
        assert list(second.entries) == ["a"]
