"""An executed notebook as one HTML page that is complete without a network.

Formulas become MathML, which browsers draw themselves; widgets, which nothing would drive, are replaced by their
pictures; and no script is fetched from elsewhere. On a telephone, what is wider than the screen scrolls by itself.
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
    return _FETCHED.sub("", page).replace("</head>", f"{_STYLE}</head>", 1)


def with_mathml(text: str) -> str:
    """Return Markdown in which $...$ and $$...$$ have become MathML; code stays as it is."""
    parts = _CODE.split(text)  # every second part is code
    return "".join(part if k % 2 else _FORMULA.sub(_mathml, part) for k, part in enumerate(parts))


def _mathml(formula: re.Match) -> str:
    displayed, inline = formula.groups()
    if displayed is not None:
        return f'<span class="formula">{convert(" ".join(displayed.split()), display="block")}</span>'
    return convert(inline)


# lines short enough to read; printed tables, drawings, formulas and pictures keep their form and scroll if need be
_STYLE = """<style>
body.jp-Notebook { max-width: 66rem; margin: 0 auto; }
body .jp-RenderedText pre, body .jp-RenderedHTMLCommon pre { white-space: pre; overflow-x: auto; }
body .jp-RenderedHTMLCommon pre code { white-space: pre; }
body .formula { display: block; overflow-x: auto; overflow-y: hidden; padding: 0.3em 0; }
@media (max-width: 50rem) {
  body .jp-RenderedImage { overflow-x: auto; }
  body .jp-RenderedImage img { max-width: none; }
  body .jp-RenderedHTMLCommon table { display: block; overflow-x: auto; }
}
</style>
"""
