"""The page that leads to all executed notebooks: a row each, with its last picture, its time or what stopped it."""

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output

from flare_lib.course.overview import NotebookRun, last_picture, summary_page


def run_of(folder, name, *pictures, **details):
    outputs = [new_output("display_data", {"image/png": picture}) for picture in pictures]
    cells = [new_code_cell("x", outputs=outputs[:1]), new_code_cell("y", outputs=outputs[1:])]
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    return NotebookRun(name, f"About <{name}>", folder / f"{name}.ipynb", folder / f"{name}.html", 61.4, **details)


def test_the_last_of_several_pictures_is_shown_and_none_where_there_is_none(tmp_path):
    assert last_picture(run_of(tmp_path, "00", "AAAA", "BB\nBB").notebook) == "BBBB"
    assert last_picture(run_of(tmp_path, "01").notebook) is None


def test_every_notebook_has_a_row_with_a_link_its_time_or_its_error(tmp_path):
    error = "01 b.ipynb stopped in cell [2]:\nif x < 1"
    page = summary_page([run_of(tmp_path, "00_a", "AAAA"), run_of(tmp_path, "01 b", error=error)])
    first, second = (row for row in page.splitlines() if row.startswith("<tr><td>"))
    assert '<td><a href="00_a.html">About &lt;00_a&gt;</a><td>61 s<td><img src="data:image/png;base64,AAAA"' in first
    assert second.startswith('<tr><td>01 b<td><a href="01%20b.html">About &lt;01 b&gt;</a>')
    assert "<pre>01 b.ipynb stopped in cell [2]:\nif x &lt; 1</pre><td></tr>" in page
    assert summary_page([]).count("<tr>") == 1  # the columns' names
