"""Pieces of work for other processes: they must be functions of a module."""

import os
import time
from functools import partial

KILLED_AT, TOO_LATE = 3, 60.0
SIGKILL = 9  # Windows has no name for it, and ends a process as surely


def half(item):
    """Half of an even number; an odd one fails."""
    if item % 2:
        raise ValueError(f"an item must be even, got {item}")
    return item // 2


def process_of(_item):
    return os.getpid()


def killed_at_3(item):
    if item == KILLED_AT:
        os.kill(os.getpid(), SIGKILL)
    return item


def killed_unless_alone(path):
    """Die the first time, like something short of memory beside others; the second time, do it."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return path.name
    os.kill(os.getpid(), SIGKILL)


def late_at_3(item):
    if item == KILLED_AT:
        time.sleep(TOO_LATE)
    return item


def write_slowly(path):
    """Write for a minute, unless something comes in between: then take away what was written."""
    try:
        path.write_text(str(os.getpid()))
        time.sleep(TOO_LATE)
    finally:
        path.unlink()


def first_at_once(path):
    return path.name if path.name == "first" else write_slowly(path)


def said(item):
    """Print something, which must not get between the answers."""
    print("said", item, flush=True)
    return (item, os.environ.get("OMP_NUM_THREADS"))


def cannot_travel(_item):
    return partial(lambda: None)
