"""Where a net runs: the requested device, or the best available; and the errors when it cannot do what it is asked."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Return a device that torch can use here; "auto" is the GPU (CUDA) if torch was built for it, otherwise the CPU.

    Raises ValueError for a device that is unknown, not available or unable to compute, such as torch's "meta".
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and _computes_on_cuda() else "cpu")
    try:
        return _computed_on(device)
    except (RuntimeError, AssertionError, ImportError) as error:  # the last two for what torch was not built with
        reason = _first_sentence(error)
        raise ValueError(f"device must be auto or one that torch can use here, got {device} ({reason})") from error


def _computed_on(device: str | torch.device) -> torch.device:
    """Return the device with its number, once it has computed something; raises torch's errors if it cannot."""
    computed = torch.zeros(1, device=device)
    computed.item()
    return computed.device


def _computes_on_cuda() -> bool:
    """Return whether the GPU computes: torch is not built for the oldest ones, nor for those newer than itself."""
    try:
        _computed_on("cuda")
    except RuntimeError:
        return False
    return True


def _first_sentence(error: Exception) -> str:
    """Return what torch says before it goes on to how it was built, and whom to ask."""
    return str(error).splitlines()[0].partition(". ")[0]


def for_float64(device: torch.device) -> torch.device:
    """Return where numbers of `device` are summed in float64: there, or on the CPU if it may not have that format.

    Apple's GPUs have none, and not all of Intel's do.
    """
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def has_x86_onednn() -> bool:
    """Return whether this is an x86 processor on which torch has oneDNN, a library of fast kernels, and may use it."""
    # those for ARM were not measured
    known = platform.machine() in ("x86_64", "AMD64")
    return known and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


@contextmanager
def limits_of(device: torch.device) -> Iterator[None]:
    """Raise in one line what `device` cannot do in the block.

    MemoryError if it is full, ValueError for an operation that torch does not have for its kind.
    """
    try:
        yield
    except NotImplementedError as error:
        if device.type == "cpu":
            raise
        reason = _first_sentence(error)
        raise ValueError(
            f"device must be one that can compute this net, as cpu can, got {device} ({reason})"
        ) from error
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        advice = "" if device.type == "cpu" else "; device cpu uses none of it"
        raise MemoryError(f"{device} is full{advice}") from error
