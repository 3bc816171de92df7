"""The headless runner: executes the course's notebooks, keeps the results, and shows them on one page.

papermill executes a notebook with the interpreter that runs this file, whatever kernels are registered on the machine.
A result stays valid as long as the notebook, the library, the parameters and Python stay the same.
Reference: papermill (parameters).
"""

import hashlib
import html
import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flare_lib.machine.extras import extra

with extra("notebooks"):
    import nbformat
    import papermill
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

from flare_lib.course.pages import html_page
from flare_lib.machine.atomic_write import atomic_write

LIBRARY = Path(__file__).parents[1]


@dataclass(frozen=True)
class NotebookRun:
    """One executed notebook.

    `notebook`: with its outputs; `page`: the same as HTML. `seconds`: how long it ran, also if it was `reused` from an
    earlier run. `error`: what stopped it (cell, source, last line of the traceback), or None if it ran to the end.
    """

    name: str
    title: str
    notebook: Path
    page: Path
    seconds: float
    reused: bool = False
    error: str | None = None


class NotebookFailed(RuntimeError):
    """A notebook that did not run to the end; the message is the failing cell's own error."""


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels with the running interpreter: none needs to be registered, and no other is picked up."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """What starts a kernel: this interpreter's own ipykernel, with its own warnings silenced."""
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict(["--log-level=CRITICAL"]))


def find_notebooks(folder: str | Path, only: Sequence[str] = ()) -> list[Path]:
    """Return a folder's notebooks sorted by name; with `only`, those whose names start with one of its entries.

    Raises FileNotFoundError for a folder without notebooks, ValueError for an entry of `only` that matches none.
    """
    found = sorted(Path(folder).glob("*.ipynb"))
    if not found:
        raise FileNotFoundError(f"a folder with notebooks is needed, got {folder} without any")
    for start in only:
        if not any(path.name.startswith(start) for path in found):
            raise ValueError(f"a notebook must be one of {', '.join(path.stem for path in found)}; got {start!r}")
    return [path for path in found if not only or path.name.startswith(tuple(only))]


