"""Processes side by side: one that is killed, hangs or takes all the memory costs its own piece of work."""

import os
import time

import psutil
import pytest
from pieces import first_at_once, half, killed_at_3, late_at_3, process_of

from flare_lib.machine import processes
from flare_lib.machine.child import pack
from flare_lib.machine.failures import Done, Failure
from flare_lib.machine.processes import KILLED, Processes, n_cores


def all_of(pool, work, items, time_limit_s=None):
    """Start as much as there is room for, then return {key: result or reason}."""
    for k, item in enumerate(items):
        pool.start(k, pack(work, item), time_limit_s)
    found = {}
    while len(found) < len(items):
        found |= dict(pool.finished())
    return {k: outcome.result if isinstance(outcome, Done) else outcome.reason for k, outcome in found.items()}


def test_processes_are_used_again_and_ended_with_the_block():
    with Processes(1) as pool:
        first, second = (all_of(pool, process_of, [0])[0] for _ in range(2))
    assert first == second != os.getpid()
    assert not psutil.pid_exists(first)


def test_a_process_that_is_killed_costs_its_own_piece_alone():
    with Processes(2) as pool:
        assert all_of(pool, killed_at_3, [3, 4]) == {0: KILLED.reason, 1: 4}
        assert all_of(pool, half, [8, 6]) == {0: 4, 1: 3}


def test_a_process_killed_while_idle_is_replaced():
    with Processes(1) as pool:
        idle = all_of(pool, process_of, [0])[0]
        os.kill(idle, 9)
        found = all_of(pool, half, [8])[0]  # it may have been sent into the void
        assert found in (4, KILLED.reason)
        assert all_of(pool, half, [8]) == {0: 4}


def test_what_takes_too_long_is_ended_and_the_others_are_not():
    with Processes(2) as pool:
        all_of(pool, half, [8, 6])  # so that both are there
        found = all_of(pool, late_at_3, [3, 4], time_limit_s=2.0)
    assert found == {0: "it must end within 2 s, got no result", 1: 4}


def test_the_largest_is_ended_when_memory_runs_short_unless_it_is_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "free_memory_mib", lambda: 10.0)
    monkeypatch.setattr(processes, "_LOOK_EVERY_S", 0.01)
    with Processes(2, memory_mib=1000.0) as pool:
        sizes = {}
        monkeypatch.setattr(processes.Child, "memory_mib", lambda child: sizes.setdefault(child, len(sizes)))
        for k, name in enumerate(("small", "large")):
            pool.start(k, pack(first_at_once, tmp_path / name), None)
        [(_, outcome)] = pool.finished()
        assert outcome == Failure(
            "its process must leave memory for others, got ended: it held the most, and almost none was free"
        )
        while not list(tmp_path.iterdir()):
            time.sleep(0.01)
        assert pool._end_the_largest() == []


def test_memory_is_what_is_free_less_a_tenth(monkeypatch):
    monkeypatch.setattr(processes, "free_memory_mib", lambda: 1000.0)
    assert Processes(3).memory_mib == 900.0
    assert Processes(3, memory_mib=50.0).memory_mib == 50.0


@pytest.mark.parametrize(("n_workers", "n_threads"), [(0, None), (2, 0)])
def test_there_must_be_a_worker_and_a_thread(n_workers, n_threads):
    with pytest.raises(ValueError, match=f"at least one worker with one thread, got {n_workers} with {n_threads}"):
        Processes(n_workers, n_threads=n_threads)


def test_cores_are_those_that_this_process_may_use():
    assert 1 <= n_cores() <= os.cpu_count()


def test_the_tests_own_process_does_not_kill_itself():
    with pytest.raises(RuntimeError, match="pytest's own process must not be killed"):
        killed_at_3(3)
