"""The repository around the library: versions that agree, notebooks that carry their outputs, the house rules."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
GIT = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]  # what is committed, or could be
try:
    LISTED = subprocess.run(GIT, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
except (OSError, subprocess.CalledProcessError):
    pytest.skip("these tests need a git checkout", allow_module_level=True)
FILES = sorted(path for path in map(ROOT.joinpath, LISTED) if path.is_file())
LIBRARY = [path for path in FILES if path.is_relative_to(ROOT / "flare_lib") and path.suffix == ".py"]
NOTEBOOKS = [path for path in FILES if path.suffix == ".ipynb"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = "notebooks,test,dev"  # what is installed to work on the project
OPTIONAL = {
    "cluster",
    "dicom",
    "niivue",
    "nnunet",
    "openvino",
    "train",
    "triton",
}  # what users may add, and what those bring along


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path):
    """Return the syntax tree of a Python file, which must not be changed."""
    return ast.parse(path.read_text(encoding="utf-8"))


def read_lock():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if pin[1] != "=="] == []
    return {name: Version(version) for name, _, version in pins}


def required_by(extra):
    """Yield the requirements of an extra, and of those of the project's extras that it asks for itself."""
    for requirement in map(Requirement, PYPROJECT["optional-dependencies"][extra]):
        if requirement.name == PYPROJECT["name"]:
            yield from (r for name in requirement.extras for r in required_by(name))
        else:
            yield requirement


def direct_requirements():
    ours = [*map(Requirement, PYPROJECT["dependencies"]), *(r for e in EXTRAS.split(",") for r in required_by(e))]
    return {canonicalize_name(requirement.name): requirement for requirement in ours}


# Versions


# in environments of their own (benchmarks/against_nnunet.py, record_nnunet_v1.py); installed by `make mutants`
ELSEWHERE = {"nnunetv2", "nnunet", "mutmut"}


distributions_of_packages = cache(packages_distributions)


def imported_by(folder):
    """Return the packages that the Python files of a folder import, anywhere in them."""
    found = set()
    for path in (path for path in FILES if path.is_relative_to(ROOT / folder) and path.suffix == ".py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("flare_lib", "notebooks,niivue,nnunet,openvino,triton,dicom,cluster"), ("tests", "test"), ("benchmarks", "test")],
)
def test_what_is_imported_is_asked_for(folder, extras):
    wanted = [*map(Requirement, PYPROJECT["dependencies"]), *(r for e in extras.split(",") for r in required_by(e))]
    brought = distributions_of_packages()
    own = {path.stem for path in FILES if path.suffix == ".py"} | {"flare_lib"}
    foreign = imported_by(folder) - set(sys.stdlib_module_names) - own - ELSEWHERE
    names = {canonicalize_name(requirement.name) for requirement in wanted}
    assert [name for name in sorted(foreign) if not {*map(canonicalize_name, brought.get(name, [name]))} & names] == []


def test_the_lock_has_a_version_of_every_requirement_that_fits_it():
    lock = read_lock()
    for name, requirement in direct_requirements().items():
        assert name in lock
        assert requirement.specifier.contains(lock[name]), f"{requirement} against {lock[name]}"


def test_the_lock_gives_torch_exactly_so_that_pip_takes_no_other_build():
    lock = read_lock()
    # on Linux, torch with CUDA asks for exactly this triton, and pip refuses to install either beside another one
    assert (str(lock["torch"]), str(lock["triton"])) == ("2.13.0", "3.7.1")


