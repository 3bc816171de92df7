"""How many threads there are; and the same work in several, for compiled functions without the GIL (numba's `nogil`).

numba's own threads (`prange`) are OpenMP's, which torch uses too: they change how many threads torch has.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from flare_lib.machine import control_groups
from flare_lib.machine.processes import n_cores

Result = TypeVar("Result")

SHARES_PER_THREAD = 4  # some shares are less work than others: a thread that finishes takes the next


def keep_to_quota() -> None:
    """Have libraries that are loaded later start no more threads than a container's share of the cores can keep busy.

    They count the cores that they see. A container that may use the time of two out of 64 would have 64 threads, which
    wait for one another. It concerns this process and those it starts; OMP_NUM_THREADS stays if the user has set it.
    """
    if control_groups.n_cores() < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(n_cores()))


def map_shares(work: Callable[[int, int], Result]) -> list[Result]:
    """Return `work(share, n_shares)` for shares 0 to n_shares - 1, in order, run in as many threads as torch uses.

    With one thread there is one share, done in the caller's own thread. The threads end with the call, so that a
    process forked later never waits for one of them. The first exception in `work` is raised once all shares have run.
    """
    import torch  # imported here: reading and resampling a CT otherwise needs no torch

    n_threads = torch.get_num_threads()
    if n_threads == 1:
        return [work(0, 1)]
    n_shares = SHARES_PER_THREAD * n_threads
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(lambda share: work(share, n_shares), range(n_shares)))
