"""Packages that not everyone needs: if one is missing, a single line says which extra installs it."""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


class MissingExtra(ImportError):
    """A package that comes with an extra and is not installed; the message is one line."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Wrap imports of packages from one of flare-lib's extras; MissingExtra names the extra if one is not installed.

    A package that is installed but cannot be loaded keeps its own error.
    """
    name_the_user()
    try:
        yield
    except ModuleNotFoundError as error:
        raise _missing(error.name, name) from error


def name_the_user() -> None:
    """Give a user without a name one, in this process and those it starts: MONAI asks for it while it is loaded.

    Whoever runs a container under a bare number has none.
    """
    try:
        getpass.getuser()
    except (ImportError, KeyError, OSError):  # Windows; Python up to 3.12; 3.13
        os.environ["LOGNAME"] = "nobody"


def check_extra(package: str, name: str) -> None:
    """Raise MissingExtra unless a package from an extra is installed; call it before long work that needs one."""
    if find_spec(package) is None:
        raise _missing(package, name)


def _missing(package: str | None, name: str) -> MissingExtra:
    return MissingExtra(f"{package} must be installed (pip install 'flare-lib[{name}]'), got no such package")
