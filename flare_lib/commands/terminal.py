"""What a command writes to stderr beside its results: errors, in one line each, and progress."""

import codecs
import io
import sys
from contextlib import ExitStack
from typing import Any

import typer


def tell_error(message: str, *, about: object = "") -> int:
    """Print an error message in one line; return 2, the exit code for a user's error.

    `about`: the case or path concerned, put first unless the message already names it.
    """
    line, subject = _in_one_line(message), _in_one_line(str(about))
    typer.echo(f"error: {line if subject in line else f'{subject}: {line}'}", err=True)
    return 2


def tell_note(note: str) -> None:
    """Print a note in one line on stderr."""
    typer.echo(f"note: {_in_one_line(note)}", err=True)


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def write_any_text() -> None:
    """Have stdout and stderr write `\\u65e5` for what their encoding lacks, in place of an error.

    A file's name may hold anything, and on Windows, or where somebody has asked for it, the encoding is a narrow one.
    """
    codecs.register_error("flare", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="flare" if stream.errors == "surrogateescape" else "backslashreplace")


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write bytes of a file's name that are no text as they are, as in the locale C, and escape whatever else."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


class Bars:
    """Progress bars, one per stage, with the time left; on a terminal only, and if they are to be `shown`.

    It then also says, once, when loops have to be compiled first, which makes the first run a slow one.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self._shown = shown and sys.stderr.isatty()
        self._bars: dict[str, Any] = {}
        self._compiling = ExitStack()

    def __enter__(self) -> "Bars":
        if self._shown:
            from flare_lib.machine.compiled import told_of_compiling

            self._compiling.enter_context(told_of_compiling(_say_compiling))
        return self

    def __call__(self, stage: str, done: int, total: int, *, unit: str = "tile", beside: str = "") -> None:
        from tqdm import tqdm

        if stage not in self._bars:
            self._bars[stage] = tqdm(total=total, desc=stage, unit=unit, disable=not self._shown, leave=False)
        bar = self._bars[stage]
        bar.set_postfix_str(beside, refresh=done == bar.n)  # what stands beside may change while nothing gets done
        bar.update(done - bar.n)

    def __exit__(self, *_exception: object) -> None:
        for bar in self._bars.values():
            bar.close()
        self._compiling.close()


def _say_compiling() -> None:
    typer.echo("note: compiling for this processor, once; the first case may take a minute longer", err=True)
