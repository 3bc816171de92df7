"""What the benchmarks measure with: a fresh process for each run, and memory as the system sees it (Linux)."""

import ctypes
import gc
import multiprocessing
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch


def machine() -> dict:
    """Return what a result's numbers depend on."""
    return {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}


def in_a_process(function: Callable, *arguments: object) -> object:
    """Return function(*arguments), computed in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def status_mib(key: str) -> float:
    """Return a line of /proc/self/status (VmRSS, VmHWM) in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def give_memory_back_at_once() -> None:
    """Make the C library return every larger block when it is freed, so that what is resident is what is in use.

    By default it keeps some for later, now more and now less: tens of MiB. Slower, so not for timing.
    """
    m_mmap_threshold = -3
    ctypes.CDLL("libc.so.6").mallopt(m_mmap_threshold, 64 * 1024)


def extra_mib_of(run: Callable[[], object]) -> float:
    """Run something and return by how much the resident set rose above its level before."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before must not be lent out again, uncounted
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status_mib("VmRSS")
    run()
    return status_mib("VmHWM") - before
