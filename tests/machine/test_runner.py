"""One runner: every item's outcome exactly once; what fails is tried once more, alone; memory decides who is let in."""

import os
import pickle

import pytest
from pieces import first_at_once, half, killed_at_3, killed_unless_alone, process_of

from flare_lib.machine.failures import Done, Failure, attempt
from flare_lib.machine.processes import KILLED, Processes
from flare_lib.machine.runner import run, run_in_order


class Notebook:
    """A pool that does everything at once, in this process, the last started first, and writes down what it is told."""

    memory_mib = 100.0

    def __init__(self, slots=3, lose=()):
        self.slots, self.lose, self.started, self.under_way, self.cancelled = slots, list(lose), [], {}, False

    def n_slots(self):
        return self.slots

    def start(self, key, packed, time_limit_s):
        self.under_way[key] = packed
        self.started.append((key, sorted(self.under_way), time_limit_s))

    def finished(self):
        key, packed = self.under_way.popitem()
        if key in self.lose:
            self.lose.remove(key)
            return [(key, None)]
        work, item = pickle.loads(packed)
        return [(key, attempt(work, item))]

    def cancel(self):
        self.cancelled = True


def results(outcomes):
    return [(k, o.result if isinstance(o, Done) else o.reason) for k, o in outcomes]


def test_without_a_pool_each_item_is_tried_once_in_order_in_this_process():
    assert results(run(half, [4, 3, 2])) == [(0, 2), (1, "an item must be even, got 3"), (2, 1)]
    assert results(run(process_of, [0])) == [(0, os.getpid())]
    assert list(run(half, [])) == []


def test_as_many_are_under_way_as_there_is_room_for_and_what_fails_comes_again_alone():
    pool = Notebook()
    assert results(run(half, [4, 3, 2, 8, 5], pool, time_limit_s=9.0)) == [
        (2, 1),
        (3, 4),
        (0, 2),
        (1, "an item must be even, got 3"),
        (4, "an item must be even, got 5"),
    ]
    assert max(len(beside) for _, beside, _ in pool.started) == 3
    assert pool.started[-2:] == [(1, [1], 9.0), (4, [4], 9.0)]
    assert not pool.cancelled
    assert list(run(half, [], pool)) == []


def test_an_item_waits_until_it_fits_beside_the_others_and_alone_it_always_does():
    pool = Notebook()
    list(run(half, [60, 50, 40, 200, 10], pool, memory_mib=float))
    assert [sorted(beside) for _, beside, _ in pool.started] == [[0], [1], [1, 2], [3], [4]]


def test_what_is_lost_is_started_again_without_counting_as_a_failure():
    pool = Notebook(slots=1, lose=[1, 1])
    assert results(run(half, [2, 4, 6], pool)) == [(0, 1), (1, 2), (2, 3)]
    assert [key for key, *_ in pool.started] == [0, 1, 1, 1, 2]


def test_a_caller_who_stops_ends_what_is_under_way(tmp_path):
    pool = Notebook()
    outcomes = run(half, [2, 4, 6], pool)
    next(outcomes)
    outcomes.close()
    assert pool.cancelled
    with Processes(2) as processes:
        outcomes = run(first_at_once, [tmp_path / "first", tmp_path / "slow", tmp_path / "never"], processes)
        assert next(outcomes)[1].result == "first"
        outcomes.close()
    assert list(tmp_path.iterdir()) == []


def test_results_in_order_with_failures_in_their_places():
    seen = []
    found = run_in_order(half, [4, 3, 2], Notebook(), progress=lambda *at: seen.append(at))
    assert found == [2, Failure("an item must be even, got 3"), 1]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_in_processes_one_that_is_always_killed_is_put_aside_and_one_that_was_killed_once_is_done(tmp_path):
    with Processes(2) as pool:
        assert sorted(results(run(killed_at_3, [1, 2, 3, 4, 5], pool))) == [
            (0, 1),
            (1, 2),
            (2, KILLED.reason),
            (3, 4),
            (4, 5),
        ]
        assert results(run(killed_unless_alone, [tmp_path / "a"], pool)) == [(0, "a")]


def test_work_for_other_processes_must_be_importable():
    with Processes(1) as pool, pytest.raises(TypeError, match="must be a module-level function"):
        list(run(lambda item: item, [1], pool))
