"""The same work for many cases, in one process or in several side by side."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(work: Callable[[Item], Result], items: Sequence[Item], n_workers: int) -> Iterator[Result]:
    """Yield `work(item)` for every item, in order; below 2 workers, or 2 items, in this process."""
    if n_workers < 2 or len(items) < 2:
        yield from map(work, items)
        return
    # a forked process would inherit locks of the threads that numba and torch may have started
    with ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, items)
