"""A file or folder that appears complete or not at all: written beside its place under another name, then renamed."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_KEPT = 16  # characters at the end of a name, including its suffix


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path to write to; if the block ends without an error it is renamed to `path`, otherwise removed.

    It lies in the same folder, which must exist, and keeps the suffix. An earlier file at `path` stays as it was until
    the new one is complete, whatever happens: an exception, a full disk, a killed process (which may leave the hidden
    `.xxxx-...`). If the system refuses to write, the OSError names `path`.
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
    """Yield an empty folder to write to; if the block ends without an error it replaces `path`, else it is removed.

    Like `atomic_write`, except for the moment between the two folders: a process killed just then leaves neither.
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
    """Return an unused name in the same folder with the same suffix, short however long the path's own name is."""
    return path.with_name(f".{secrets.token_hex(4)}-{path.name[-_KEPT:]}")


def _named(error: OSError, path: Path, unfinished: Path) -> OSError:
    """Return the error with `path` as its file name, if it has none or the hidden file's."""
    if error.errno is None or not (error.filename is None or str(error.filename).startswith(str(unfinished))):
        return error
    return OSError(error.errno, error.strerror, str(path))
