"""What a command tells people beside its results, on stderr: a mistake in one line, and how far it is."""

import sys
from contextlib import ExitStack
from typing import Any

import typer


def tell_error(message: str, *, about: object = "") -> int:
    """Say in one line what must hold and what came; return the exit code of a user's error, 2.

    `about`: the case or the path that it is about, named first unless the message does.
    """
    line = " ".join(message.split())
    typer.echo(f"error: {line if str(about) in line else f'{about}: {line}'}", err=True)
    return 2


class Bars:
    """Progress of the stages, one bar each, on a terminal only, the time that is left with it.

    There it also says, once, when loops are compiled first, which takes longer than they will ever take again.
    """

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}
        self._compiling = ExitStack()

    def __enter__(self) -> "Bars":
        if sys.stderr.isatty():
            from flare_lib.machine.compiled import told_of_compiling

            self._compiling.enter_context(told_of_compiling(_say_compiling))
        return self

    def __call__(self, stage: str, done: int, total: int, *, unit: str = "tile", beside: str = "") -> None:
        from tqdm import tqdm

        if stage not in self._bars:
            self._bars[stage] = tqdm(total=total, desc=stage, unit=unit, disable=None, leave=False)
        self._bars[stage].set_postfix_str(beside, refresh=False)
        self._bars[stage].update(done - self._bars[stage].n)

    def __exit__(self, *_exception: object) -> None:
        for bar in self._bars.values():
            bar.close()
        self._compiling.close()


def _say_compiling() -> None:
    typer.echo("note: compiling for this processor, once; the first case may take a minute longer", err=True)
