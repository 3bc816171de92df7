"""Why the work on one case failed, in one line; the other cases go on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """Takes the place of a result when there is none: the reason, in one line."""

    reason: str


def attempt(work: Callable[[Item], Result], item: Item) -> Result | Failure:
    """Return `work(item)`, or a Failure if it raises any exception other than an interruption (Ctrl-C)."""
    try:
        return work(item)
    except Exception as error:  # a lying header, too little memory, a bug of ours: none may cost the other cases
        return Failure(reason_of(error))


def reason_of(error: BaseException) -> str:
    """Return an error's message in one readable line, with the error's name unless the message was written for people.

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
