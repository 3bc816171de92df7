"""An executed notebook as one HTML page that is complete without a network.

Formulas become MathML, which browsers draw themselves; widgets, which nothing would drive, are replaced by their
pictures; and no script is fetched from elsewhere.
"""

import re

from flare_lib.machine.extras import extra

with extra("notebooks"):
    import nbformat
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter
    from nbformat import NotebookNode

_WIDGET = "application/vnd.jupyter.widget-view+json"
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_FETCHED = re.compile(r'<script[^>]*\bsrc="https?:[^"]*"[^>]*>\s*</script>')


def html_page(notebook: NotebookNode) -> str:
    """Return a notebook with its outputs as HTML; the notebook itself is unchanged."""
    shown = nbformat.from_dict(notebook)
    for cell in shown.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data.pop(_WIDGET, None)
    page, _ = HTMLExporter(mathjax_url="").from_notebook_node(shown)
    return _FETCHED.sub("", page)


def with_mathml(text: str) -> str:
    """Return Markdown in which $...$ and $$...$$ have become MathML; code stays as it is."""
    parts = _CODE.split(text)  # every second part is code
    return "".join(part if k % 2 else _FORMULA.sub(_mathml, part) for k, part in enumerate(parts))


def _mathml(formula: re.Match) -> str:
    displayed, inline = formula.groups()
    if displayed is not None:
        return convert(" ".join(displayed.split()), display="block")
    return convert(inline)
