"""The same work in several threads, for compiled functions that let others run meanwhile (numba's `nogil`).

numba's own threads (`prange`) are those of OpenMP, which torch uses too: they reset how many torch has.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

SHARES_PER_THREAD = 4  # some shares are less work than others: a thread that is done takes the next


def map_shares(work: Callable[[int, int], Result]) -> list[Result]:
    """Return `work(share, n_shares)` for the shares 0 to n_shares - 1, in order, by as many threads as torch uses.

    With one thread there is one share, in the caller's own thread. The threads end with the call, so a process that is
    forked later has none of them to wait for. The first exception of `work` is raised when the other shares are done.
    """
    import torch  # here: reading and resampling a CT needs no torch otherwise

    n_threads = torch.get_num_threads()
    if n_threads == 1:
        return [work(0, 1)]
    n_shares = SHARES_PER_THREAD * n_threads
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(lambda share: work(share, n_shares), range(n_shares)))
