"""A stand-in for a case of a cohort, which `benchmarks/cohort.py` has other processes do thousands of times."""

import os
import time
from pathlib import Path

from flare_lib.machine.atomic_write import atomic_write

BAD_EVERY = 50


def is_bad(number: int) -> bool:
    """Return whether a case is one of those that cannot be done."""
    return number % BAD_EVERY == BAD_EVERY - 1


def do(number: int, *, folder: str, seconds: float) -> int:
    """Do a case: take some time, write its file, and a line that says so; a bad one raises ValueError."""
    if is_bad(number):
        raise ValueError(f"case {number} must be good, got a bad one")
    time.sleep(seconds)
    with atomic_write(Path(folder) / f"{number}.txt") as unfinished:
        unfinished.write_text(f"{number * number}\n")
    file = os.open(Path(folder) / "executed", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(file, f"{number}\n".encode())
    os.close(file)
    return number * number
