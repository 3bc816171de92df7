"""The form of the course: every notebook has the same parts in the same places, and nothing is hidden."""

import ast
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest

from flare_lib.course.editions import find_exercise
from flare_lib.course.execution import TIMING

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {path: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
# what the user named for the course, IPython, which shows things, and scikit-image, with which the paper compares
PACKAGES = {"flare_lib", "IPython", "ipywidgets", "matplotlib", "nibabel", "numpy", "scipy", "skimage", "torch"}
LONGEST_FUNCTION = 15

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def sources(path, kind):
    return [cell.source for cell in NOTEBOOKS[path].cells if cell.cell_type == kind]


def parsed(path):
    """The code cells' syntax trees, without IPython's own lines."""
    for source in sources(path, "code"):
        yield ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%")))


@every_notebook
def test_it_opens_with_its_title_cost_goals_and_neighbours(path):
    first = NOTEBOOKS[path].cells[0].source
    number = path.stem[:2]
    assert first.startswith(f"# {number} ")
    assert re.search(r"^\*About .*(second|minute)s?.* GB on two CPU cores.*\*$", first, re.MULTILINE)
    goals = re.search(r"^\*\*Goals\.\*\* .*\(1\) .*\(2\) .*\(3\) .*$", first, re.MULTILINE)
    assert goals
    others = list(NOTEBOOKS)
    at = others.index(path)
    for neighbour in others[max(0, at - 1) : at] + others[at + 1 : at + 2]:
        assert f"({neighbour.name})" in first


@every_notebook
def test_its_parameters_come_first_then_its_imports(path):
    code = [cell for cell in NOTEBOOKS[path].cells if cell.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"]
    assert re.match(r"%matplotlib inline\n(import|from) ", code[1].source)
    imports = [
        k for k, tree in enumerate(parsed(path)) if any(isinstance(n, ast.Import | ast.ImportFrom) for n in tree.body)
    ]
    assert imports == [1]


@every_notebook
def test_it_imports_the_library_and_the_packages_of_the_course_alone(path):
    used = set()
    for tree in parsed(path):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                used |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                used.add(node.module.partition(".")[0])
    assert used - set(sys.stdlib_module_names) <= PACKAGES


@every_notebook
def test_what_it_imports_is_there(path):
    imports = [
        node for tree in parsed(path) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names: dict[str, object] = {}
    exec(ast.unparse(ast.Module(imports, [])), names)
    assert len(names) > len(imports)


@every_notebook
def test_it_asks_before_it_shows(path):
    prompts = sum(source.count("**Predict") for source in sources(path, "markdown"))
    assert prompts >= 2
    for k, cell in enumerate(NOTEBOOKS[path].cells):
        if "**Predict" in cell.source:  # what is asked is run next
            assert NOTEBOOKS[path].cells[k + 1].cell_type == "code"


@every_notebook
def test_the_teachers_guide_answers_all_that_it_asks(path):
    guide = (ROOT / "docs" / "teachers_guide.md").read_text(encoding="utf-8").partition("## Answers")[2]
    answers = re.findall(rf"^\| {path.stem[:2]} \| \S.* \| \S.* \|$", guide, re.MULTILINE)
    prompts = sum(source.count("**Predict") for source in sources(path, "markdown")[1:])  # the first explains the word
    assert len(answers) == prompts


@every_notebook
def test_every_figure_has_a_printed_number_beside_it(path):
    bare = []
    for cell in NOTEBOOKS[path].cells:
        kinds = [output.output_type for output in cell.get("outputs", [])]
        pictures = any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        if pictures and "stream" not in kinds:
            bare.append(cell.source.splitlines()[0])
    assert bare == []


@every_notebook
def test_its_exercise_has_a_hint_and_it_ends_with_a_summary(path):
    notebook = NOTEBOOKS[path]
    exercise = notebook.cells[find_exercise(notebook).text_at].source
    assert "## Exercise" in exercise
    assert "*Hint:*" in exercise
    assert exercise.index("## Exercise") < exercise.index("*Hint:*") < exercise.index("<details>")
    last = notebook.cells[-1]
    assert last.cell_type == "markdown"
    assert last.source.startswith("## Summary\n")


@every_notebook
def test_functions_are_short_and_nothing_is_hidden(path):
    functions = [node for tree in parsed(path) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno + 1 > LONGEST_FUNCTION] == []
    for cell in NOTEBOOKS[path].cells:
        assert not {"collapsed", "scrolled", "jupyter"} & cell.metadata.keys()
        assert set(cell.metadata.get("tags", [])) <= {"parameters", TIMING}


def test_no_function_is_written_in_two_notebooks():
    where = {}
    for path in NOTEBOOKS:
        for tree in parsed(path):
            for node in tree.body:
                if isinstance(node, ast.FunctionDef):
                    where.setdefault(node.name, set()).add(path.name)
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}


@every_notebook
def test_links_lead_somewhere(path):
    text = "\n\n".join(sources(path, "markdown"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        address = urlsplit(target)
        if address.scheme:
            assert address.scheme == "https"
            assert "." in address.netloc
        else:
            assert (path.parent / address.path).exists(), target
            if address.fragment:
                headings = re.findall(
                    r"^#+ (.*)$", (path.parent / address.path).read_text(encoding="utf-8"), re.MULTILINE
                )
                anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert address.fragment in anchors, target


@every_notebook
def test_formulas_are_whole(path):
    """A doubled backslash before a word is a slip of JSON by hand, and shows as a line break and plain letters."""
    for source in sources(path, "markdown"):
        for formula in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", source, re.DOTALL):
            text = "".join(formula)
            assert not re.search(r"\\\\[a-z]", text), text
            assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}"), text
