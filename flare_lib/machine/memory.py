"""Memory: the most that a piece of work holds, how much this process may still take, and how it gives some back."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from flare_lib.machine import control_groups
from flare_lib.machine.sampling import sampled

_MIB = 2**20
_EVERY_S = 0.02


class MemoryWatch:
    """A process's memory being watched: `peak_mib` is the most that was resident so far."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.peak_mib = 0.0
        self.look()

    def look(self) -> None:
        """Take one sample."""
        self.peak_mib = max(self.peak_mib, self._process.memory_info().rss / _MIB)


@contextmanager
def watch_memory() -> Iterator[MemoryWatch]:
    """Watch this process's resident memory during the block: 50 times a second, at the start and at the end."""
    watch = MemoryWatch()
    with sampled(watch.look, _EVERY_S):
        yield watch


def free_memory_mib() -> float:
    """Return how many MiB this process and its children may still take: what the machine or their group has left."""
    return min(psutil.virtual_memory().available, control_groups.free_memory_bytes()) / _MIB


def give_back_freed() -> None:
    """Give the system what this process has freed but its allocator keeps for later: glibc's keeps pieces up to 32 MiB.

    Takes milliseconds, and whatever is needed next has to be asked for anew. Does nothing with another allocator.
    Reference: malloc_trim(3)
    """
    if _trim is not None:
        _trim(0)


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # macOS, Windows, musl
        return None


_trim = _malloc_trim()
