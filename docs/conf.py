"""The course as a site: the notebooks as committed, pages beside them, and the library's docstrings."""

import re
import tomllib
from pathlib import Path

import torch.utils.flop_counter  # noqa: F401 (before autodoc puts a mock in the place of triton)
from docutils import nodes
from latex2mathml.converter import convert

project = "flare-lib"
author = "The flare-lib contributors"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["course.css"]
# the repository's address is in pyproject.toml, above these pages and above their copy in build/book/docs
_PYPROJECT = next(p for folder in Path(__file__).resolve().parents if (p := folder / "pyproject.toml").is_file())
_ADDRESS = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["project"].get("urls", {}).get("Repository")
html_theme_options = (
    {"source_repository": _ADDRESS, "source_branch": "main", "source_directory": "docs/"} if _ADDRESS else {}
)
html_title = "flare-lib: 13 organs, coarse to fine"
html_show_copyright = False
html_math_renderer = "mathml"  # browsers draw it themselves: no script is fetched, pages read without a network
exclude_patterns = ["jupyter_execute", "*.bak"]

nb_execution_mode = "off"  # the committed outputs are the tested ones
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", 200)]  # the picture, not the widget
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autodoc_mock_imports = ["triton"]  # large, and on Linux alone
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_preserve_defaults = True


def plain_text(app, what, name, obj, options, lines):
    """Let docstrings, which are plain text, come out as they are written.

    Backquotes become code, indented blocks stay as they are, and nothing else is markup.
    """
    made, in_block = [], False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not in_block and (not made or not made[-1].strip()):
            made += ["::", ""]
            in_block = True
        elif line.strip() and not indented:
            in_block = False
        made.append(line if in_block else _escaped(line))
    lines[:] = made


def _escaped(line: str) -> str:
    parts = re.split(r"(`[^`]+`)", line)
    return "".join(f"`{p}`" if p.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", p) for p in parts)


def inline_formula(translator, node):
    """Write a formula within a line as MathML."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def displayed_formula(translator, node):
    """Write a formula of its own as MathML."""
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline_formula, None), (displayed_formula, None))
    app.connect("autodoc-process-docstring", plain_text)
