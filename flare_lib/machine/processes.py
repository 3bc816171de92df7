"""Several processes on this computer, side by side; one that hangs or is killed costs only its own piece of work.

How many work at a time depends on the memory that their pieces need and that there is (`runner`). If memory runs short
all the same, the process that holds the most is ended before the system picks one.
"""

import math
import multiprocessing
import os
import queue
import time
from typing import NamedTuple, Protocol, Self

from flare_lib.machine import control_groups
from flare_lib.machine.child import Child, Outcome
from flare_lib.machine.failures import Failure
from flare_lib.machine.memory import free_memory_mib

KILLED = Failure("its process must run to the end, got killed (is there enough memory?)")
_SHORT = Failure("its process must leave memory for others, got ended: it held the most, and almost none was free")
_LOOK_EVERY_S = 0.5
_RESERVE_MIB = 256.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class Pool(Protocol):
    """Somewhere to work: on this computer (`Processes`) or on a cluster (`machine.cluster`).

    `memory_mib`: what all pieces under way may need together; None if each has memory of its own.
    """

    memory_mib: float | None

    def n_slots(self) -> int:
        """Return how many pieces of work may be under way at a time, at least 1."""

    def start(self, key: int, packed: bytes, time_limit_s: float | None) -> None:
        """Start a piece of work (see `child.pack`); `key` tells it from the others under way."""

    def finished(self) -> list[tuple[int, Outcome | None]]:
        """Wait until something has ended and return (key, outcome) pairs; an outcome is None if it was lost."""

    def cancel(self) -> None:
        """End everything that is under way."""


class _Piece(NamedTuple):
    """What a process is working on: its key, how long it may take, and when that time is over (s, monotonic)."""

    key: int
    limit_s: float
    over: float


class Processes:
    """`n_workers` processes, each with `n_threads` threads (None: they choose themselves); use it in a `with`.

    `memory_mib`: what all of them may take together, by default nine tenths of what is free now. A process is started
    when it is first needed. Raises ValueError for fewer than one process or thread.
    """

    def __init__(self, n_workers: int, *, n_threads: int | None = None, memory_mib: float | None = None) -> None:
        if n_workers < 1 or (n_threads is not None and n_threads < 1):
            raise ValueError(f"there must be at least one worker with one thread, got {n_workers} with {n_threads}")
        self.memory_mib: float | None = 0.9 * free_memory_mib() if memory_mib is None else memory_mib
        self._n_workers = n_workers
        self._environment = {} if n_threads is None else dict.fromkeys(_THREADS, str(n_threads))
        self._answers: queue.SimpleQueue[tuple[Child, Outcome | None]] = queue.SimpleQueue()
        self._idle: list[Child] = []
        self._at_work: dict[Child, _Piece] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.cancel()
        for child in self._idle:
            child.end()
        self._idle.clear()

    def n_slots(self) -> int:
        """Return the number of processes."""
        return self._n_workers

    def start(self, key: int, packed: bytes, time_limit_s: float | None) -> None:
        """Give a piece of work to an idle process, or to a new one."""
        child = self._idle.pop() if self._idle else Child(self._answers, self._environment)
        limit_s = math.inf if time_limit_s is None else time_limit_s
        self._at_work[child] = _Piece(key, limit_s, time.monotonic() + limit_s)
        child.send(packed)

    def finished(self) -> list[tuple[int, Outcome | None]]:
        """Wait until a process has answered, died, run out of time or had to be ended for memory; [] if none works."""
        while self._at_work:
            soonest = min(piece.over for piece in self._at_work.values())
            try:
                child, outcome = self._answers.get(timeout=min(max(0.0, soonest - time.monotonic()), _LOOK_EVERY_S))
            except queue.Empty:
                if ended := self._end_the_late() or self._end_the_largest():
                    return ended
                continue
            if child in self._at_work:
                if outcome is not None:
                    self._idle.append(child)
                return [(self._at_work.pop(child).key, KILLED if outcome is None else outcome)]
            if outcome is None and child in self._idle:  # killed while it had nothing to do
                self._idle.remove(child)
        return []

    def cancel(self) -> None:
        """End the processes that are at work."""
        while self._at_work:
            self._end(next(iter(self._at_work)))

    def _end(self, child: Child) -> _Piece:
        child.end()
        return self._at_work.pop(child)

    def _end_the_late(self) -> list[tuple[int, Outcome | None]]:
        now = time.monotonic()
        late = [self._end(child) for child, piece in list(self._at_work.items()) if piece.over <= now]
        return [(piece.key, Failure(f"it must end within {piece.limit_s:g} s, got no result")) for piece in late]

    def _end_the_largest(self) -> list[tuple[int, Outcome | None]]:
        if len(self._at_work) < 2 or free_memory_mib() > _RESERVE_MIB:  # alone, it may take what there is
            return []
        return [(self._end(max(self._at_work, key=Child.memory_mib)).key, _SHORT)]


def n_cores() -> int:
    """Return how many cores this process may use, at least 1: a container or batch job may be bound to some of them."""
    bound_to = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(bound_to, control_groups.n_cores())))


def can_share_locks() -> bool:
    """Return whether processes here can share a lock, as torch's loaders do: on Linux it lies in /dev/shm."""
    try:
        multiprocessing.Lock()
    except (OSError, ImportError):  # there is no such folder, or no room in it; no system call for it at all
        return False
    return True
