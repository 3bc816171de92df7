"""The teachers' edition of every notebook runs with other parameters than the committed ones, as papermill gives them.

The students' edition has the code of the committed notebooks (`test_editions`): nbval runs it in kernels, with their
parameters and the real sample. Here nothing can be fetched, and the sample is a phantom, which the nets see in large
voxels. The cells run in this process: a kernel would load the library anew for each notebook. (`test_execution` has
kernels that are given parameters.)
"""

import atexit
import builtins
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from small_sample import use_small_sample, write_small_sample
from traitlets.config import Config

from flare_lib.course.editions import make_edition
from flare_lib.course.execution import find_notebooks, share_parameters
from flare_lib.ct.files import save_label_map

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
# another value for most parameters, lists for tuples as papermill writes them; where a notebook trains, fewer steps
OTHER = {
    "00": {"ct_path": "phantom_ct.nii.gz", "margin_mm": 5.0},
    "01": {"window_hu": [-160.0, 240.0], "coarse_spacing_mm": [6.0, 5.0, 4.0], "margin_mm": 10.0},
    "02": {"patch_zyx": [32, 64, 96], "features_per_stage": [4, 8, 16, 16, 16, 16], "n_heads": 3},
    "03": {"kind": "urpc", "highest_weight": 1.0, "ramp_up_steps": 100},
    "04": {"n_steps": 4, "consistency": "urpc", "consistency_weight": 0.5, "seed": 1},
    "05": {"n_coarse_steps": 4, "n_fine_steps": 5, "margin_mm": 20.0, "seed": 1},
    "06": {"margin_mm": 0.0, "coarse_step": 0.8, "fine_step": 1.0, "forgotten": "liver"},
    "07": {"scale": 2, "n_slabs": 12, "whole_body_zyx": [200, 160, 180]},
    "08": {"max_distance_mm": 450.0, "seed": 2, "tolerance_mm": 15.0},
    "09": {"n_steps": 3, "seeds": [3]},
    "10": {
        "ct_path": "phantom_ct.nii.gz",
        "reference_path": "phantom_13_organs.nii.gz",
        "output_folder": "labels",
        "predictions_folder": "predictions",
        "references_folder": "references",
    },
}
FILES = {"ct_path", "reference_path", "output_folder", "predictions_folder", "references_folder"}


class Shell(InteractiveShell):
    """Runs a notebook's cells in this process, without a history; windows, for which it is asked, are never shown."""

    def __init__(self):
        super().__init__(config=Config({"HistoryManager": {"enabled": False}}))

    def enable_gui(self, gui=None):
        pass


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A cache folder with the phantom that stands in for the sample, and predictions and references of one case."""
    folder = tmp_path_factory.mktemp("cache")
    ct, labels = write_small_sample(folder)
    for place, aside in (("references", 0), ("predictions", 2)):
        (folder / place).mkdir()
        save_label_map(folder / place / "a.nii.gz", np.roll(labels.array_zyx, aside, axis=2), ct)
    (folder / "labels").mkdir()
    return folder


@pytest.fixture
def shell(small, tmp_path, monkeypatch):
    """A shell in the notebooks' folder, offline; what a notebook changes in this process is as it was afterwards."""
    use_small_sample(monkeypatch)
    monkeypatch.setenv("FLARE_LIB_CACHE", str(small))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)  # the shell would put it on the path
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # a shell puts its own names there
    for module, name in ((builtins, "__IPYTHON__"), (builtins, "display"), (sys, "ps1"), (sys, "ps2"), (sys, "ps3")):
        monkeypatch.setattr(module, name, None, raising=False)  # which a shell sets and never takes back
    monkeypatch.chdir(NOTEBOOKS)
    backend = matplotlib.get_backend()
    with matplotlib.rc_context(), torch.random.fork_rng(devices=()):
        shell = Shell.instance()
        yield shell
        plt.close("all")
        plt.switch_backend(backend)
    Shell.clear_instance()
    atexit.unregister(shell.atexit_operations)  # which would keep it, and what the notebook holds, to the end
    shell.user_ns.clear()


@pytest.mark.slow("executes every notebook")
@pytest.mark.parametrize("path", find_notebooks(NOTEBOOKS), ids=lambda path: path.stem)
def test_a_notebook_runs_with_other_parameters_and_the_answers_filled_in(path, small, shell):
    other = {name: str(small / v) if name in FILES else v for name, v in OTHER[path.name[:2]].items()}
    assert share_parameters([path], other) == {path: other}  # it knows them all
    notebook = parameterize_notebook(make_edition(load_notebook_node(str(path)), "teachers"), other)
    n_checks = 0
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        with capture_output() as said:
            ran = shell.run_cell(cell.source)
        ran.raise_error()
        if "print(check(" in cell.source:
            assert said.stdout.strip() == "right"
            n_checks += 1
    assert n_checks == 1
