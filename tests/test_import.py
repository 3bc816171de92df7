"""`import flare_lib`: the core of the library, loaded when it is asked for."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import flare_lib

OFFERED = [name for name in flare_lib.__all__ if name != "__version__"]


def loaded_after(code):
    """Return the names of all modules that a fresh Python has loaded after this code."""
    ask = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_library_loads_nothing_of_it():
    loaded = loaded_after("import flare_lib; dir(flare_lib)")
    assert {name for name in loaded if name.startswith("flare_lib")} == {"flare_lib"}
    assert loaded.isdisjoint({"torch", "numpy", "nibabel", "matplotlib"})


def test_what_is_asked_for_is_loaded_and_nothing_above_it():
    loaded = loaded_after("from flare_lib import Volume")
    assert "flare_lib.ct.volume" in loaded
    assert loaded.isdisjoint({"torch", "flare_lib.network.unet"})


@pytest.mark.slow("a process that loads torch")
def test_nets_are_loaded_without_torchs_compiler():
    """Initialising on the meta device would load it, two seconds of CPU time before every first case."""
    loaded = loaded_after("from flare_lib import load_stages; load_stages()")
    assert "torch" in loaded
    assert loaded.isdisjoint({"torch._dynamo", "sympy"})


@pytest.mark.parametrize("name", OFFERED)
def test_what_is_offered_is_what_type_checkers_are_told(name):
    tree = ast.parse(Path(flare_lib.__file__).read_text(encoding="utf-8"))
    [module] = [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}
    ]
    assert getattr(flare_lib, name) is getattr(importlib.import_module(module), name)


def test_dir_lists_all_that_is_offered():
    assert set(OFFERED) <= set(dir(flare_lib))
    assert len(OFFERED) >= 12


def test_what_is_not_offered_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'flare_lib' has no attribute 'segmnet'"):
        _ = flare_lib.segmnet
