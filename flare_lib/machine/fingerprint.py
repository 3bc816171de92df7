"""Whether a file or folder is still the same: at a glance, by sizes and times; for certain, by its content."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_BLOCK_BYTES = 2**20


def stamp_of(path: str | os.PathLike) -> str:
    """Return 16 hex digits that change with a file's size or modification time, or those of any file in a folder.

    No content is read. Raises OSError for a path that does not exist, or is a pipe or a device.
    """
    digest = hashlib.sha256()
    for name, file in _files(Path(path)):
        about = file.stat()
        digest.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content, as `sha256sum` prints it, or of the names and contents in a folder.

    Raises OSError for a path that does not exist or cannot be read, and for a pipe or a device: it might have no end.
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
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "must be a file or a folder, got a pipe or a device", str(path))
        yield "", path
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            file = Path(folder) / name
            if file.is_file():  # no pipe, no link that leads nowhere
                yield file.relative_to(path).as_posix(), file
