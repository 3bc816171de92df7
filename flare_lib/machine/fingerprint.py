"""Whether a file or a folder is still what it was: at a glance by sizes and times, for certain by its content."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_BLOCK_BYTES = 2**20


def stamp_of(path: str | os.PathLike) -> str:
    """Return 16 hex digits that differ once a file's size or time of change does, or that of any file in a folder.

    Nothing is read. Raises OSError for a path that is not there.
    """
    digest = hashlib.sha256()
    for name, file in _files(Path(path)):
        about = file.stat()
        digest.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content, or, of a folder's: names and contents of all files, by name.

    A file's is what `sha256sum` says. Raises OSError for a path that is not there or cannot be read.
    """
    path, digest = Path(path), hashlib.sha256()
    for name, file in _files(path):
        if path.is_dir():
            digest.update(f"{name}\0{file.stat().st_size}\0".encode(errors="surrogateescape"))
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield a file, or all files below a folder by name, hidden ones left out."""
    if not path.is_dir():
        yield "", path
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            file = Path(folder) / name
            if file.is_file():  # no pipe, no link that leads nowhere
                yield file.relative_to(path).as_posix(), file