def share_parameters(notebooks: Iterable[Path], parameters: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Return {notebook: the parameters that its parameters cell knows}.

    Raises ValueError, listing the known names, for a parameter that none of the notebooks knows.
    """
    known = {path: set(papermill.inspect_notebook(path)) for path in notebooks}
    if unknown := parameters.keys() - set().union(*known.values()):
        names = ", ".join(sorted(set().union(*known.values()))) or "none"
        raise ValueError(f"a parameter must be known to a notebook ({names}), got {', '.join(sorted(unknown))}")
    return {path: {n: v for n, v in parameters.items() if n in names} for path, names in known.items()}


def run_notebooks(
    notebooks: Iterable[Path],
    out: str | Path,
    *,
    parameters: dict[str, Any] | None = None,
    progress: bool = False,
    on_done: Callable[[NotebookRun], None] = lambda run: None,
) -> list[NotebookRun]:
    """Execute notebooks one after another into the folder `out`, with a summary of all in `out/index.html`.

    `progress`: show a bar of the cells on stderr. `on_done` is called after each notebook. Stops with NotebookFailed at
    the first that fails, after writing its page and the summary. Raises the errors of `share_parameters` before any
    work.
    """
    out = Path(out).resolve()
    shared = share_parameters(notebooks, parameters or {})
    out.mkdir(parents=True, exist_ok=True)
    runs = []
    for path, own in shared.items():
        run = _reuse(path, out, own) or _execute(path, out, own, progress=progress)
        runs.append(run)
        with atomic_write(out / "index.html") as unfinished:
            unfinished.write_text(summary_page(runs), encoding="utf-8")
        if run.error:
            raise NotebookFailed(run.error)
        on_done(run)
    return runs


def _lists(value: Any) -> Any:
    """Return a value with lists instead of tuples, which papermill would write as text."""
    return [_lists(v) for v in value] if isinstance(value, (list, tuple)) else value


def fingerprint(path: Path, parameters: dict[str, Any]) -> str:
    """Return a hash of what a notebook's result depends on: itself, the library, the parameters, Python's version."""
    digest = hashlib.sha256(platform.python_version().encode())
    digest.update(repr(sorted(parameters.items())).encode())
    library = sorted(p for p in LIBRARY.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    for file in (path, *library):
        digest.update(file.read_bytes())
        digest.update(file.name.encode())
    return digest.hexdigest()


def _run(path: Path, out: Path, notebook: nbformat.NotebookNode, seconds: float, **details: Any) -> NotebookRun:
    title = next(
        (line.removeprefix("# ").strip() for cell in notebook.cells for line in cell.source.splitlines()[:1]), path.stem
    )
    return NotebookRun(path.stem, title, out / path.name, out / f"{path.stem}.html", seconds, **details)


def _reuse(path: Path, out: Path, parameters: dict[str, Any]) -> NotebookRun | None:
    """Return the result of an earlier run if nothing it depends on has changed."""
    try:
        notebook = nbformat.read(out / path.name, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError):  # missing, or cut short by a kill: no JSON, no UTF-8
        return None
    made = notebook.metadata.get("flare_lib", {})
    if made.get("fingerprint") != fingerprint(path, parameters) or not (out / f"{path.stem}.html").is_file():
        return None
    return _run(path, out, notebook, made["seconds"], reused=True)


def _execute(path: Path, out: Path, parameters: dict[str, Any], *, progress: bool) -> NotebookRun:
    """Execute one notebook in its own folder; the result gets its fingerprint only if it ran to the end."""
    result = out / path.name
    made: dict[str, Any] = {"fingerprint": fingerprint(path, parameters)}
    error = None
    start = time.perf_counter()
    try:
        papermill.execute_notebook(
            path,
            result,
            {name: _lists(value) for name, value in parameters.items()},
            kernel_name="python3",
            language="python",
            kernel_manager_class=ThisInterpreter,
            cwd=path.parent,
            progress_bar=progress,
        )
    except PapermillExecutionError as failure:
        error = (
            f"{path.name} stopped in cell [{failure.exec_count}]:\n{failure.source}\n{failure.ename}: {failure.evalue}"
        )
    except DeadKernelError:
        error = f"{path.name} stopped: its kernel died, perhaps for want of memory"
    made["seconds"] = round(time.perf_counter() - start, 1)
    notebook = nbformat.read(result, as_version=4)
    run = _run(path, out, notebook, made["seconds"], error=error)
    with atomic_write(run.page) as unfinished:
        unfinished.write_text(html_page(notebook), encoding="utf-8")
    if error is None:  # last, so that anything with a fingerprint has a page
        notebook.metadata["flare_lib"] = made
        with atomic_write(result) as unfinished:
            nbformat.write(notebook, unfinished)
    return run


def last_picture(notebook: Path) -> str | None:
    """Return the last PNG among a notebook's outputs, in base64; None if there is none."""
    pictures = [
        output["data"]["image/png"]
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    return "".join(pictures[-1]).replace("\n", "") if pictures else None


def summary_page(runs: Sequence[NotebookRun]) -> str:
    """Return one HTML page on all runs: title, time, last picture, a link to each executed notebook, any error."""
    rows = []
    for run in runs:
        picture = last_picture(run.notebook)
        image = f'<img src="data:image/png;base64,{picture}" alt="the last figure">' if picture else ""
        state = f"<pre>{html.escape(run.error)}</pre>" if run.error else f"{run.seconds:.0f} s"
        link = f'<a href="{quote(run.page.name)}">{html.escape(run.title)}</a>'
        rows.append(f"<tr><td>{html.escape(run.name)}<td>{link}<td>{state}<td>{image}</tr>")
    return _PAGE.format(rows="\n".join(rows))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>flare-lib: the notebooks, executed</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
td, th {{ text-align: left; vertical-align: top; padding: .5rem 1rem .5rem 0; border-top: 1px solid #ddd; }}
img {{ max-width: 22rem; max-height: 14rem; }}
pre {{ color: #a00; white-space: pre-wrap; }}
</style>
<h1>The notebooks, executed</h1>
<table>
<tr><th>notebook<th>title<th>time<th>last figure</tr>
{rows}
</table>
</html>
"""
