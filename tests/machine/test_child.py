"""A process that works for another: what it answers, and how it ends."""

import os
import queue
import subprocess
import sys
import time

import psutil
import pytest
from pieces import cannot_travel, half, said, write_slowly

from flare_lib.machine.child import Child, pack
from flare_lib.machine.failures import Failure


@pytest.fixture
def answers():
    return queue.SimpleQueue()


@pytest.fixture
def child(answers):
    child = Child(answers, {"OMP_NUM_THREADS": "3"})
    yield child
    child.end()


def test_it_answers_one_piece_after_another(child, answers):
    for item in (8, 7):
        child.send(pack(half, item))
    (_, done), (_, failed) = answers.get(), answers.get()
    assert done.result == 4
    assert done.seconds >= 0
    assert done.peak_mib > 1
    assert failed == Failure("an item must be even, got 7")
    assert child.memory_mib() > 1


def test_what_the_work_prints_does_not_get_between_the_answers(child, answers):
    child.send(pack(said, 5))
    assert answers.get()[1].result == (5, "3")


def test_a_result_that_cannot_be_sent_is_a_failure(child, answers):
    child.send(pack(cannot_travel, 0))
    assert answers.get()[1].reason.startswith("its result must be picklable, got: ")


def test_work_that_another_process_could_not_import_is_refused():
    with pytest.raises(TypeError, match="work for other processes must be a module-level function"):
        pack(lambda item: item, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="there, a process is ended without a chance to do anything")
def test_its_end_takes_away_what_is_half_written(child, tmp_path):
    child.send(pack(write_slowly, tmp_path / "slow"))
    while not (tmp_path / "slow").exists():
        time.sleep(0.01)
    child.end()
    assert list(tmp_path.iterdir()) == []


def test_it_ends_when_the_process_it_works_for_is_killed(tmp_path):
    script = (
        "import os, queue, sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from pieces import write_slowly; from flare_lib.machine.child import Child, pack\n"
        "path = Path(sys.argv[2]); Child(queue.SimpleQueue(), {}).send(pack(write_slowly, path))\n"
        "while not (path.exists() and path.read_text()): time.sleep(0.01)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, os.path.dirname(__file__), tmp_path / "pid"])
    pid = int((tmp_path / "pid").read_text())
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:  # dead, though nobody has asked
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.01)
    raise AssertionError("it must be gone")
