"""The `flare` command, put together from `flare_lib.commands`. Each subcommand is a thin layer over the library.

A user's mistake is reported in one line on stderr, "error: what must hold, got what came", with exit code 2. Outputs
are checked before any work starts, and appear complete or not at all. When one case of several fails, it gets such a
line, the others go on, and the exit code is still 2. A failed notebook exits with 1, Ctrl-C with one line and 130.
Progress is shown on a terminal only. Commands import the library when they run, so that `flare --help` is quick.
"""

import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Annotated, Any

import typer

from flare_lib import __version__
from flare_lib.commands import cases, cohorts, course, evaluation, exports, segmentation, training
from flare_lib.commands.terminal import tell_error, write_any_text
from flare_lib.machine.extras import MissingExtra
from flare_lib.machine.failures import reason_of
from flare_lib.machine.home_folder import at_home
from flare_lib.machine.huge_pages import ask_for_huge_pages
from flare_lib.machine.threads import keep_to_quota


class _Interruptible(typer.core.TyperGroup):
    """A group of commands that ends with a single line on Ctrl-C, wherever it arrives."""

    def invoke(self, ctx: Any) -> object:
        """Run the command; exit with 130, as shells do, if it is interrupted."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("stopped; whatever was complete is kept, and nothing is half-written", err=True)
            raise typer.Exit(130) from None


def _help(command: Callable) -> str:
    """Return what a command's docstring says, a line a paragraph: typer breaks lines itself, where the screen ends."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(command.__doc__ or "").split("\n\n"))


app = typer.Typer(
    cls=_Interruptible,
    help="Segment 13 abdominal organs in CT, coarse to fine. Not for clinical use.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (  # in the order the help shows them: that of the work, not of the modules
    cases.fetch,
    cases.info,
    segmentation.segment,
    segmentation.measure,
    cases.phantom,
    evaluation.evaluate,
    evaluation.profile,
    cases.check,
    cohorts.pseudo_label,
    training.train,
    exports.export,
    course.notebooks,
    course.editions,
):
    app.command(help=_help(_command))(_command)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"flare-lib {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# an unknown option, a missing argument, ...: typer has no public name for this class
_UsageError: Any = typer.BadParameter.__base__


def main() -> None:
    """Run the `flare` command and exit with its code (see the top of this module)."""
    write_any_text()
    ask_for_huge_pages()
    keep_to_quota()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run `flare` with these arguments; return the exit code."""
    ours = [*takewhile(lambda argument: argument != "--", arguments)] if arguments[:1] == ["profile"] else [*arguments]
    arguments = [*map(_at_home, ours), *arguments[len(ours) :]]
    if any(re.fullmatch(r"(--[\w-]+=)?", argument) for argument in ours):  # as a path it would be the current folder
        return tell_error("no argument may be empty, got an empty one (an unset variable?)")
    try:
        os.getcwd()
    except OSError:
        return tell_error("the current folder must exist, got one that has been removed")
    try:
        return app(list(arguments) or ["--help"], prog_name="flare", standalone_mode=False) or 0
    except _UsageError as error:
        return tell_error(error.format_message())
    except MissingExtra as error:
        return tell_error(str(error))
    except (ValueError, OSError, MemoryError) as error:
        return tell_error(reason_of(error))


def _at_home(argument: str) -> str:
    """Return an argument with `~` as the home folder: shells do not see it in `--output=~/labels`, and some nowhere."""
    option = re.match(r"--[\w-]+=|-\w(?=~)|", argument)[0]  # type: ignore[index]
    return option + at_home(argument[len(option) :])


if __name__ == "__main__":  # because torchrun starts modules, not commands
    main()
