"""The course: notebooks that are executed, fail or are not there, and editions of them."""

import sys

import nbformat
import pytest
from scans import assert_refused


@pytest.fixture
def course(tmp_path):
    """A folder with one notebook, which divides 6 by its parameter."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [nbformat.v4.new_markdown_cell("# Divide"), nbformat.v4.new_code_cell("by = 2")]
    cells[1].metadata["tags"] = ["parameters"]
    cells.append(nbformat.v4.new_code_cell("6 / by"))
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "00_divide.ipynb")
    return folder


@pytest.mark.slow("starts a kernel")
def test_notebooks_are_executed_with_time_title_and_a_page(flare, course, tmp_path):
    code, out, _ = flare("notebooks", course, "--out", tmp_path / "out", "--only", "00", "-p", "by=3")
    assert code == 0
    assert out[0].endswith(" s  00_divide: Divide")
    assert out[1] == f"wrote {tmp_path / 'out' / 'index.html'}, the page that leads to all of them"
    _, out, _ = flare("notebooks", course, "--out", tmp_path / "out", "-p", "by=3")
    assert out[0].endswith("00_divide: Divide (unchanged, not run again)")


@pytest.mark.slow("starts a kernel")
def test_a_failing_notebook_shows_its_own_error_and_exits_with_1(flare, course, tmp_path):
    code, _, err = flare("notebooks", course, "--out", tmp_path / "out", "-p", "by=0")
    assert code == 1
    assert err[:3] == [
        "error: 00_divide.ipynb stopped in cell [3]:",
        "6 / by",
        "ZeroDivisionError: division by zero",
    ]


def test_notebooks_that_are_not_there_and_parameters_they_do_not_have_are_refused(flare, course, tmp_path):
    out = tmp_path / "out"
    assert_refused(flare("notebooks", tmp_path, "--out", out), "a folder with notebooks is needed")
    assert_refused(flare("notebooks", course, "--out", out, "--only", "07"), "a notebook must be one of 00_divide")
    assert_refused(flare("notebooks", course, "--out", out, "-p", "buy=3"), "known to a notebook (by), got buy")
    assert_refused(flare("notebooks", course, "--out", out, "-p", "by"), "must be written name=value, got 'by'")
    assert not out.exists()


def test_an_install_without_the_notebooks_is_told_what_it_lacks(flare, course, monkeypatch):
    monkeypatch.delitem(sys.modules, "flare_lib.course.execution", raising=False)
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert_refused(flare("notebooks", course), "papermill must be installed (pip install 'flare-lib[notebooks]'), got")


def test_editions_are_made_of_a_folder_of_notebooks(flare, tmp_path):
    code, out, err = flare("editions", tmp_path)
    assert (code, "without any" in err[0]) == (2, True)
    (tmp_path / "course").mkdir()
    solution = "def four():\n    return 4"
    cells = [
        nbformat.v4.new_markdown_cell(
            f"<details><summary>Solution</summary>\n\n```python\n{solution}\n```\n</details>"
        ),
        nbformat.v4.new_code_cell("def four():\n    raise NotImplementedError\n\n\nfour()"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "course" / "00_a.ipynb")
    code, out, _ = flare("editions", tmp_path / "course")
    assert (code, out) == (0, [f"wrote {tmp_path / 'course-students'} and {tmp_path / 'course-teachers'}"])
