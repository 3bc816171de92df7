"""The course in two editions: students get the exercises without solutions, teachers with the answers filled in.

A notebook has one exercise: a text with a folded solution, a function as a Python block, followed by a cell in which
this function raises NotImplementedError and is checked. The committed notebooks have the solutions folded; both
editions are made from them and are never edited.
"""

import ast
import os
import re
from dataclasses import dataclass
from pathlib import Path

from flare_lib.machine.extras import extra

with extra("notebooks"):
    import nbformat
    from nbformat import NotebookNode

from flare_lib.course.notebook_file import read_notebook
from flare_lib.machine.atomic_write import atomic_write

EDITIONS = ("students", "teachers")
_SOLUTION = re.compile(r"\n*<details><summary>Solution</summary>(.*?)</details>", re.DOTALL)
_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Exercise:
    """Where a notebook's exercise is: the indices of its text and of the cell that checks it, and {function: code}."""

    text_at: int
    check_at: int
    answers: dict[str, str]


def find_exercise(notebook: NotebookNode) -> Exercise:
    """Return a notebook's exercise.

    Raises ValueError unless there is exactly one folded solution, with functions in a Python block, followed by a cell
    of plain Python in which each of these functions raises NotImplementedError.
    """
    texts = [(k, c.source) for k, c in enumerate(notebook.cells) if c.cell_type == "markdown"]
    found = [(k, solution) for k, text in texts if (solution := _SOLUTION.search(text))]
    if len(found) != 1:
        raise ValueError(f"a notebook must have one exercise with a folded solution, got {len(found)}")
    at, solution = found[0]
    answers = {name: code for block in _BLOCK.findall(solution[1]) for name, (code, *_) in _functions(block).items()}
    check = notebook.cells[at + 1] if at + 1 < len(notebook.cells) else None
    if check is None or check.cell_type != "code":
        raise ValueError("a code cell must check the exercise right after its text")
    stubs = [name for name, (code, *_) in _functions(check.source).items() if "raise NotImplementedError" in code]
    if not answers or not answers.keys() <= set(stubs):
        named = ", ".join(answers) or "none"
        raise ValueError(f"the check must begin with the solution's functions, not implemented, got {named}")
    return Exercise(at, at + 1, answers)


def _functions(source: str) -> dict[str, tuple[str, int, int]]:
    """Return the functions of a piece of code: {name: (code, first line, line after the last)}, lines from 0."""
    lines = source.splitlines()
    try:
        nodes = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    except SyntaxError as error:  # a slip, or a line for Jupyter such as %time
        raise ValueError(f"an exercise must be plain Python, got {error.msg}: {(error.text or '').strip()}") from error
    return {n.name: ("\n".join(lines[n.lineno - 1 : n.end_lineno]), n.lineno - 1, n.end_lineno or 0) for n in nodes}


def answered(check: str, answers: dict[str, str]) -> str:
    """Return the source of a checking cell with the answers, {function: code}, in place of its own functions."""
    for name, code in answers.items():
        _, first, after = _functions(check)[name]
        lines = check.splitlines()
        check = "\n".join([*lines[:first], code, *lines[after:]])
    return check


def make_edition(notebook: NotebookNode, edition: str) -> NotebookNode:
    """Return the students' or the teachers' edition of a notebook, without outputs; the notebook itself is unchanged.

    Raises ValueError for an unknown edition, and the errors of `find_exercise`.
    """
    if edition not in EDITIONS:
        raise ValueError(f"edition must be one of {', '.join(EDITIONS)}, got {edition!r}")
    exercise, made = find_exercise(notebook), nbformat.from_dict(notebook)
    text, check = made.cells[exercise.text_at], made.cells[exercise.check_at]
    if edition == "students":
        text.source = _SOLUTION.sub("", text.source)
    else:
        text.source = text.source.replace("<details>", "<details open>")
        check.source = answered(check.source, exercise.answers)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return made


def write_editions(folder: str | Path) -> list[Path]:
    """Write both editions of a folder's notebooks beside it, as FOLDER-students and FOLDER-teachers; return both paths.

    They are at the same depth, so that the notebooks' links still work. Raises FileNotFoundError for a folder without
    notebooks, and ValueError, naming the notebook, if it cannot be read or its exercise is not as it should be.
    """
    folder = Path(os.path.realpath(folder))
    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        raise FileNotFoundError(f"a folder with notebooks is needed, got {folder} without any")
    notebooks = {path: read_notebook(path) for path in paths}
    made: dict[Path, NotebookNode] = {}
    for edition in EDITIONS:
        for path, read in notebooks.items():
            try:
                notebook = make_edition(read, edition)
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from error
            made[folder.with_name(f"{folder.name}-{edition}") / path.name] = notebook
    for path, notebook in made.items():
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as unfinished:
            nbformat.write(notebook, unfinished)
    return [folder.with_name(f"{folder.name}-{edition}") for edition in EDITIONS]
