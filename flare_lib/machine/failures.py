"""How the work on one case ended: with a result and its cost, or with the reason why there is none, in one line."""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from flare_lib.machine.memory import watch_memory

_OF_THE_DISK = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS") if hasattr(errno, name)}

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A result, the wall time it took in s, and the most memory that its process held meanwhile, in MiB."""

    result: Result
    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Failure:
    """Takes the place of a result when there is none: the reason, in one line.

    `passing`: whether it says nothing about the item, because the disk had no room or could not be written to.
    """

    reason: str
    passing: bool = False


def attempt(work: Callable[[Item], Result], item: Item) -> Done[Result] | Failure:
    """Return `work(item)`, or a Failure if it raises any exception other than an interruption (Ctrl-C)."""
    began = time.perf_counter()
    try:
        with watch_memory() as memory:
            result = work(item)
    except Exception as error:  # a lying header, too little memory, a bug of ours: none may cost the other cases
        return Failure(reason_of(error), passing=isinstance(error, OSError) and error.errno in _OF_THE_DISK)
    return Done(result, time.perf_counter() - began, memory.peak_mib)


def reason_of(error: BaseException) -> str:
    """Return an error's message in one readable line, preceded by the error's name if people did not write the message.

    If the system complains about a file, the file comes first ("a/b.nii.gz: No space left on device").
    """
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, MemoryError):
        said = f"there must be enough memory for it, got too little{f' ({error})' if str(error) else ''}"
    elif type(error) in (ValueError, TypeError) or isinstance(error, OSError):
        said = str(error)
    else:
        said = f"{type(error).__name__}: {error}"
    return " ".join(said.split())
