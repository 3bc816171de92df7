"""Packages that not everybody needs: where one is missing, one line says which extra brings it."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


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
        raise _missing(error.name, name) from error


def check_extra(package: str, name: str) -> None:
    """Raise MissingExtra unless a package of an extra is installed: before long work that will need it."""
    if find_spec(package) is None:
        raise _missing(package, name)


def _missing(package: str | None, name: str) -> MissingExtra:
    return MissingExtra(f"{package} must be installed (pip install 'flare-lib[{name}]'), got no such package")
