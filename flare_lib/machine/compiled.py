"""Loops that numba compiles to machine code: kept on disk where that can be, and a word before the first time.

numba keeps what it compiled beside the module, else in the user's own cache folder, else where NUMBA_CACHE_DIR says.
Someone who may write none of these, as in a container or a shared installation, has it compiled in every run instead.
Reference: https://numba.readthedocs.io/en/stable/developer/caching.html and event_api.html
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
from numba.core import event


def njit(**options: Any) -> Callable[[Callable], Callable]:
    """Return numba's decorator with these options (parallel, nogil, fastmath), its results kept on disk if possible."""

    def compiled(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to keep it in
            return numba.njit(**options)(function)

    return compiled


@contextmanager
def told_of_compiling(tell: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `tell` when something must be compiled that is not on disk: once, before it begins."""
    listener = _Once(tell)
    event.register("numba:compile", listener)
    try:
        yield
    finally:
        event.unregister("numba:compile", listener)


class _Once(event.Listener):
    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell: Callable[[], None] | None = tell

    def on_start(self, _event: event.Event) -> None:
        if self._tell is not None:
            self._tell()
            self._tell = None

    def on_end(self, _event: event.Event) -> None:
        """Nothing: numba wants the method."""
