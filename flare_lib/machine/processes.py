"""The same work for many cases, in one process or in several side by side; what befalls one case befalls it alone."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from flare_lib.machine.failures import Failure, Item, Result, attempt

_KILLED = Failure("its process must live until it is done, got killed (is there memory enough for so many at a time?)")


def map_in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], n_workers: int
) -> Iterator[Result | Failure]:
    """Yield `work(item)` for every item, in order, or the Failure in which it ended; below 2 workers or items, here.

    A process that is killed, as a system short of memory does, costs its own item alone: the items that were under way
    with it are begun anew, the first of them alone. A caller who stops early ends the processes, as Ctrl-C does.
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
    # a forked process would inherit locks of the threads that numba and torch may have started
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
    """Start processes that do not hear Ctrl-C, which a terminal sends to all: it is for this one to end them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_when_told() -> None:
    """Leave by way of an exception when told to terminate, so that nothing half-written is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def _attempt_or_leave(work: Callable[[Item], Result], item: Item) -> Result | Failure:
    try:
        return attempt(work, item)
    except SystemExit:
        os._exit(1)  # the pool would go on to the next item
