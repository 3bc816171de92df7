"""Compiled loops: kept on disk where that can be, and a word before the first time."""

import errno
import gc
import os
import subprocess
import sys
from pathlib import Path
from threading import Event

import numba
import pytest
from numba import float64
from numba.core import caching

from flare_lib.machine.compiled import HAND_OVER_S, OBJECTS, compiling_ahead, njit, told_of_compiling

LIBRARY = Path(__file__).parents[2] / "flare_lib"


def environment_with(**variables):
    """Return an environment for a process that loads the library, with these variables alone of those of numba."""
    others = {name: value for name, value in os.environ.items() if not name.upper().startswith("NUMBA_")}
    return others | {"PYTHONPATH": str(LIBRARY.parent)} | variables


@pytest.mark.slow("two processes, one of which compiles")
def test_what_is_compiled_is_kept_on_disk_and_compiled_once(tmp_path):
    (tmp_path / "kernel.py").write_text(
        "from flare_lib.machine.compiled import njit, told_of_compiling\n"
        "@njit(nogil=True)\ndef twice(x):\n    return 2 * x\n"
        "with told_of_compiling(lambda: print('compiling')):\n    print(twice(21), twice(2.5))\n"
    )
    environment = environment_with(NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    for expected in ("compiling\n42 5.0\n", "42 5.0\n"):
        done = subprocess.run(
            [sys.executable, "kernel.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == expected


def test_who_may_write_nowhere_has_it_compiled_all_the_same(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    told = []

    @njit()
    def thrice(x):
        return 3 * x

    with told_of_compiling(lambda: told.append("compiling")):
        assert (thrice(14), thrice(0.5)) == (42, 1.5)
    assert told == ["compiling"]
    assert thrice(2 + 0j) == 6
    assert told == ["compiling"]


def test_without_a_home_no_folder_is_made_wherever_the_program_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    users = [place for place in caching.CacheImpl._locator_classes if "UserWide" in place.__name__]
    assert len(users) == 1
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", users)

    @njit()
    def halved(x):
        return x / 2

    assert halved(3.0) == 1.5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["nothing more is written", "unreadable", "cut short", "damaged"])
def test_a_folder_that_fails_later_costs_no_more_than_compiling_again(monkeypatch, tmp_path, fault):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    told = []

    def run():
        def added(x):
            return x + 0.5

        with told_of_compiling(lambda: told.append("compiling")):
            return njit(no_cpython_wrapper=False)(added)(1.5)

    def refused(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if fault == "nothing more is written":
            patch.setattr(caching.IndexDataCacheFile, "_open_for_write", refused)
        assert run() == 2.0
    for file in tmp_path.rglob("*.nb[ic]"):
        if fault == "unreadable":
            file.unlink()
            file.mkdir()
        else:
            file.write_bytes(b"" if fault == "cut short" else b"damaged" + file.read_bytes())
    assert run() == 2.0
    assert told == ["compiling"] * 2
    assert run() == 2.0
    assert len(told) == 2 + (fault == "unreadable")  # what was damaged is kept anew


@njit()
def _sum_of_squares(x, y):
    return x * x + y * y


def test_what_is_called_ahead_is_compiled_when_the_block_is_over_and_its_errors_are_left_to_others():
    called = []

    def fail():
        called.append("failed")
        raise ValueError("no such loop")

    with compiling_ahead(fail, lambda: called.append(_sum_of_squares(0.5, 1.5))):
        pass
    assert called == ["failed", 2.5]
    assert _sum_of_squares.signatures == [(float64, float64)]
    with pytest.raises(KeyError, match="of the block"), compiling_ahead():
        raise KeyError("of the block")


def test_a_net_that_computes_meanwhile_waits_for_the_compiling_thread_only_briefly():
    intervals, before = [], sys.getswitchinterval()
    with compiling_ahead(lambda: intervals.append(sys.getswitchinterval())):
        pass
    assert intervals == [pytest.approx(HAND_OVER_S)]
    assert sys.getswitchinterval() == before != pytest.approx(HAND_OVER_S)


@pytest.mark.parametrize(("own", "meanwhile"), [(700, OBJECTS), (50_000, 50_000), (0, 0)])
def test_garbage_is_searched_for_less_often_meanwhile_but_never_where_it_never_was(own, meanwhile):
    counts, before = [], gc.get_threshold()
    gc.set_threshold(own, 7, 9)
    try:
        with compiling_ahead(lambda: counts.append(gc.get_threshold())):
            pass
        assert counts == [(meanwhile, 7, 9)]
        assert gc.get_threshold() == (own, 7, 9)
    finally:
        gc.set_threshold(*before)


def test_blocks_that_overlap_leave_the_settings_as_the_first_found_them():
    def settings():
        return sys.getswitchinterval(), gc.get_threshold()

    def block():
        compiles, done = Event(), Event()
        return compiling_ahead(compiles.set, lambda: done.wait(60)), compiles, done

    before = settings()
    (first, first_compiles, first_done), (second, second_compiles, second_done) = block(), block()
    with first:
        first_compiles.wait(60)
        meanwhile = settings()
        second.__enter__()
        second_compiles.wait(60)
        first_done.set()
    while_the_second_compiles = settings()
    second_done.set()
    second.__exit__(None, None, None)
    assert while_the_second_compiles == meanwhile != before
    assert settings() == before


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: path.stem)
def test_the_library_compiles_in_this_one_way(path):
    if path.name != "compiled.py":
        text = path.read_text(encoding="utf-8")
        assert "numba.njit" not in text
        assert "from numba import njit" not in text
        assert "cache=True" not in text


def test_variables_that_numba_cannot_follow_are_named_in_one_line():
    environment = environment_with(NUMBA_NUM_THREADS="0", NUMBA_OPT="3")
    code = "try:\n import flare_lib.machine.compiled\nexcept ValueError as error:\n print(error)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "what its variables ask for, got NUMBA_NUM_THREADS=0, NUMBA_OPT=3: Number of threads" in done.stdout


def test_an_error_of_numbas_own_is_not_put_down_to_variables_that_nobody_set(tmp_path):
    (tmp_path / "numba.py").write_text("raise ValueError('another numpy')\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(LIBRARY.parent)])}
    code = "try:\n import flare_lib.machine.compiled\nexcept ValueError as error:\n print(error)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "another numpy\n"
