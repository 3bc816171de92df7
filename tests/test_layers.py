"""The layers of the library, read from its imports: a folder imports only from folders before it."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import flare_lib

LIBRARY = Path(flare_lib.__file__).parent
FOLDERS = ("ct", "network", "data", "training", "inference", "evaluation", "display")
TOP = ("cli", "editions", "notebooks")
MODULES = sorted(path.relative_to(LIBRARY).with_suffix("").as_posix() for path in LIBRARY.rglob("*.py"))


def imports(module):
    """Return the library's modules that a module imports, anywhere in it, as "folder/module"."""
    found = set()
    for node in ast.walk(ast.parse((LIBRARY / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} must import by full names, got a relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        paths = (name.split(".")[1:] for name in names if name.split(".")[0] == "flare_lib")
        found |= {"/".join(path) for path in paths} & set(MODULES)
    return found


def rank(module):
    """Return how late a module comes: its folder's place, and after all folders those at the top."""
    folder, _, _ = module.rpartition("/")
    return FOLDERS.index(folder) if folder else len(FOLDERS)


def test_every_folder_is_a_chapter_and_nothing_else_lies_at_the_top():
    assert {module.rpartition("/")[0] for module in MODULES} <= {"", *FOLDERS}
    assert [module for module in MODULES if "/" not in module and module not in (*TOP, "__init__")] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_folder_and_those_before_it(module):
    assert [other for other in sorted(imports(module)) if rank(other) > rank(module)] == []


def test_within_the_library_imports_run_one_way():
    cycle = []
    try:
        TopologicalSorter({module: imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        cycle = error.args[1][::-1]
    assert cycle == []


def test_what_people_look_at_is_imported_by_the_top_alone():
    users = {module: imports(module) for module in MODULES}
    assert [
        m for m, used in users.items() if "/" in m and rank(m) != rank("display/x") for u in used if "display" in u
    ] == []
    assert [m for m, used in users.items() if "cli" in used] == []
    assert [m for m, used in users.items() if used & {"editions", "notebooks"} and m != "cli"] == []


def test_the_sliding_window_knows_nothing_of_networks():
    seen, todo = set(), ["inference/sliding_window"]
    while todo:
        module = todo.pop()
        seen.add(module)
        todo += imports(module) - seen
    assert [module for module in seen if module.startswith("network/")] == []


def test_reading_imports_sees_every_form(tmp_path, monkeypatch):
    (tmp_path / "m.py").write_text(
        "import flare_lib.ct.roi\nfrom flare_lib.ct import volume\nfrom flare_lib.data.phantom import phantom_case\n"
        "import numpy\n\ndef later():\n    from flare_lib.network.unet import UNet\n"
    )
    monkeypatch.setattr("test_layers.LIBRARY", tmp_path, raising=False)
    monkeypatch.setattr("test_layers.MODULES", ["ct/roi", "ct/volume", "data/phantom", "network/unet", "ct/labels"])
    assert imports("m") == {"ct/roi", "ct/volume", "data/phantom", "network/unet"}
