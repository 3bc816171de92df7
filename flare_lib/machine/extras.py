"""Packages that not everybody needs: where one is missing, one line says which extra brings it."""

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtra(ImportError):
    """A package that is not installed, and comes with an extra; the message is one line."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import, in this block, what comes with an extra of flare-lib; MissingExtra names it where that is not installed.

    A package that is there but cannot be loaded keeps its own error.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{error.name} must be installed (pip install 'flare-lib[{name}]'), got no such package", name=error.name
        ) from error
