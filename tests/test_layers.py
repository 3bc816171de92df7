"""The layers of the library, read from its imports: each imports only from those before it.

`flare_lib/__init__` is a layer too, the front door: it names the core, and nothing of what is looked at or typed.
"""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import flare_lib

LIBRARY = Path(flare_lib.__file__).parent
CORE = ("machine", "ct", "network", "synthetic", "data", "training", "inference", "evaluation")
FRONT = "__init__"
TOP = ("commands", "cli")
LAYERS = (*CORE, FRONT, "display", "course", *TOP)  # folders, and modules beside them
MODULES = sorted(path.relative_to(LIBRARY).with_suffix("").as_posix() for path in LIBRARY.rglob("*.py"))


@cache
def import_statements(path):
    """Return all of a file's import statements, wherever in it they are."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(module):
    """Return the library's modules that a module imports, anywhere in it, as "folder/module"."""
    found = set()
    for node in import_statements(LIBRARY / f"{module}.py"):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"{module} must import by full names, got a relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        paths = (name.split(".")[1:] for name in names if name.split(".")[0] == "flare_lib")
        found |= {"/".join(path) for path in paths} & set(MODULES)
    return found


def names_from_the_front(module):
    """Return what a module takes from `flare_lib` itself."""
    statements = import_statements(LIBRARY / f"{module}.py")
    imported = [node for node in statements if isinstance(node, ast.ImportFrom) and node.module == "flare_lib"]
    return {alias.name for node in imported for alias in node.names} - set(LAYERS)


def layer(module):
    """Return the folder in which a module lies, or the module itself when it lies in none."""
    return module.partition("/")[0]


def users_of(used):
    """Return the other layers that import from a layer."""
    return {layer(module) for module in MODULES if used in map(layer, imports(module))} - {used}


def test_every_folder_and_every_module_beside_them_is_a_layer():
    assert {layer(module) for module in MODULES} == set(LAYERS)
    assert [module for module in MODULES if module.count("/") > 1] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_layer_and_those_before_it(module):
    later = LAYERS[LAYERS.index(layer(module)) + 1 :]
    assert [other for other in sorted(imports(module)) if layer(other) in later] == []


@pytest.mark.parametrize("module", MODULES)
def test_no_module_of_the_library_goes_through_its_front_door(module):
    assert names_from_the_front(module) <= {"__version__"}


def test_the_front_door_names_the_core_for_type_checkers_alone():
    tree = ast.parse((LIBRARY / f"{FRONT}.py").read_text(encoding="utf-8"))
    [checked] = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(checked.test) == "TYPE_CHECKING"
    checked.body.clear()
    others = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node.module for node in others] == ["importlib", "typing"]


def test_within_the_library_imports_run_one_way():
    cycle = []
    try:
        TopologicalSorter({module: imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        cycle = error.args[1][::-1]
    assert cycle == []


def test_what_people_look_at_and_what_they_type_is_imported_by_the_top_alone():
    assert users_of("display") <= set(TOP)
    assert users_of("course") == {"commands"}
    assert users_of("commands") == {"cli"}
    assert users_of("cli") == set()


def test_the_sliding_window_knows_nothing_of_networks():
    seen, todo = set(), ["inference/sliding_window"]
    while todo:
        module = todo.pop()
        seen.add(module)
        todo += imports(module) - seen
    assert [module for module in seen if module.startswith("network/")] == []


def test_reading_imports_sees_every_form(tmp_path, monkeypatch):
    (tmp_path / "m.py").write_text(
        "import flare_lib.ct.roi\nfrom flare_lib.ct import volume\n"
        "from flare_lib.synthetic.phantom import phantom_case\n"
        "import numpy\n\ndef later():\n    from flare_lib.network.unet import UNet\n"
    )
    monkeypatch.setattr("test_layers.LIBRARY", tmp_path, raising=False)
    monkeypatch.setattr(
        "test_layers.MODULES", ["ct/roi", "ct/volume", "synthetic/phantom", "network/unet", "ct/labels"]
    )
    assert imports("m") == {"ct/roi", "ct/volume", "synthetic/phantom", "network/unet"}
