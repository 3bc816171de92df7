"""Editions: students see no solution, teachers the right answer; checks know right from wrong and say why."""

import contextlib
import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from flare_lib.course.editions import answered, find_exercise, make_edition, write_editions

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
# three answers that people give, for each notebook, as code
WRONG = {
    "00": [{"answer_ml": "3840"}, {"answer_ml": "1200"}, {"answer_ml": "4.8"}],
    "01": [
        {"answer_shape": "(205, 205, 68)", "answer_spacing_z": "3"},
        {"answer_shape": "(68, 205, 205)", "answer_spacing_z": "3"},
        {"answer_shape": "(41, 512, 512)", "answer_spacing_z": "5"},
    ],
    "02": [{"answer": "(9, 11, 15)"}, {"answer": "(5, 6, 7)"}, {"answer": "(40, 48, 56)"}],
    "03": [{"answer": "0.2514"}, {"answer": "0.5807"}, {"answer": "0.1"}],
    "04": [{"answer": "450"}, {"answer": "461"}, {"answer": "100"}],
    "05": [{"answer": "17.5"}, {"answer": "625"}, {"answer": "20"}],
    "06": [{"answer": "(0, 32, 64)"}, {"answer": "(0, 32, 46)"}, {"answer": "(0, 46)"}],
    "07": [{"answer": "(2, 3)"}, {"answer": "(2, 4)"}, {"answer": "(5, 9)"}],
    "08": [{"answer": "(0.3, 0, 0)"}, {"answer": "(0.429, 0, 0)"}, {"answer": "(0.6, 1, 1)"}],
    "09": [{"answer": "0.0327"}, {"answer": "0.02"}, {"answer": "0.01"}],
    "10": [{"answer": "40_000"}, {"answer": "50"}, {"answer": "12.5"}],
}


def said(check, answers):
    """Run a checking cell by itself, with answers filled in, and return what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(answered(check, answers), "check", "exec"), {"np": np})  # the course's own cells
    return out.getvalue().strip()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_check_accepts_the_solution_and_explains_what_is_wrong_with_three_other_answers(path):
    notebook = nbformat.read(path, as_version=4)
    exercise = find_exercise(notebook)
    check = notebook.cells[exercise.check_at].source
    assert "flare_lib" not in check
    assert said(check, {}) == "no answer yet"
    assert said(check, exercise.answers) == "right"
    sentences = [said(check, wrong) for wrong in WRONG[path.name[:2]]]
    assert [s for s in sentences if len(s) <= 20 or s == "right"] == []
    assert len(set(sentences)) >= 2, sentences


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_students_run_the_code_that_is_committed(path):
    original = nbformat.read(path, as_version=4)
    code, theirs = (
        [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        for notebook in (original, make_edition(original, "students"))
    )
    assert theirs == code


def example(text=None, check=None):
    solution = "<details><summary>Solution</summary>\n\nTwice two: `answer = 4`.\n\n</details>"
    cells = [
        new_markdown_cell("# A"),
        new_markdown_cell(f"## Exercise\n\nHow much?\n\n{solution}" if text is None else text),
        new_code_cell("answer = None  # a number\nprint(answer)" if check is None else check, execution_count=3),
        new_markdown_cell("Summary"),
    ]
    return new_notebook(cells=cells)


def test_students_see_no_solution_and_teachers_the_answer():
    original = example()
    students, teachers = (make_edition(original, edition) for edition in ("students", "teachers"))
    assert students.cells[1].source == "## Exercise\n\nHow much?"
    assert students.cells[2].source == original.cells[2].source
    assert "<details open>" in teachers.cells[1].source
    assert teachers.cells[2].source == "answer = 4  # a number\nprint(answer)"
    assert original.cells[2].execution_count == 3
    assert teachers.cells[2].execution_count is None


@pytest.mark.parametrize(
    ("notebook", "said"),
    [
        (example(text="## Exercise"), "one exercise with a folded solution, got 0"),
        (example(check="answer = 4"), "the solution's answers as None, got answer"),
        (new_notebook(cells=example().cells[:2]), "a code cell must check the exercise"),
        (example(text="<details><summary>Solution</summary>4</details>"), "answers as None, got none"),
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
    assert "answer = 4" in (teachers / "00_a.ipynb").read_text()
    nbformat.write(new_notebook(), folder / "01_b.ipynb")
    with pytest.raises(ValueError, match=r"01_b.ipynb: a notebook must have one exercise"):
        write_editions(folder)
    with pytest.raises(ValueError, match="edition must be one of students, teachers, got 'parents'"):
        make_edition(example(), "parents")
