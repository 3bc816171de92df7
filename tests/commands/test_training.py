"""One stage's training: weights that `segment` can use, and what is told before any work."""

import numpy as np
import pytest
from scans import save

from flare_lib.inference import stages


@pytest.fixture
def persons(tmp_path):
    """A folder with one person's structures: a liver."""
    folder = tmp_path / "persons"
    folder.mkdir()
    array = np.zeros((24, 20, 14), np.uint8)
    array[12:20, 5:15, 3:11] = 1
    save(folder / "s1_totalseg117.nii.gz", array, np.diag([8.0, 8.0, 8.0, 1.0]))
    (folder / "names.json").write_text('{"1": "liver"}')
    return folder


SMALL = ("patch_size=(8,16,12)", "features_per_stage=(4,6,8)", "strides=((2,2,2),(1,2,2))", "n_heads=2", "n_steps=2")


@pytest.mark.slow("two trainings")
def test_train_writes_weights_that_segment_can_use(flare, persons, tmp_path):
    settings = [part for setting in (*SMALL, "spacing_zyx_mm=(8,8,8)") for part in ("--set", setting)]
    settings += ["--set", 'sources={"label_maps": 1.0}', "--set", "n_between=0"]
    for name, start in (("coarse", []), ("fine", ["--init", tmp_path / "trained" / "coarse"])):
        code, out, err = flare(
            *("train", name, "--label-maps", persons, "-o", tmp_path / "trained", "--workers", "0"), *start, *settings
        )
        assert (code, err) == (0, [])
        assert out[-1].startswith("2 steps")
        assert (name == "fine") == (f"started from all tensors of {tmp_path / 'trained' / 'coarse'}" in out[0])
        assert out[-1].endswith(f"wrote {tmp_path / 'trained' / name}.safetensors and its card")
    coarse, fine = stages.load_stages(tmp_path / "trained")
    assert (coarse.patch_size, fine.preprocessing.spacing_zyx_mm) == ((8, 16, 12), (8.0, 8.0, 8.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["middle"], "stage must be one of coarse, fine, got 'middle'"),
        (["coarse", "--set", "epochs=3"], "got epochs"),
        (["coarse", "--preset", "best"], "preset must be one of"),
        (["coarse", "--set", "n_steps=0"], "n_steps must be a whole number, 1 or more, got 0"),
        (["coarse", "--set", "learning_rate=fast"], "learning_rate must be a number above 0, got 'fast'"),
        (["coarse", "--set", "learning_rate=0,01"], "learning_rate must be a number above 0, got '0,01'"),
        (["coarse", "--set", "learning_rate=nan"], "learning_rate must be a number above 0, got 'nan'"),
        (["coarse", "--set", "patch_size=24"], "patch_size must be 3 whole numbers, 1 or more (z, y, x), got 24"),
        (
            ["coarse", "--set", "sources=phantoms"],
            "sources must be shares of cases, pseudo_labelled, label_maps, phantoms",
        ),
        (["coarse", "--init", "nowhere"], "nowhere"),
    ],
)
def test_a_run_that_cannot_be_is_told_before_any_work(flare, persons, tmp_path, arguments, message):
    code, out, err = flare("train", "--label-maps", persons, "-o", tmp_path / "trained", *arguments)
    assert (code, out, len(err)) == (2, [], 1)
    assert message in err[0]
    assert not (tmp_path / "trained").exists()


def test_training_needs_persons(flare, tmp_path):
    code, _, err = flare("train", "coarse", "--label-maps", tmp_path, "-o", tmp_path / "trained")
    assert (code, len(err)) == (2, 1)
    assert "must hold */segmentations or *totalseg117*.nii.gz" in err[0]
