"""What people see of a command at work: a mistake in one line, and bars where there is a terminal."""

import functools
import io
import os
import sys

import pytest
import tqdm
from numba.core import event

from flare_lib.commands.terminal import Bars, tell_error, write_any_text


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def at_once(monkeypatch):
    """Bars that show every step; otherwise they wait a tenth of a second."""
    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, mininterval=0))


def test_a_mistake_names_what_it_is_about_once(capsys):
    tell_error("cannot be read", about="a.nii")
    tell_error("a.nii cannot be read", about="a.nii")
    assert capsys.readouterr().err == "error: a.nii: cannot be read\nerror: a.nii cannot be read\n"


def test_a_mistake_is_told_in_one_line_whatever_lines_it_came_in(capsys):
    assert tell_error("a CT must be 3-D,\n  got 2-D") == 2
    tell_error("in/a b.nii: cannot be read", about="in/a\nb.nii")
    tell_error("cannot be read", about="in/a\r\nb.nii")
    assert capsys.readouterr().err.splitlines() == [
        "error: a CT must be 3-D, got 2-D",
        "error: in/a b.nii: cannot be read",
        "error: in/a b.nii: cannot be read",
    ]


def test_each_stage_has_a_bar_that_follows_what_is_done_and_goes_at_the_end(monkeypatch, at_once):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Bars() as bars:
        bars("coarse", 1, 4)
        bars("coarse", 3, 4, beside="loss 0.500")
        bars("fine", 2, 2, unit="step")
        shown = sys.stderr.getvalue()
    assert [f"{done}/4 " in shown for done in range(5)] == [True, True, False, True, False]
    assert "coarse:  75%" in shown
    assert "loss 0.500" in shown
    assert "fine: 100%" in shown
    assert "step/s" in shown
    assert "%" not in sys.stderr.getvalue().removeprefix(shown)


def test_what_is_under_way_is_told_before_anything_is_done(monkeypatch):
    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, mininterval=1e9))
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Bars() as bars:
        bars("executed", 0, 2, beside="now: 00_a, 01_b")
        assert "0/2" in sys.stderr.getvalue()
        assert "now: 00_a, 01_b" in sys.stderr.getvalue()


def test_without_a_terminal_or_for_a_process_that_shows_none_there_are_no_bars(capsys, monkeypatch, at_once):
    with Bars() as bars:
        bars("coarse", 1, 4)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Bars(shown=False) as bars:
        bars("coarse", 1, 4)
    assert sys.stderr.getvalue() == ""


def test_the_first_compilation_is_told_once_on_a_terminal(monkeypatch, capsys):
    def compile_two():
        with Bars():
            for name in ("a", "b"):
                event.start_event("numba:compile", data={"name": name})
                event.end_event("numba:compile", data={"name": name})

    compile_two()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    compile_two()
    assert sys.stderr.getvalue().count("note: compiling for this processor, once") == 1


def test_what_an_encoding_lacks_is_written_as_an_escape(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252", errors="strict"))
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # as in a notebook: left alone
    write_any_text()
    print("Bäuche/日本.nii.gz", end="", flush=True)
    assert written.getvalue() == b"B\xe4uche/\\u65e5\\u672c.nii.gz"


def test_the_locale_c_gets_a_names_bytes_as_they_are_and_anything_else_as_an_escape(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", errors="surrogateescape"))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    write_any_text()
    print(os.fsdecode(b"\xff.nii.gz"), "1 ± 2 …", end="", flush=True)
    assert written.getvalue() == b"\xff.nii.gz 1 \\xb1 2 \\u2026"
