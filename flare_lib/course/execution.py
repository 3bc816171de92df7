"""The headless runner: executes the course's notebooks and keeps the results.

papermill executes a notebook with the interpreter that runs this file, whatever kernels are registered on the machine.
Several run side by side, each with its share of the cores; those that measure time run alone, after the others.
A result stays valid as long as the notebook, the library, the parameters and Python stay the same.
Reference: papermill (parameters).
"""

import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from flare_lib.machine.extras import extra

with extra("notebooks"):
    import nbformat
    import papermill
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

from flare_lib.course.notebook_file import read_notebook
from flare_lib.course.overview import NotebookRun, summary_page
from flare_lib.course.pages import html_page
from flare_lib.machine import runner
from flare_lib.machine.atomic_write import atomic_write
from flare_lib.machine.failures import Failure
from flare_lib.machine.memory import free_memory_mib
from flare_lib.machine.processes import Processes, n_cores

TIMING = "timing"  # the tag of a cell that measures time
_MIB_EACH = 3072.0  # what a notebook of this course may take
LIBRARY = Path(__file__).parents[1]
_Task = tuple[Path, dict[str, Any]]  # a notebook and its parameters


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

    Raises the errors of `read_notebook`, and ValueError, listing the known names, for a parameter that none of the
    notebooks knows.
    """
    known = {}
    for path in notebooks:
        read_notebook(path)  # papermill would not say which one is damaged
        known[path] = set(papermill.inspect_notebook(path))
    if unknown := parameters.keys() - set().union(*known.values()):
        names = ", ".join(sorted(set().union(*known.values()))) or "none"
        raise ValueError(f"a parameter must be known to a notebook ({names}), got {', '.join(sorted(unknown))}")
    return {path: {n: v for n, v in parameters.items() if n in names} for path, names in known.items()}


def run_notebooks(
    notebooks: Iterable[Path],
    out: str | Path,
    *,
    parameters: dict[str, Any] | None = None,
    workers: int = 0,
    progress: Callable[[int, int, list[str]], None] = lambda done, total, under_way: None,
    on_done: Callable[[NotebookRun], None] = lambda run: None,
) -> list[NotebookRun]:
    """Execute notebooks into the folder `out`, with a summary of all in `out/index.html`; return them in their order.

    `workers`: how many run side by side, started by processes of their own; 0 or 1: one after another, started by this
    process. Beside others, no notebook with a cell tagged `timing` runs: those run alone, after the others.
    `progress(done, total, names under way)` is called when a notebook starts or ends, `on_done` after each. Stops with
    NotebookFailed at the first that fails, after writing its page and the summary; others that are under way are ended.
    Raises the errors of `share_parameters` before any work, ValueError for fewer than no workers or for the notebooks'
    own folder.
    """
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}")
    out = Path(os.path.realpath(out))
    shared = share_parameters(notebooks, parameters or {})
    if any(Path(os.path.realpath(path)).parent == out for path in shared):
        raise ValueError(f"executed notebooks must go into another folder than their own, got {out}")
    out.mkdir(parents=True, exist_ok=True)
    done: dict[Path, NotebookRun] = {}

    def keep(path: Path, run: NotebookRun) -> None:
        done[path] = run
        in_order = [done[p] for p in shared if p in done]
        with atomic_write(out / "index.html") as unfinished:
            unfinished.write_text(summary_page(in_order), encoding="utf-8")
        if run.error:
            raise NotebookFailed(run.error)
        on_done(run)

    for path, own in shared.items():
        if unchanged := _reuse(path, out, own):
            keep(path, unchanged)
    todo = [(path, own) for path, own in shared.items() if path not in done]
    for group, pool in _groups(todo, workers):
        n_before, n_slots = len(done), pool.n_slots() if pool else 1
        names = [path.stem for path, _ in group]
        progress(n_before, len(shared), names[:n_slots])
        with pool or nullcontext():
            for k, outcome in runner.run(partial(_execute, out=out), group, pool):
                path = group[k][0]
                if isinstance(outcome, Failure):
                    raise NotebookFailed(f"{path.name} stopped: {outcome.reason}")
                keep(path, outcome.result)
                started = group[: len(done) - n_before + n_slots]  # they start in order
                progress(len(done), len(shared), [p.stem for p, _ in started if p not in done])
    return [done[path] for path in shared]


def _groups(todo: list[_Task], workers: int) -> Iterator[tuple[list[_Task], Processes | None]]:
    """Yield what may run side by side, with the processes that do it, and then what must run alone, in this one."""
    together = [task for task in todo if not measures_time(task[0])] if workers > 1 else []
    if len(together) > 1:
        n = min(workers, len(together))
        yield together, Processes(n, n_threads=max(1, n_cores() // n))
        todo = [task for task in todo if task not in together]
    if todo:
        yield todo, None


def workers_for(n_notebooks: int) -> int:
    """Return how many notebooks this computer runs well side by side: one a core, as far as the memory goes."""
    return max(1, min(n_notebooks, n_cores(), int(free_memory_mib() / _MIB_EACH)))


def measures_time(path: Path) -> bool:
    """Return whether a notebook has a cell with the tag `timing`: others beside it would spoil what it measures."""
    return any(TIMING in cell.metadata.get("tags", []) for cell in read_notebook(path).cells)


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
        notebook = read_notebook(out / path.name)
    except (OSError, ValueError):  # missing, or cut short by a kill
        return None
    made = notebook.metadata.get("flare_lib", {})
    if made.get("fingerprint") != fingerprint(path, parameters) or not (out / f"{path.stem}.html").is_file():
        return None
    return _run(path, out, notebook, made["seconds"], reused=True)


def _execute(task: _Task, out: Path) -> NotebookRun:
    """Execute one notebook in its own folder; the result gets its fingerprint only if it ran to the end."""
    path, parameters = task
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
            progress_bar=False,
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
