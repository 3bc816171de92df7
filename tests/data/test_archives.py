"""Archives: pip is asked for exactly the file that is meant, and its own reason is given if it cannot be had."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flare_lib.data import archives
from flare_lib.data.archives import Archive, SourceUnavailable, pip_download

SMALL = Archive("small", "1.0", "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03")


def answer(monkeypatch, *, code=0, stderr="", makes=None):
    """Let pip answer so; returns the list of the commands it was given, with the requirement they point to."""
    asked = []

    def run(command, **_how):
        asked.append((command, Path(command[command.index("-r") + 1]).read_text(encoding="utf-8")))
        if makes is not None:
            makes.write_bytes(b"archive")
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(archives.subprocess, "run", run)
    return asked


def test_pip_is_asked_for_the_source_with_its_hash(monkeypatch, tmp_path):
    file = tmp_path / "small-1.0.tar.gz"
    asked = answer(monkeypatch, makes=file)
    assert pip_download(SMALL, tmp_path) == file
    [(command, requirement)] = asked
    assert command[:3] == [sys.executable, "-m", "pip"]
    assert {"download", "--no-deps", "--no-binary", "--require-hashes"} <= set(command)
    assert requirement == f"small==1.0 --hash=sha256:{SMALL.sha256}\n"


def test_pip_is_asked_for_a_wheel_where_the_archive_is_one(monkeypatch, tmp_path):
    file = tmp_path / "small-1.0-py3-none-any.whl"
    asked = answer(monkeypatch, makes=file)
    assert pip_download(replace(SMALL, wheel=True), tmp_path) == file
    [(command, _)] = asked
    assert command[command.index("--only-binary") + 1] == "small"
    assert "--no-binary" not in command


def test_what_pip_says_last_is_the_reason_given(monkeypatch, tmp_path):
    answer(monkeypatch, code=1, stderr="WARNING: slow\nERROR: No matching distribution found for small==1.0\n\n")
    with pytest.raises(SourceUnavailable) as raised:
        pip_download(SMALL, tmp_path)
    assert str(raised.value) == (
        "small 1.0 could not be fetched with pip: No matching distribution found for small==1.0 (is there a network?)"
    )


def test_what_pip_says_in_another_encoding_is_no_fault_of_ours(monkeypatch, tmp_path):
    pip = tmp_path / "pip.py"
    pip.write_text("import sys; sys.stderr.buffer.write(b'ERROR: r\\xe9seau absent'); sys.exit(1)", encoding="ascii")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SourceUnavailable, match=r"r.+seau absent \(is there a network\?\)"):
        pip_download(SMALL, tmp_path)


def test_a_pip_that_says_nothing_or_never_ends_is_an_error_too(monkeypatch, tmp_path):
    answer(monkeypatch, code=3)
    with pytest.raises(SourceUnavailable, match="pip ended with 3"):
        pip_download(SMALL, tmp_path)

    def never_ends(command, timeout, **_how):
        raise subprocess.TimeoutExpired("pip", timeout)

    monkeypatch.setattr(archives.subprocess, "run", never_ends)
    with pytest.raises(SourceUnavailable, match="timed out after 600 seconds"):
        pip_download(SMALL, tmp_path)
