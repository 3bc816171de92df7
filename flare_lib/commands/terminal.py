"""What a command tells people beside its results, on stderr: a mistake in one line, and how far it is."""

import typer


def tell_error(message: str) -> int:
    """Say in one line what must hold and what came; return the exit code of a user's error, 2."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return 2


class Bars:
    """Progress of the stages, one bar each, on a terminal only, the time that is left with it."""

    def __init__(self) -> None:
        self._bars = {}

    def __enter__(self) -> "Bars":
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
