"""The same work for many cases, in one process or several side by side; a failing case does not affect the others."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from flare_lib.machine.failures import Failure, Item, Result, attempt

_KILLED = Failure("its process must run to the end, got killed (is there enough memory for so many at a time?)")


def map_in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], n_workers: int
) -> Iterator[Result | Failure]:
    """Yield `work(item)` for every item, in order, or the Failure it ended in.

    With fewer than 2 workers or items, the work is done in this process. A process that is killed, for example by a
    system short of memory, costs only its own item: the items in progress are started again, the first of them by
    itself. If the caller stops early, or on Ctrl-C, the processes are ended.
    """
    if n_workers < 2 or len(items) < 2:
        for item in items:
            yield attempt(work, item)
        return
    done = 0
    while done < len(items):
        for outcome in _until_one_is_killed(work, items[done:], n_workers):
            yield outcome
            done += 1
        if done < len(items):
            yield next(_until_one_is_killed(work, items[done : done + 1], 1), _KILLED)
            done += 1


def _until_one_is_killed(
    work: Callable[[Item], Result], items: Sequence[Item], n_workers: int
) -> Iterator[Result | Failure]:
    """Yield the outcomes in order, up to that of the first item whose process was killed."""
    others = set(multiprocessing.active_children())
    # a forked process would inherit locks held by threads that numba and torch may have started
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(n_workers, len(items)), mp_context=spawn, initializer=_leave_when_told)
    try:
        with _ctrl_c_held_back():
            futures = [pool.submit(_attempt_or_leave, work, item) for item in items]
        for future in futures:
            yield future.result()
    except BrokenProcessPool:
        return
    except BaseException:  # GeneratorExit too: nobody waits for the rest
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Make processes started in the block ignore Ctrl-C, which a terminal sends to all: this one will end them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_when_told() -> None:
    """On a request to terminate, exit by an exception, so that nothing half-written is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def _attempt_or_leave(work: Callable[[Item], Result], item: Item) -> Result | Failure:
    try:
        return attempt(work, item)
    except SystemExit:
        os._exit(1)  # the pool would go on to the next item
