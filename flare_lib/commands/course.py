"""Commands for the course: run its notebooks, and make the editions for students and teachers."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flare_lib.commands.outputs import check_new_folder, wrote
from flare_lib.commands.settings import parse_setting, seen_from_here

if TYPE_CHECKING:
    from flare_lib.course.execution import NotebookRun


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
) -> None:
    """Execute the notebooks, skipping those that have not changed since their last run."""
    check_new_folder(out)

    from flare_lib.course.execution import NotebookFailed, find_notebooks, run_notebooks

    paths = find_notebooks(folder, only or [])
    parameters = dict(seen_from_here(parse_setting(text)) for text in parameter or [])
    try:
        run_notebooks(paths, out, parameters=parameters, progress=sys.stderr.isatty(), on_done=_say_done)
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
    typer.echo(f"{run.seconds:6.1f} s  {run.name}: {run.title}{' (unchanged, not run again)' if run.reused else ''}")
