"""What ended the work on one case, in one line; the other cases go on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """What stands in the place of a result that there is not: the reason, one line."""

    reason: str


def attempt(work: Callable[[Item], Result], item: Item) -> Result | Failure:
    """Return `work(item)`, or the Failure that any exception but an interruption (Ctrl-C) makes of it."""
    try:
        return work(item)
    except Exception as error:  # a header that lies, a memory too small, a fault of ours: none may cost other cases
        return Failure(reason_of(error))


def reason_of(error: BaseException) -> str:
    """Return an error's message in one line, fit for people: what was said for them, or else with the error's name.

    A file that the system has something against comes first ("a/b.nii.gz: No space left on device").
    """
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, MemoryError):
        said = f"there must be memory enough for it, got too little{f' ({error})' if str(error) else ''}"
    elif type(error) in (ValueError, TypeError) or isinstance(error, OSError):
        said = str(error)
    else:
        said = f"{type(error).__name__}: {error}"
    return " ".join(said.split())
