"""Work done in one process and in several: the same results in the same order."""

import math
import os

import pytest

from flare_lib.machine.processes import map_in_processes


def process_of(_item):
    return os.getpid()


@pytest.mark.parametrize("n_workers", [1, 2])
def test_results_come_in_the_order_of_the_items(n_workers):
    assert list(map_in_processes(math.factorial, [5, 0, 3], n_workers)) == [120, 1, 6]
    assert list(map_in_processes(math.factorial, [], n_workers)) == []


def test_other_processes_are_started_for_several_workers_and_items_only():
    assert set(map_in_processes(process_of, [1, 2], 1)) == {os.getpid()}
    assert set(map_in_processes(process_of, [1], 2)) == {os.getpid()}
    assert os.getpid() not in set(map_in_processes(process_of, [1, 2], 2))
