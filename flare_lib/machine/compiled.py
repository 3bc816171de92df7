"""Loops that numba compiles to machine code: kept on disk where possible, with a notice before the first time.

numba stores compiled code where NUMBA_CACHE_DIR says, else beside the module, else in the user's cache folder. For a
user who can write to none of these, as in a container or a shared installation, it is compiled in every run instead;
so it is on a full disk, or where a crash left the half of a file.
Reference: https://numba.readthedocs.io/en/stable/developer/caching.html and event_api.html
"""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from typing import Any

try:
    import numba
    from numba.core import event
    from numba.core.caching import CompileResultCacheImpl, FunctionCache
except ValueError as error:  # numba's own variables
    told = ", ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_"))
    if not told:  # something else is wrong
        raise
    raise ValueError(f"numba must be able to do what its variables ask for, got {told}: {error}") from error

HAND_OVER_S = 1e-4  # how long the block waits for a thread that compiles; Python's 5 ms at each of a net's steps add up
OBJECTS = 20_000  # made between two searches for garbage by a thread that compiles: it makes millions, hardly any of it


def njit(**options: Any) -> Callable[[Callable], Callable]:
    """Return numba's decorator with these options (nogil, fastmath), keeping code on disk if possible.

    `no_cpython_wrapper` is for loops that only other loops call: a way in from Python takes long to compile, too.
    In the loops, whole arrays are neither made nor assigned: numba would also compile how they are allocated, or how an
    error about their shapes would be worded, which takes longer than the loops themselves.
    """
    options["no_cfunc_wrapper"] = True  # a way in from C, which nobody takes

    def compiled(function: Callable) -> Callable:
        loop = numba.njit(**options)(function)
        with suppress(RuntimeError):  # no folder that it can be kept in
            loop._cache = _Kept(function)  # what cache=True does, with numba's own cache
        return loop

    return compiled


class _Places(CompileResultCacheImpl):
    """The folders that numba tries: the user's only if there is a home, or it would be called ~ and lie in this one."""

    def __init__(self, function: Callable) -> None:
        if os.path.expanduser("~") == "~":
            self._locator_classes = [place for place in self._locator_classes if "UserWide" not in place.__name__]
        super().__init__(function)


class _Kept(FunctionCache):
    """numba's cache on disk, which no run depends on: what it cannot read is compiled, what it cannot write is lost."""

    _impl_class = _Places

    def load_overload(self, signature: object, target_context: object) -> object:
        try:
            return super().load_overload(signature, target_context)
        except OSError:  # somebody else's file, say
            return None
        except Exception:  # damaged, in whatever way: forgotten, so that it is kept anew
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, signature: object, compiled: object) -> None:
        with suppress(Exception):
            super().save_overload(signature, compiled)


@contextmanager
def compiling_ahead(*calls: Callable[[], object]) -> Iterator[None]:
    """Make these calls in a thread beside the block, so that the loops they need are compiled before it needs them.

    They are made in order, and numba compiles one loop at a time: first comes what is needed first. What a call raises
    is dropped: whoever makes it in earnest will meet it again. The block ends after the thread, so that no process is
    forked beside it.
    """
    thread = Thread(target=_make, args=(calls,), name="compiling")
    thread.start()
    try:
        yield
    finally:
        thread.join()


class _WhileCompiling:
    """The process's settings while threads compile: the first to come sets them, the last to go restores them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._n_threads = 0
        self._before = (sys.getswitchinterval(), gc.get_threshold())

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_threads:
                self._before = (sys.getswitchinterval(), gc.get_threshold())
                sys.setswitchinterval(HAND_OVER_S)
                _, (n_objects, *rarer) = self._before
                if n_objects:  # 0: never
                    gc.set_threshold(max(n_objects, OBJECTS), *rarer)
            self._n_threads += 1

    def __exit__(self, *_exception: object) -> None:
        with self._lock:
            self._n_threads -= 1
            if not self._n_threads:
                interval, threshold = self._before
                sys.setswitchinterval(interval)
                gc.set_threshold(*threshold)


_WHILE_COMPILING = _WhileCompiling()


def _make(calls: tuple[Callable[[], object], ...]) -> None:
    with _WHILE_COMPILING:
        for call in calls:
            with suppress(Exception):
                call()


@contextmanager
def told_of_compiling(tell: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `tell` once, before the first compilation of something that is not on disk."""
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
        """Do nothing: numba requires the method."""
