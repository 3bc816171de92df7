"""Samples: taken while the block runs, and once at its end, however it ends."""

import threading

import pytest

from flare_lib.machine.sampling import sampled


def test_samples_are_taken_during_the_block_and_once_more_at_its_end():
    taken, several = [], threading.Event()

    def take():
        taken.append(threading.current_thread())
        if len(taken) == 3:
            several.set()

    with sampled(take, 1e-4):
        assert several.wait(60)
    *during, last = taken
    assert len(during) >= 3
    assert {thread.is_alive() for thread in during} == {False}
    assert last is threading.current_thread()


def test_a_block_that_fails_is_sampled_at_its_end_too():
    taken = []
    with pytest.raises(KeyError), sampled(lambda: taken.append(1), 3600.0):
        raise KeyError
    assert taken == [1]
