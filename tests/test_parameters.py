"""The teachers' edition of every notebook runs with other parameters than the committed ones, as papermill gives them.

The students' edition has the code of the committed notebooks (`test_editions`): nbval runs it, with their parameters.
"""

from pathlib import Path

import nbformat
import pytest

from flare_lib.course.editions import make_edition
from flare_lib.course.execution import find_notebooks, run_notebooks

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
# another value for most parameters; where a notebook trains, fewer steps
OTHER = {
    "00": {"margin_mm": 5.0},
    "01": {"window_hu": (-160.0, 240.0), "coarse_spacing_mm": (6.0, 5.0, 4.0), "margin_mm": 10.0},
    "02": {"patch_zyx": (32, 64, 96), "features_per_stage": (4, 8, 16, 16, 16, 16), "n_heads": 3},
    "03": {"kind": "urpc", "highest_weight": 1.0, "ramp_up_steps": 100},
    "04": {"n_steps": 4, "consistency": "urpc", "consistency_weight": 0.5, "seed": 1},
    "05": {"n_coarse_steps": 4, "n_fine_steps": 5, "margin_mm": 20.0, "seed": 1},
    "06": {"margin_mm": 0.0, "coarse_step": 0.8, "fine_step": 1.0, "forgotten": "liver"},
    "07": {"scale": 2, "n_slabs": 3, "whole_body_zyx": (200, 160, 180)},
    "08": {"max_distance_mm": 250.0, "seed": 2, "tolerance_mm": 5.0},
    "09": {"n_steps": 3, "seeds": (3,)},
    "10": {},
}


@pytest.mark.slow("executes every notebook")
@pytest.mark.parametrize("path", find_notebooks(NOTEBOOKS), ids=lambda path: path.stem)
def test_a_notebook_runs_with_other_parameters_and_the_answers_filled_in(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # several run side by side, and threads would wait for each other
    original = nbformat.read(path, as_version=4)
    edition = tmp_path / "notebooks" / path.name  # beside the folders that the notebooks reach for
    edition.parent.mkdir()
    (tmp_path / "benchmarks").symlink_to(NOTEBOOKS.parent / "benchmarks")
    nbformat.write(make_edition(original, "teachers"), edition)
    parameters = OTHER[path.name[:2]] or {"output_folder": str(tmp_path)}
    (run,) = run_notebooks([edition], tmp_path / "out", parameters=parameters)
    assert run.error is None
    assert not run.reused
    (check,) = (c for c in nbformat.read(run.notebook, as_version=4).cells if "print(check(" in c.source)
    assert check.outputs[0].text.strip() == "right"
