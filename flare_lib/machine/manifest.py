"""What has been done, one line per item: a run may stop or be killed at any moment, and the next continues from there.

Each line is a JSON object with the item's name, written in one go. A line that a kill or a full disk cut short is
dropped by the next run. Of several lines with one name the last counts, and only it is kept. A file in which no whole
line is one of ours is somebody else's, whatever its name, and is never written to.

Reference: https://jsonlines.org (pandas reads it with `read_json(path, lines=True)`)
"""

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from flare_lib.machine.atomic_write import atomic_write

MANIFEST = "manifest.jsonl"  # its name in the folder of a run
Entry = dict[str, Any]  # what JSON can hold; "name" is the item's
IsOurs = Callable[[Entry], bool]
_AS_IT_IS = getattr(os, "O_BINARY", 0)  # on Windows; otherwise it would end lines in its own way
# what NFS without its lock daemon and some file systems in user space answer
_NO_LOCKS = {getattr(errno, name) for name in ("ENOLCK", "ENOTSUP", "EOPNOTSUPP") if hasattr(errno, name)}


def _any_entry(entry: Entry) -> bool:
    return True


class Manifest:
    """An open manifest: `entries` {name: entry}, in the order in which they were first written, and `add`."""

    def __init__(self, path: Path, is_ours: IsOurs = _any_entry) -> None:
        self.path = path
        self.entries = read_manifest(path, is_ours)
        if not self.entries and path.exists() and _is_somebody_elses(path.read_bytes()):
            raise ValueError(f"{path} must be written by earlier runs, got a file of something else (move it away)")

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write an item's line in one go.

        Raises ValueError for an entry without a name or with NaN, TypeError for one that JSON cannot hold, and OSError
        if it cannot be written, in which case no part of it is left.
        """
        if not isinstance(entry.get("name"), str):
            raise ValueError(f"an entry must have the name of its item, got {sorted(entry)}")
        line = _line(entry)
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _AS_IT_IS, 0o666)
        try:
            _write_all(file, line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        finally:
            os.close(file)
        self.entries[entry["name"]] = dict(entry)


def read_manifest(path: str | os.PathLike, is_ours: IsOurs = _any_entry) -> dict[str, Entry]:
    """Return {name: entry} of a manifest, the last of each name, without broken lines; empty if there is no file.

    `is_ours` says of an entry with a name whether it has all that it must have; a line that has not is a broken one.
    """
    entries: dict[str, Entry] = {}
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return entries
    for line in content.splitlines():
        entry = _parsed(line)
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and is_ours(entry):
            entries[entry["name"]] = entry
    return entries


@contextmanager
def open_manifest(path: str | os.PathLike, is_ours: IsOurs = _any_entry) -> Iterator[Manifest]:
    """Open a manifest to continue from, for this run only; its file then holds one complete line per name.

    `is_ours` as in `read_manifest`. Raises ValueError if another run has it open, or if the file has whole lines and
    none of them is an entry. A killed run leaves nothing locked.
    """
    path = Path(path)
    try:
        lock = _acquired(path)
    except Timeout as error:
        raise ValueError(f"{path.parent} must be free, got another run that is writing into it") from error
    try:
        manifest = Manifest(path, is_ours)
        with atomic_write(path) as unfinished:  # there from the start: what a killed run leaves beside it is the run's
            unfinished.write_bytes(b"".join(map(_line, manifest.entries.values())))
        yield manifest
    finally:
        lock.release()


def _acquired(path: Path) -> BaseFileLock:
    """Return a lock that is held: the system's or, on a file system that has none, a file that is there meanwhile.

    Raises Timeout if another process holds it.
    """
    lock: BaseFileLock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        lock = SoftFileLock(path.with_name(f".{path.name}.softlock"))
        lock.acquire(timeout=0)
    return lock


def _is_somebody_elses(content: bytes) -> bool:
    """Return whether a file without any entry is more than the start of a line, all that a kill may have left."""
    begun = b'{"name": "'
    rest = content.strip(b"\0")
    if not rest.strip():
        return False
    return b"\n" in rest or _parsed(rest) is not None or not rest.startswith(begun[: len(rest)])


def _parsed(line: bytes) -> Any:
    """Return what a line of JSON holds, None for a broken one."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, allow_nan=False).encode("ascii") + b"\n"  # keeps file names that are not UTF-8


def _write_all(file: int, content: bytes) -> None:
    """Write all of it, or, if the disk has no room for it, none of it."""
    before = os.fstat(file).st_size
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        os.ftruncate(file, before)
        raise
