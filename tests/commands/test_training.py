"""One stage's training: weights that `segment` can use, and what is told before any work."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from scans import save

from flare_lib.inference import stages
from flare_lib.network.weights import load_trained


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
        assert (code, len(err)) == (0, 1)
        assert err[0].startswith("note: these weights know painted CTs alone; ")
        assert err[0].endswith("flare pseudo-label, then flare train --preset real --pseudo-labelled FOLDER")
        assert out[-1].startswith("2 steps")
        assert (name == "fine") == (f"started from all tensors of {tmp_path / 'trained' / 'coarse'}" in out[0])
        assert out[-1].endswith(f"wrote {tmp_path / 'trained' / name}.safetensors and its card")
    coarse, fine = stages.load_stages(tmp_path / "trained")
    assert (coarse.patch_size, fine.preprocessing.spacing_zyx_mm) == ((8, 16, 12), (8.0, 8.0, 8.0))


def test_of_several_processes_one_says_what_was_done(flare, persons, tmp_path, monkeypatch):
    changes = [part for change in (*SMALL, "spacing_zyx_mm=(8,8,8)", *ONLY_PAINTED) for part in ("--set", change)]
    monkeypatch.setenv("RANK", "1")
    told = flare("train", "coarse", "--label-maps", persons, "-o", tmp_path / "trained", "--workers", "0", *changes)
    assert told == (0, [], [])
    assert (tmp_path / "trained" / "coarse.safetensors").exists()


README = Path(__file__).parents[2] / "data" / "README.md"
ONLY_PAINTED = ('sources={"label_maps": 1.0}', "n_between=0")
HALF_REAL = ('sources={"label_maps": 0.5, "pseudo_labelled": 0.5}', "n_between=0", "validate_every=1", "augmentation=0")


@pytest.mark.slow("four trainings")
def test_the_commands_that_repeat_the_packaged_weights_lead_from_one_to_the_next(flare, persons, tmp_path, monkeypatch):
    """Those of data/README.md, word by word, with smaller nets; the real CT is one that is there already."""
    array = np.zeros((24, 20, 14), np.uint8)
    array[10:19, 4:13, 2:10] = 1
    save(persons / "s2_totalseg117.nii.gz", array, np.diag([8.0, 8.0, 8.0, 1.0]))
    persons.rename(tmp_path / "PEOPLE")
    (tmp_path / "UNLABELLED" / "images").mkdir(parents=True)
    ct = np.where(array, 60, -80).astype(np.int16)
    save(tmp_path / "UNLABELLED" / "images" / "a_0000.nii.gz", ct, np.diag([8.0, 8.0, 8.0, 1.0]))
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf-8").split("### Repeating the training of the packaged weights")[1]
    lines = [line for block in section.split("```")[1:4:2] for line in block.strip().splitlines()]
    *commands, copy, copy_card = (shlex.split(line, comments=True)[1:] for line in lines)
    names = [command[0] for command in commands]
    assert names == ["train", "train", "fetch", "pseudo-label", "train", "train", "segment", "train"]
    for command in commands:
        beside = []
        if command[0] == "train":
            changes = (*SMALL, "spacing_zyx_mm=(8,8,8)", *(HALF_REAL if "real" in command else ONLY_PAINTED))
            beside = ["--workers", "0", *(part for change in changes for part in ("--set", change))]
        elif command[0] == "pseudo-label":
            beside = ["--workers", "0", "--sure", "0", "--scale", "1", "--device", "cpu"]
        if command[0] not in ("fetch", "segment"):
            code, _, err = flare(*command, *beside)
            assert code == 0, err
    for name in ("coarse", "fine"):
        card = load_trained(tmp_path / "round2" / name).card
        assert (card["started_from"], card["ema_decay"]) == (name, 0.98)
        assert card["training_set"]["sources"]["pseudo_labelled"] == 1
    for source, target in (copy, copy_card):  # the last training's, from slabs
        shutil.copy(source, target)
    _, fine = stages.load_stages(Path(commands[-2][-1]))
    assert fine.with_patch((4, 16, 12)).net is not fine.net


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
        (
            ["coarse", "--unlabelled", "."],
            "unlabelled CTs need a recipe that draws from them (n_unlabelled",
        ),
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
