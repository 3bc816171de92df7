"""Something sampled while other work is done: by a thread, so that the work need not think of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def sampled(take: Callable[[], object], interval_s: float) -> Iterator[None]:
    """Call `take` every `interval_s` seconds during the block, in a thread, and once more when it has ended."""
    over = threading.Event()

    def sample() -> None:
        while not over.wait(interval_s):
            take()

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        take()
