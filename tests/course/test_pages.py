"""Pages: whole without a network, with formulas that browsers draw and pictures in place of widgets."""

import re

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from flare_lib.course.pages import html_page, with_mathml

WIDGET = "application/vnd.jupyter.widget-view+json"


def test_formulas_become_mathml_and_code_stays():
    made = with_mathml("Half: $\\frac{1}{2}$, and `$HOME`.\n\n$$a\n\\ge b$$\n\n```\necho $A $B\n```")
    assert made.count("<math") == 2
    assert "<mfrac><mn>1</mn><mn>2</mn></mfrac>" in re.sub(r"</?mrow>", "", made)
    assert 'display="block"' in made
    assert "`$HOME`" in made
    assert made.endswith("```\necho $A $B\n```")


def test_a_widget_gives_way_to_its_picture_and_nothing_is_fetched():
    data = {"image/png": "iVBORw0KGgo=", WIDGET: {"model_id": "abc"}, "text/plain": "Explorer()"}
    cells = [new_markdown_cell("$x^2$"), new_code_cell("view", outputs=[new_output("display_data", data)])]
    notebook = new_notebook(cells=cells)
    page = html_page(notebook)
    assert "data:image/png;base64,iVBORw0KGgo=" in page
    assert "model_id" not in page
    assert re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', page) == []
    assert WIDGET in notebook.cells[1].outputs[0].data
    assert notebook.cells[0].source == "$x^2$"


def test_what_is_too_wide_for_the_screen_scrolls_by_itself():
    cells = [new_markdown_cell("$$x^2$$"), new_code_cell("print('a  b')")]
    page = html_page(new_notebook(cells=cells))
    assert page.count('<span class="formula"><math') == 1
    assert page.index("body .formula { display: block; overflow-x: auto;") < page.index("</head>")
