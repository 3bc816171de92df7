"""Memory: what a piece of work holds at most, and what is left for others."""

import gc
import math
import mmap

import psutil

from flare_lib.machine import control_groups
from flare_lib.machine.memory import free_memory_mib, watch_memory


def test_the_most_that_was_held_is_remembered():
    gc.collect()
    piece = bytes([1]) * 2**20
    with watch_memory() as memory, mmap.mmap(-1, 256 * 2**20) as block:  # new pages, whatever the heap has left over
        before = memory.peak_mib
        for _ in range(256):
            block.write(piece)
        memory.look()
    assert 190 < memory.peak_mib - before < 330  # other threads give back and take some memory meanwhile
    now = psutil.Process().memory_info().rss / 2**20
    assert memory.peak_mib >= now - 1


def test_no_more_is_free_than_the_control_groups_leave(monkeypatch):
    monkeypatch.setattr(control_groups, "free_memory_bytes", lambda: 3.0 * 2**20)
    assert free_memory_mib() == 3.0
    monkeypatch.setattr(control_groups, "free_memory_bytes", lambda: math.inf)
    assert 3.0 < free_memory_mib() < math.inf
