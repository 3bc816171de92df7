"""Commands for the course: run its notebooks, and make the editions for students and teachers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flare_lib.commands.outputs import check_new_folder, wrote
from flare_lib.commands.settings import parse_setting, seen_from_here
from flare_lib.commands.terminal import Bars

if TYPE_CHECKING:
    from flare_lib.course.overview import NotebookRun


def notebooks(
    folder: Annotated[Path, typer.Argument(help="Where the notebooks are.")] = Path("notebooks"),
    out: Annotated[Path, typer.Option(help="Folder for the executed notebooks.")] = Path("out/notebooks"),
    only: Annotated[
        list[str] | None, typer.Option(help="Only notebooks whose names start with this, e.g. 00; may be repeated.")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "-p", help="Set a parameter: name=value; paths are relative to the current folder; may be repeated."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="How many notebooks run side by side; default: one per core. Those that measure time run alone, at the"
            " end. 0: one after another.",
        ),
    ] = None,
) -> None:
    """Execute the notebooks, skipping those that have not changed since their last run."""
    check_new_folder(out)

    from flare_lib.course.execution import NotebookFailed, find_notebooks, run_notebooks, workers_for

    paths = find_notebooks(folder, only or [])
    parameters = dict(seen_from_here(parse_setting(text)) for text in parameter or [])
    how_many = workers_for(len(paths)) if workers is None else workers
    try:
        with Bars() as bars:
            run_notebooks(
                paths,
                out,
                parameters=parameters,
                workers=how_many,
                progress=lambda done, total, names: bars(
                    "executed", done, total, unit="notebook", beside=f"now: {', '.join(names)}" if names else ""
                ),
                on_done=_say_done,
            )
    except NotebookFailed as failure:
        typer.echo(f"error: {failure}\nits outputs so far are in {out}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{wrote(out / 'index.html')}, the page that leads to all of them")


def editions(
    folder: Annotated[Path, typer.Argument(help="Where the notebooks are.")] = Path("notebooks"),
) -> None:
    """Make a students' edition of the notebooks, without solutions, and a teachers' edition, with answers filled in."""
    from flare_lib.course.editions import write_editions

    typer.echo(wrote(*write_editions(folder)))


def _say_done(run: "NotebookRun") -> None:
    from tqdm import tqdm

    with tqdm.external_write_mode():  # above the bar, if there is one
        typer.echo(
            f"{run.seconds:6.1f} s  {run.name}: {run.title}{' (unchanged, not run again)' if run.reused else ''}"
        )
