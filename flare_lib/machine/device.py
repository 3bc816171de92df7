"""Where a net runs: the requested device, or the best available; and the error when it is full."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Return a device that torch can use here; "auto" is the GPU (CUDA) if there is one, otherwise the CPU.

    Raises ValueError for a device that is unknown or not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA raises the latter
        reason = str(error).splitlines()[0]
        raise ValueError(f"device must be auto or one that torch can use here, got {device} ({reason})") from error


def has_x86_onednn() -> bool:
    """Return whether this is an x86 processor on which torch has oneDNN, a library of fast kernels, and may use it."""
    # those for ARM were not measured
    known = platform.machine() in ("x86_64", "AMD64")
    return known and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


@contextmanager
def memory_errors_of(device: torch.device) -> Iterator[None]:
    """Raise MemoryError, in one line, if the block needs more memory than `device` has free."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        advice = "" if device.type == "cpu" else "; device cpu uses none of it"
        raise MemoryError(f"{device} is full{advice}") from error
