"""A file that appears complete or not at all: written under another name beside its place, then renamed."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path to write to; when the block ends well it is renamed to `path`, otherwise removed.

    It lies in the same folder and keeps the suffix. An earlier file at `path` stays as it was until the new one is
    complete, whatever happens: an exception, a full disk, a killed process (which may leave the hidden `.xxxx-name`).
    """
    path = Path(path)
    unfinished = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
