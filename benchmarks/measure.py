"""What the benchmarks measure with: seconds, a fresh process for each run, and memory as the system sees it (Linux)."""

import ctypes
import gc
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from flare_lib.machine.precision import choose_precision

Result = TypeVar("Result")


def timed(run: Callable[[], Result], n_runs: int = 1) -> tuple[Result, list[float]]:
    """Run something several times; return its last result and the seconds of every run."""
    seconds: list[float] = []
    for _ in range(n_runs):
        began = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - began)
    return result, seconds


def store(path: Path, result: dict) -> None:
    """Write a result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def machine() -> dict:
    """Return what a result's numbers depend on."""
    fastest = choose_precision(device=torch.device("cpu")).name
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"cores": os.cpu_count(), "kernels": torch.backends.cpu.get_cpu_capability(), "format": fastest, **versions}


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

    By default it keeps varying amounts, tens of MiB, for later. This is slower, so not for timing.
    """
    m_mmap_threshold = -3
    ctypes.CDLL("libc.so.6").mallopt(m_mmap_threshold, 64 * 1024)


def extra_mib_of(run: Callable[[], object]) -> float:
    """Run something and return how far the resident set rose above its previous level."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before must not be lent out again, uncounted
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status_mib("VmRSS")
    run()
    return status_mib("VmHWM") - before
