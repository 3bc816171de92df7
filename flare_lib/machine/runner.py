"""The same work for many items, here, in several processes or on a cluster: one runner for all of them.

An item whose work fails, hangs, or is killed is tried once more, alone, after all others; then its failure stands. The
others are not touched by it. Of thousands of items only those under way are held in memory.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from flare_lib.machine.child import Outcome, pack
from flare_lib.machine.failures import Done, Failure, Item, Result, attempt
from flare_lib.machine.processes import Pool
from flare_lib.machine.progress import Progress


def run(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    pool: Pool | None = None,
    *,
    time_limit_s: float | None = None,
    memory_mib: Callable[[Item], float] | None = None,
) -> Iterator[tuple[int, Done[Result] | Failure]]:
    """Yield (index, outcome) of every item, each exactly once, as they end; none for no items.

    Without a `pool` the work is done in this process, in order, and each item is tried only once, because it was alone
    the first time: `time_limit_s` then has no effect, and what kills the process ends the run. With a pool, `work` must
    be a module-level function, or a `functools.partial` of one (else TypeError), and whatever it holds must be
    picklable. `memory_mib(item)` estimates what an item needs; it waits until it fits beside the others. If the caller
    stops early, what is under way is ended.
    """
    if pool is None:
        for k, item in enumerate(items):
            yield k, attempt(work, item)
        return
    side_by_side = _SideBySide(work, items, pool, time_limit_s, memory_mib)
    failed = []
    for k, outcome in side_by_side.outcomes(range(len(items))):
        if isinstance(outcome, Failure):
            failed.append(k)
        else:
            yield k, outcome
    for k in sorted(failed):
        yield from side_by_side.outcomes([k])


def run_in_order(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    pool: Pool | None = None,
    *,
    progress: Progress | None = None,
) -> list[Result | Failure]:
    """Return the results, or the Failures in their places, in the order of the items; see `run`."""
    found: dict[int, Result | Failure] = {}
    for k, outcome in run(work, items, pool):
        found[k] = outcome.result if isinstance(outcome, Done) else outcome
        if progress:
            progress(len(found), len(items))
    return [found[k] for k in range(len(items))]


class _SideBySide:
    """Keeps items under way in a pool, as many as it has room for."""

    def __init__(
        self,
        work: Callable,
        items: Sequence,
        pool: Pool,
        time_limit_s: float | None,
        memory_mib: Callable[..., float] | None,
    ) -> None:
        self.work, self.items, self.pool, self.time_limit_s = work, items, pool, time_limit_s
        self.memory_mib = memory_mib if pool.memory_mib is not None else None

    def outcomes(self, indices: Iterable[int]) -> Iterator[tuple[int, Outcome]]:
        """Yield (index, outcome) as they end; what was lost with a scheduler is started again."""
        waiting, under_way = deque(indices), dict[int, float]()
        try:
            while waiting or under_way:
                while waiting and len(under_way) < self.pool.n_slots():
                    needs_mib = self.memory_mib(self.items[waiting[0]]) if self.memory_mib else 0.0
                    if not self._fits(needs_mib, under_way):
                        break
                    k = waiting.popleft()
                    self.pool.start(k, pack(self.work, self.items[k]), self.time_limit_s)
                    under_way[k] = needs_mib
                for k, outcome in self.pool.finished():
                    del under_way[k]
                    if outcome is None:
                        waiting.appendleft(k)
                    else:
                        yield k, outcome
        finally:
            if under_way:
                self.pool.cancel()

    def _fits(self, needs_mib: float, under_way: dict[int, float]) -> bool:
        """Return whether an item may be started; alone, it always may."""
        most = self.pool.memory_mib
        return not under_way or most is None or sum(under_way.values()) + needs_mib <= most
