"""A file or a folder that appears complete or not at all: written under another name beside its place, then renamed."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_KEPT = 16  # characters at a name's end, its suffix among them


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path to write to; when the block ends well it is renamed to `path`, otherwise removed.

    It lies in the same folder and keeps the suffix. An earlier file at `path` stays as it was until the new one is
    complete, whatever happens: an exception, a full disk, a killed process (which may leave the hidden `.xxxx-...`).
    What the system has against the writing is raised as an OSError that names `path`.
    """
    path = Path(path)
    unfinished = _hidden_beside(path)
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise _named(error, path, unfinished) from error
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty folder to write to; when the block ends well it takes the place of `path`, else it is removed.

    As `atomic_write`, but for the moment between two folders: a process killed just then leaves none.
    """
    path = Path(path)
    unfinished = _hidden_beside(path)
    try:
        unfinished.mkdir()
        yield unfinished
        shutil.rmtree(path, ignore_errors=True)
        unfinished.rename(path)
    except OSError as error:
        raise _named(error, path, unfinished) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _hidden_beside(path: Path) -> Path:
    """Return a name that nobody has, in the same folder and with the same suffix, short however long the path's is."""
    return path.with_name(f".{secrets.token_hex(4)}-{path.name[-_KEPT:]}")


def _named(error: OSError, path: Path, unfinished: Path) -> OSError:
    """Return the error as one of `path` when the system raised it without a name, or with the hidden one."""
    if error.errno is None or not (error.filename is None or str(error.filename).startswith(str(unfinished))):
        return error
    return OSError(error.errno, error.strerror, str(path))
