"""The teachers' edition of every notebook runs with other parameters than the committed ones, as papermill gives them.

The students' edition has the code of the committed notebooks (`test_editions`): nbval runs it, with their parameters
and the real sample. Here nothing can be fetched, and the sample is a phantom of a child's size, which takes the nets a
few tiles.
"""

from pathlib import Path

import nbformat
import numpy as np
import pytest

from flare_lib.course.editions import make_edition
from flare_lib.course.execution import find_notebooks, run_notebooks
from flare_lib.ct.files import save_ct, save_label_map
from flare_lib.ct.volume import Volume
from flare_lib.synthetic.phantom import phantom_case

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
# another value for most parameters; where a notebook trains, fewer steps
OTHER = {
    "00": {"ct_path": "phantom_ct.nii.gz", "margin_mm": 5.0},
    "01": {"window_hu": (-160.0, 240.0), "coarse_spacing_mm": (6.0, 5.0, 4.0), "margin_mm": 10.0},
    "02": {"patch_zyx": (32, 64, 96), "features_per_stage": (4, 8, 16, 16, 16, 16), "n_heads": 3},
    "03": {"kind": "urpc", "highest_weight": 1.0, "ramp_up_steps": 100},
    "04": {"n_steps": 4, "consistency": "urpc", "consistency_weight": 0.5, "seed": 1},
    "05": {"n_coarse_steps": 4, "n_fine_steps": 5, "margin_mm": 20.0, "seed": 1},
    "06": {"margin_mm": 0.0, "coarse_step": 0.8, "fine_step": 1.0, "forgotten": "liver"},
    "07": {"scale": 2, "n_slabs": 3, "whole_body_zyx": (200, 160, 180)},
    "08": {"max_distance_mm": 250.0, "seed": 2, "tolerance_mm": 5.0},
    "09": {"n_steps": 3, "seeds": (3,)},
    "10": {
        "ct_path": "phantom_ct.nii.gz",
        "reference_path": "phantom_13_organs.nii.gz",
        "output_folder": "labels",
        "predictions_folder": "predictions",
        "references_folder": "references",
    },
}
FILES = {"ct_path", "reference_path", "output_folder", "predictions_folder", "references_folder"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A cache folder with the phantom that stands in for the sample, and predictions and references of one case."""
    folder = tmp_path_factory.mktemp("cache")
    ct, labels = (
        Volume.from_array(volume.array_zyx, (4.0, 3.2, 3.2))  # drawn at 5, 4, 4 mm: four fifths of an adult
        for volume in phantom_case(0, shape_zyx=(50, 85, 110), spacing_zyx_mm=(5.0, 4.0, 4.0))
    )
    save_ct(folder / "phantom_ct.nii.gz", ct)
    for path in ("phantom_13_organs.nii.gz", "references/a.nii.gz", "predictions/a.nii.gz"):
        (folder / path).parent.mkdir(exist_ok=True)
        aside = 2 if path.startswith("predictions") else 0
        save_label_map(folder / path, np.roll(labels.array_zyx, aside, axis=2), ct)
    (folder / "labels").mkdir()
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """An IPython folder for kernels that draw phantoms in voxels of 5 mm, not of 2.5: drawing takes longest."""
    folder = tmp_path_factory.mktemp("ipython")
    startup = folder / "profile_default" / "startup" / "quick_phantoms.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("from flare_lib.synthetic import phantom\n\nphantom._DRAWING_MM = 5.0\n", encoding="utf-8")
    return folder


@pytest.mark.slow("executes every notebook")
@pytest.mark.parametrize("path", find_notebooks(NOTEBOOKS), ids=lambda path: path.stem)
def test_a_notebook_runs_with_other_parameters_and_the_answers_filled_in(path, small, quick, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # several run side by side, and threads would wait for each other
    monkeypatch.setenv("IPYTHONDIR", str(quick))
    monkeypatch.setenv("FLARE_LIB_CACHE", str(small))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    original = nbformat.read(path, as_version=4)
    edition = tmp_path / "notebooks" / path.name  # beside the folders that the notebooks reach for
    edition.parent.mkdir()
    (tmp_path / "benchmarks").symlink_to(NOTEBOOKS.parent / "benchmarks")
    nbformat.write(make_edition(original, "teachers"), edition)
    other = OTHER[path.name[:2]]
    parameters = {name: str(small / value) if name in FILES else value for name, value in other.items()}
    (run,) = run_notebooks([edition], tmp_path / "out", parameters=parameters)
    assert run.error is None
    assert not run.reused
    (check,) = (c for c in nbformat.read(run.notebook, as_version=4).cells if "print(check(" in c.source)
    assert check.outputs[0].text.strip() == "right"