def test_the_lock_is_sorted_and_names_nothing_twice():
    lines = [
        line
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert names == [canonicalize_name(name) for name in names]


def test_the_conda_environment_agrees_with_the_lock_and_the_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert environment["dependencies"][-1].keys() == {"pip"}
    named = (entry.partition("=") for entry in environment["dependencies"][:-1])
    by_conda = {canonicalize_name(name): version for name, _, version in named}
    by_pip = environment["dependencies"][-1]["pip"]
    lock, wanted = read_lock(), direct_requirements()
    assert by_pip == [f"torch=={lock['torch']}", f"--editable .[{EXTRAS}]"]
    only_pip_has = {"torch", "dynamic-network-architectures", "ipyniivue", "latex2mathml", "playwright"}
    only_pip_has |= {"dcmqi", "isal", "openvino", "surface-distance"}
    assert by_conda.keys() == wanted.keys() - only_pip_has | {"python", "pip"}
    for name, version in by_conda.items():
        if name in wanted:
            assert f"{lock[name]}.".startswith(f"{version}."), f"{name}={version} against {lock[name]}"
    assert Version(by_conda["python"]) in Requirement(f"python{PYPROJECT['requires-python']}").specifier


def test_everything_that_installs_the_project_asks_for_the_same_extras():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"[{EXTRAS}]" in makefile
    assert {*EXTRAS.split(","), *OPTIONAL} == PYPROJECT["optional-dependencies"].keys()


def test_the_version_is_the_same_wherever_it_is_told():
    version = PYPROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    assert citation["license"] == PYPROJECT["license"]
    assert f'__version__ = "{version}"' in (ROOT / "flare_lib" / "__init__.py").read_text(encoding="utf-8")
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# House rules


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_never_prints_asserts_or_swallows_errors(path):
    for node in ast.walk(tree_of(path)):
        assert not (isinstance(node, ast.Name) and node.id == "print"), f"print in line {node.lineno}"
        assert not isinstance(node, ast.Assert), f"assert in line {node.lineno}"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"bare except in line {node.lineno}"


def public_parts(tree, prefix=""):
    """Yield name and node of all that a module shows to others: classes, their methods, functions."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_parts(node, f"{node.name}.")


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_modules_and_all_that_is_public_in_them_have_docstrings(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree)
    assert [name for name, node in public_parts(tree) if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", [p for p in LIBRARY if p.name != "__init__.py"], ids=name_of)
def test_every_module_has_a_test_file(path):
    within = path.relative_to(ROOT / "flare_lib")
    assert (ROOT / "tests" / within.parent / f"test_{within.name}").is_file()


def test_no_file_names_a_place_on_somebodys_machine():
    place = re.compile(r"(?<![\w.:/-])/(?:work|home|root|Users)/\w")
    binary = {".npz", ".png", ".safetensors"}
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in FILES if path.suffix not in binary}
    assert [name for name, text in texts.items() if place.search(text)] == []


def test_no_file_but_the_weights_is_over_1_mb():
    weights = ROOT / "flare_lib" / "weights"
    large = [name_of(p) for p in FILES if p.stat().st_size > 1024**2 and not p.is_relative_to(weights)]
    assert large == []


def test_the_hooks_need_no_network():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    assert {hook["language"] for repo in hooks["repos"] for hook in repo["hooks"]} == {"system"}


# Pages


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".md"], ids=name_of)
def test_links_between_the_pages_lead_somewhere(path):
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".md"], ids=name_of)
def test_the_pages_are_finished(path):
    assert re.findall(r".*\bTODO\b.*", path.read_text(encoding="utf-8")) == []


def test_the_readme_names_every_notebook_and_links_those_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    numbers = re.findall(r"^\| \[?`?(\d\d)_", readme, flags=re.MULTILINE)
    assert numbers == [f"{number:02d}" for number in range(11)]
    assert [path.name for path in NOTEBOOKS if f"({name_of(path)})" not in readme] == []


# Notebooks


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebooks_were_run_from_top_to_bottom_and_carry_their_outputs(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [output["output_type"] for output in outputs if output["output_type"] == "error"] == []
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebooks_check_some_of_their_outputs_and_those_are_there_to_be_compared(path):
    checked = [cell for cell in code_cells(path) if "# NBVAL_CHECK_OUTPUT" in "".join(cell["source"])]
    assert checked
    assert [cell["source"] for cell in checked if not cell["outputs"]] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebooks_have_one_parameters_cell_and_nothing_of_the_machine_that_ran_them(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    tags = [tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])]
    assert tags.count("parameters") == 1
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["metadata"].keys() <= {"kernelspec", "language_info"}
    assert [cell for cell in notebook["cells"] if "papermill" in cell["metadata"]] == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere kernels are started as always")
def test_the_kernels_of_the_notebooks_tests_are_forked(request):
    called = request.session.gethookproxy(ROOT / "notebooks").pytest_runtest_setup.get_hookimpls()
    assert "forked_kernels" in {hook.plugin_name for hook in called}
