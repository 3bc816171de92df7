"""Memory: how much a piece of work holds at most, and how much there is, for this process and within its limits.

A container or a batch job may have far less than its machine: the limits of Linux's control groups count as well.
References: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max, memory.current); version 1 has other names.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_MIB = 2**20
_EVERY_S = 0.02
_CGROUPS = Path("/sys/fs/cgroup")
_LIMIT_AND_USE = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


class MemoryWatch:
    """What is watched: `peak_mib` is the most that was resident so far."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.peak_mib = 0.0
        self.look()

    def look(self) -> None:
        """Take one sample."""
        self.peak_mib = max(self.peak_mib, self._process.memory_info().rss / _MIB)


@contextmanager
def watch_memory() -> Iterator[MemoryWatch]:
    """Watch this process' resident memory during the block, 50 times a second, at its start and at its end."""
    watch, over = MemoryWatch(), threading.Event()

    def sample() -> None:
        while not over.wait(_EVERY_S):
            watch.look()

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        watch.look()


def free_memory_mib(cgroups: Path = _CGROUPS) -> float:
    """Return how many MiB this process and its children may still take: what the machine has, or their group's rest."""
    free = psutil.virtual_memory().available
    for limit, use in _LIMIT_AND_USE:
        try:
            most, used = ((cgroups / name).read_text(encoding="ascii").strip() for name in (limit, use))
        except OSError:  # another system, or another version
            continue
        if most != "max":
            free = min(free, max(0, int(most) - int(used) + _cached_bytes(cgroups / use)))
    return free / _MIB


def _cached_bytes(use: Path) -> int:
    """Return how much of a group's use is files kept in memory, which the system gives back when it is needed."""
    try:
        stat = dict(line.split() for line in use.with_name("memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return 0
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
