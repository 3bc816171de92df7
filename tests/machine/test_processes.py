"""Work done in one process and in several: the same results in the same order, and one that fails fails alone."""

import math
import os
import signal
import time

import pytest

from flare_lib.machine.failures import Failure
from flare_lib.machine.processes import map_in_processes


def process_of(_item):
    return os.getpid()


@pytest.mark.parametrize("n_workers", [1, 2])
def test_results_come_in_the_order_of_the_items_and_failures_among_them(n_workers):
    found = list(map_in_processes(math.factorial, [5, -1, 0, 3], n_workers))
    assert found == [120, Failure("factorial() not defined for negative values"), 1, 6]
    assert list(map_in_processes(math.factorial, [], n_workers)) == []


def test_other_processes_are_started_for_several_workers_and_items_only():
    assert set(map_in_processes(process_of, [1, 2], 1)) == {os.getpid()}
    assert set(map_in_processes(process_of, [1], 2)) == {os.getpid()}
    assert os.getpid() not in set(map_in_processes(process_of, [1, 2], 2))


def killed_at_3(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_process_that_is_killed_costs_its_own_item_alone():
    found = list(map_in_processes(killed_at_3, [1, 2, 3, 4, 5], 2))
    assert found[:2] + found[3:] == [1, 2, 4, 5]
    assert found[2].reason.startswith("its process must run to the end, got killed")


def write_slowly(path):
    """Write for a minute, unless something comes in between: then take away what was written."""
    try:
        path.write_text(str(os.getpid()))
        time.sleep(60)
    finally:
        path.unlink()


def test_a_caller_who_stops_ends_the_processes_and_they_leave_nothing_behind(tmp_path):
    outcomes = map_in_processes(_first_at_once, [tmp_path / "first", tmp_path / "slow", tmp_path / "never"], 2)
    assert next(outcomes) == "first"
    while not (tmp_path / "slow").exists():
        time.sleep(0.01)
    outcomes.close()
    assert [path.name for path in tmp_path.iterdir()] == []


def _first_at_once(path):
    return path.name if path.name == "first" else write_slowly(path)
