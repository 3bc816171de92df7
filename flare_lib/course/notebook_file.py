"""A notebook's file, read or refused: nbformat raises a different error, without the file's name, for every damage."""

from pathlib import Path

from flare_lib.machine.extras import extra
from flare_lib.machine.failures import reason_of

with extra("notebooks"):
    import nbformat
    from nbformat import NotebookNode


def read_notebook(path: str | Path) -> NotebookNode:
    """Return a notebook, version 4 of the format, converted from an older one if need be.

    Raises FileNotFoundError for a missing file and ValueError, in one line, for one that is no notebook.
    """
    try:
        return nbformat.read(path, as_version=4)
    except OSError:
        raise
    except Exception as error:  # no JSON, no UTF-8, a list, cells that are none, a version that is not known
        raise ValueError(
            f"{path} must be a whole notebook, got one that cannot be read ({reason_of(error)})"
        ) from error
