"""The site's pages: what they name is there, and what is there is named."""

import importlib
import json
import re
from pathlib import Path

import pytest
from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs"
LIBRARY = ROOT / "flare_lib"


def rows(page):
    """Return the cells of a page's table rows, without headers and rulers."""
    lines = [line for line in (PAGES / page).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_reference_has_every_module_of_every_chapter_once():
    named = re.findall(r"automodule:: flare_lib\.(\S+)", (PAGES / "api.md").read_text(encoding="utf-8"))
    there = [".".join(p.relative_to(LIBRARY).with_suffix("").parts) for p in LIBRARY.glob("*/*.py")]
    # of the commands, which are no chapter, the reference is `flare --help`
    chapters = [name for name in there if not name.startswith("commands.")]
    assert sorted(named) == sorted(name for name in chapters if not name.endswith("__init__"))


def test_the_course_has_every_notebook_in_its_order():
    listed = re.findall(r"^notebooks/(\S+)$", (PAGES / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


@pytest.mark.parametrize("row", rows("paper_to_code.md"), ids=lambda row: row[0])
def test_what_the_paper_has_is_where_the_page_says(row):
    _, _, modules, functions, notebooks, tests = row
    loaded = [importlib.import_module(f"flare_lib.{name}") for name in re.findall(r"`([\w.]+)`", modules)]
    for name in re.findall(r"`([\w.]+)`", functions):
        outer, _, inner = name.partition(".")
        owner = next((getattr(module, outer) for module in loaded if hasattr(module, outer)), None)
        assert owner is not None, name
        assert not inner or hasattr(owner, inner), name
    for number in notebooks.split(", "):
        assert list((ROOT / "notebooks").glob(f"{number}_*.ipynb")), number
    assert all((ROOT / path).exists() for path in re.findall(r"`([\w/.]+)`", tests))


def test_the_glossary_is_in_the_order_of_the_alphabet():
    terms = re.findall(r"^([A-Za-z].*)\n  ", (PAGES / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(terms) > 25
    assert terms == sorted(terms, key=lambda term: term.lower().replace("-", " "))


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_formula_of_the_course_becomes_mathml(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for displayed, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", text, re.DOTALL):
        made = convert(displayed or inline)
        assert made.startswith("<math")
        assert "\\" not in made  # a command that it does not know is left as it is written
