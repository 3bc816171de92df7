"""What a run writes as it goes: one line of JSON per step, and TensorBoard's curves if that is installed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from flare_lib.machine.atomic_write import atomic_write


class Log:
    """The log of a run: `folder`/log.jsonl, and `folder`/tensorboard if the package tensorboard can be imported.

    A context manager; without a folder (in all processes but the first) it writes nothing. When a run is resumed at
    step `start`, entries from there on, which a killed run wrote after its last checkpoint, are removed first, so that
    every step has one line.
    """

    def __init__(self, folder: Path | None, *, start: int = 0) -> None:
        self._file = self._curves = None
        if folder is None:
            return
        path = folder / "log.jsonl"
        earlier = [entry for entry in read_log(path) if entry["step"] < start] if path.exists() else []
        with atomic_write(path) as unfinished:
            unfinished.write_text("".join(json.dumps(entry) + "\n" for entry in earlier), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._curves = _tensorboard(folder / "tensorboard", start)

    def __enter__(self) -> Self:
        return self

    def write(self, entry: Mapping[str, object]) -> None:
        """Add an entry, which must have a "step"; its single numbers become TensorBoard's curves."""
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        if self._curves is not None:
            for name, value in entry.items():
                if name != "step" and isinstance(value, int | float):
                    self._curves.add_scalar(name, value, entry["step"])

    def __exit__(self, *_exception: object) -> None:
        for closable in (self._file, self._curves):
            if closable is not None:
                closable.close()


def read_log(path: str | Path) -> list[dict]:
    """Return the entries of a log.jsonl, except a last line that a killed run left unfinished."""
    entries = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def _tensorboard(folder: Path, start: int) -> Any:
    """Return TensorBoard's writer, or None if the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start)
