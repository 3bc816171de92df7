"""Memory: what a piece of work holds at most, and what is left for others."""

import gc
import math
import mmap
from unittest.mock import Mock

import psutil

from flare_lib.machine import control_groups, memory
from flare_lib.machine.memory import free_memory_mib, watch_memory


def test_the_most_that_was_held_is_remembered():
    gc.collect()
    piece = bytes([1]) * 2**20
    with watch_memory() as watch, mmap.mmap(-1, 256 * 2**20) as block:  # new pages, whatever the heap has left over
        before = watch.peak_mib
        for _ in range(256):
            block.write(piece)
        watch.look()
    assert 190 < watch.peak_mib - before < 330  # other threads give back and take some memory meanwhile
    now = psutil.Process().memory_info().rss / 2**20
    assert watch.peak_mib >= now - 1


def test_no_more_is_free_than_the_control_groups_leave(monkeypatch):
    monkeypatch.setattr(control_groups, "free_memory_bytes", lambda: 3.0 * 2**20)
    assert free_memory_mib() == 3.0
    monkeypatch.setattr(control_groups, "free_memory_bytes", lambda: math.inf)
    assert 3.0 < free_memory_mib() < math.inf


def test_what_was_freed_is_given_back_where_the_allocator_can(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "_trim", asked.append)
    memory.give_back_freed()
    assert asked == [0]
    for error in (OSError("no such file"), AttributeError("undefined symbol")):  # another system, another allocator
        monkeypatch.setattr(memory.ctypes, "CDLL", Mock(side_effect=error))
        monkeypatch.setattr(memory, "_trim", memory._malloc_trim())
        assert memory._trim is None
        memory.give_back_freed()
