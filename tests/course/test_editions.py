"""Editions: students see no solution, teachers the right answer; checks know right from wrong and say why."""

import contextlib
import inspect
import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from flare_lib.course import solutions
from flare_lib.course.checks import check
from flare_lib.course.editions import answered, find_exercise, make_edition, write_editions

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def said(check_cell, answers):
    """Run a checking cell by itself, with answers filled in, and return what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(answered(check_cell, answers), "check", "exec"), {"np": np, "check": check})  # the course's own
    return out.getvalue().strip()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_check_accepts_the_solution_and_knows_that_nothing_was_written_yet(path):
    notebook = nbformat.read(path, as_version=4)
    exercise = find_exercise(notebook)
    cell = notebook.cells[exercise.check_at].source
    assert said(cell, {}) == "no answer yet"
    assert said(cell, exercise.answers) == "right"
    for name, code in exercise.answers.items():
        assert code == inspect.getsource(getattr(solutions, name)).strip()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_students_run_the_code_that_is_committed(path):
    original = nbformat.read(path, as_version=4)
    code, theirs = (
        [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        for notebook in (original, make_edition(original, "students"))
    )
    assert theirs == code


STUB = 'def doubled(n):\n    """Return 2 n."""\n    raise NotImplementedError'


def example(text=None, check=None):
    solution = "```python\ndef doubled(n):\n    return 2 * n\n```"
    solution = f"<details><summary>Solution</summary>\n\n{solution}\n\n</details>"
    cells = [
        new_markdown_cell("# A"),
        new_markdown_cell(f"## Exercise\n\nHow much?\n\n{solution}" if text is None else text),
        new_code_cell(f"{STUB}\n\n\nprint(doubled(2))" if check is None else check, execution_count=3),
        new_markdown_cell("Summary"),
    ]
    return new_notebook(cells=cells)


def test_students_see_no_solution_and_teachers_the_answer():
    original = example()
    students, teachers = (make_edition(original, edition) for edition in ("students", "teachers"))
    assert students.cells[1].source == "## Exercise\n\nHow much?"
    assert students.cells[2].source == original.cells[2].source
    assert "<details open>" in teachers.cells[1].source
    assert teachers.cells[2].source == "def doubled(n):\n    return 2 * n\n\n\nprint(doubled(2))"
    assert original.cells[2].execution_count == 3
    assert teachers.cells[2].execution_count is None


@pytest.mark.parametrize(
    ("notebook", "said"),
    [
        (example(text="## Exercise"), "one exercise with a folded solution, got 0"),
        (example(check="doubled = 4"), "the solution's functions, not implemented, got doubled"),
        (example(check="%time doubled(2)"), "an exercise must be plain Python, got invalid syntax: %time doubled"),
        (new_notebook(cells=example().cells[:2]), "a code cell must check the exercise"),
        (example(text="<details><summary>Solution</summary>4</details>"), "not implemented, got none"),
    ],
)
def test_an_exercise_that_cannot_be_checked_is_refused(notebook, said):
    with pytest.raises(ValueError, match=said):
        make_edition(notebook, "students")


def test_editions_lie_beside_the_notebooks(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="without any"):
        write_editions(folder)
    nbformat.write(example(), folder / "00_a.ipynb")
    students, teachers = write_editions(folder)
    assert (students.name, teachers.name) == ("notebooks-students", "notebooks-teachers")
    assert "Solution" not in (students / "00_a.ipynb").read_text()
    assert "return 2 * n" in (teachers / "00_a.ipynb").read_text()
    nbformat.write(new_notebook(), folder / "01_b.ipynb")
    with pytest.raises(ValueError, match=r"01_b.ipynb: a notebook must have one exercise"):
        write_editions(folder)
    with pytest.raises(ValueError, match="edition must be one of students, teachers, got 'parents'"):
        make_edition(example(), "parents")
