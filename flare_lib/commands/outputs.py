"""The files a command writes: checked before any work starts, and named once they are written."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIGURE_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")


def check_images(*images: Path) -> None:
    """Raise ValueError unless NIfTI files can be written to all these paths, and no two are one."""
    from flare_lib.ct.files import check_writable

    for image in images:
        check_writable(image)
    check_apart(images, [])


def check_labels(labels: Path, inputs: Sequence[Path], figure: Path | None) -> None:
    """Raise ValueError unless labels, NIfTI or DICOM-SEG, and a figure of them can be written, neither over an input.

    Raises MissingExtra for DICOM-SEG without `dicom`. A command that is given another path than a file's takes it for
    a folder, which the message says.
    """
    from flare_lib.ct.files import LABEL_SUFFIXES, check_writable, is_seg
    from flare_lib.machine.extras import check_extra

    check_writable(labels, suffixes=LABEL_SUFFIXES, instead="be a folder that exists or has no ending")
    if is_seg(labels):
        check_extra("highdicom", "dicom")
    check_figure(figure)
    check_apart([labels, *([figure] if figure else [])], inputs)


def check_apart(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Raise ValueError unless every output differs from every input and every other output, whatever their names."""
    taken = [*inputs]
    for output in outputs:
        if any(_is_same(output, path) for path in taken):
            raise ValueError(f"every output must be a separate file, neither an input nor another output, got {output}")
        taken.append(output)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there, so a name is all that they can share
        return os.path.realpath(one) == os.path.realpath(other)


def check_figure(figure: Path | None) -> None:
    """Raise ValueError if a figure is wanted but cannot be written."""
    if figure is None:
        return
    if figure.suffix.lower() not in _FIGURE_SUFFIXES:
        raise ValueError(f"a figure must end in {', '.join(_FIGURE_SUFFIXES)}, got {figure}")
    check_folder("figure", figure)


def check_table(table: Path) -> None:
    """Raise ValueError unless a table can be written."""
    if table.suffix.lower() != ".csv":
        raise ValueError(f"the table must be a .csv file, got {table}")
    check_folder("table", table)


def check_report_file(report: Path) -> None:
    """Raise ValueError unless a DICOM report can be written; MissingExtra without `dicom`."""
    from flare_lib.evaluation.measurement_report import REPORT_SUFFIX
    from flare_lib.machine.extras import check_extra

    check_extra("highdicom", "dicom")
    if report.suffix.lower() != REPORT_SUFFIX:
        raise ValueError(f"the report must be a {REPORT_SUFFIX} file, got {report}")
    check_folder("report", report)


def check_folder(what: str, path: Path) -> None:
    """Raise ValueError unless `path` is in a writable folder and is not itself a folder; `what` names its contents."""
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise ValueError(f"the {what}'s folder must exist and be writable, got {path.parent}")
    if path.is_dir():  # raises OSError for a name that is too long
        raise ValueError(f"the {what} must be a file, got the folder {path}")


def check_new_folder(folder: Path) -> None:
    """Raise ValueError unless a folder exists and is writable, or can be created."""
    if str(folder) == "-":
        raise ValueError("the output must be a folder, got -: nothing but text goes to stdout")
    # a link that leads nowhere can neither be written to nor replaced by a folder
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise ValueError(f"the output must be a writable folder, or one that can be created, got {folder}")


@contextmanager
def drawing() -> "Iterator[Callable[[Figure, Path], None]]":
    """Yield `save_figure`; figures are drawn in the block as matplotlib draws, whatever a user's matplotlibrc says."""
    forget_mplbackend()
    from flare_lib.display.figures import plain_style, save_figure

    with plain_style():
        yield save_figure


def forget_mplbackend() -> None:
    """Take MPLBACKEND out of the environment before matplotlib is loaded: an unknown name would end the command."""
    os.environ.pop("MPLBACKEND", None)


def wrote(*paths: Path | None) -> str:
    """Return "wrote A and B", leaving out any path that is None."""
    return f"wrote {' and '.join(str(path) for path in paths if path is not None)}"
