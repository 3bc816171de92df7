"""Scores of label maps and the cost of a run: what is printed and written, and what is refused."""

import json
import sys

import numpy as np
import pytest
from scans import assert_refused

from flare_lib.ct.files import load_label_map, save_label_map
from flare_lib.ct.volume import Volume


@pytest.fixture
def two_folders(tmp_path):
    """Folders of predictions and references: case a, half of whose liver is found, and b, all of it."""
    for name, last in (("a", 6), ("b", 10)):
        for folder, stop in (("found", last), ("true", 10)):
            (tmp_path / folder).mkdir(exist_ok=True)
            labels = np.zeros((6, 8, 12), np.uint8)
            labels[1:5, 2:6, 2:stop] = 1
            save_label_map(tmp_path / folder / f"{name}.nii.gz", labels, Volume.from_array(labels, (3.0, 2.0, 1.0)))
    return tmp_path / "found", tmp_path / "true"


def test_label_maps_are_scored_against_references(flare, two_folders, tmp_path):
    table, figure = tmp_path / "scores.csv", tmp_path / "scores.png"
    code, out, err = flare("evaluate", *two_folders, "-o", table, "--figure", figure)
    assert (code, err) == (0, [])
    assert out[1].split()[:2] == ["liver", "0.8334"]  # of 0.6667 and 1
    assert "a (0.6667)" in out[1]
    assert out[-1] == f"2 of 2 cases scored; wrote {table} and {figure}"
    assert table.read_text().splitlines()[1].startswith("a,0.6667,1,")
    assert figure.stat().st_size > 5000


def test_a_case_that_cannot_be_scored_is_named_and_does_not_stop_the_others(flare, two_folders, tmp_path):
    (two_folders[0] / "b.nii.gz").write_bytes(b"")
    code, out, err = flare("evaluate", *two_folders, "-o", tmp_path / "scores.csv")
    assert code == 2
    assert len(err) == 1
    assert err[0].startswith("error: b: ")
    assert out[-1].startswith("1 of 2 cases scored")
    (two_folders[0] / "a.nii.gz").unlink()
    code, out, err = flare("evaluate", *two_folders, "-o", tmp_path / "none.csv")
    assert (code, out, len(err)) == (2, [], 2)
    assert not (tmp_path / "none.csv").exists()


def test_labels_that_are_numbered_otherwise_than_the_references_are_noted(flare, two_folders, tmp_path):
    path = two_folders[0] / "b.nii.gz"
    liver = load_label_map(path)
    save_label_map(path, 6 * liver.array_zyx, liver)
    code, _, err = flare("evaluate", *two_folders, "-o", tmp_path / "scores.csv")
    assert code == 0
    assert err == [
        "note: b: the inferior vena cava lies where the reference has the liver: is one of them numbered otherwise?"
    ]


def test_a_table_of_scores_has_a_place_and_a_name_before_any_work(flare, two_folders, tmp_path):
    assert_refused(flare("evaluate", *two_folders, "-o", tmp_path / "s.txt"), "must be a .csv file")
    assert_refused(flare("evaluate", *two_folders, "-o", tmp_path / "no" / "s.csv"), "table's folder must exist")
    assert_refused(flare("evaluate", tmp_path, two_folders[1], "-o", tmp_path / "s.csv"), "must hold label maps")


def test_profile_measures_any_command_and_passes_its_status_on(flare, tmp_path):
    code, out, _ = flare(
        "profile", "-o", tmp_path / "p.json", "--figure", tmp_path / "p.png", "--", sys.executable, "-c", "exit(3)"
    )
    assert code == 3
    assert out[0].startswith("wall time")
    assert out[-1] == f"the command ended with 3; wrote {tmp_path / 'p.json'} and {tmp_path / 'p.png'}"
    stored = json.loads((tmp_path / "p.json").read_text())
    assert stored["status"] == 3
    assert stored["command"][-2:] == ["-c", "exit(3)"]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "p.csv", "--", "true"], "must go to a .json file, got p.csv"),
        (["-o", "nowhere/p.json", "--", "true"], "folder must exist and be writable, got nowhere"),
        (["--", "no-such-command"], "no-such-command"),
        (
            ["-o", "p.json", "--", "cat", "./p.json"],
            "must be a separate file, neither an input nor another output, got p.json",
        ),
    ],
)
def test_profile_says_what_it_cannot_do(flare, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = flare("profile", *arguments)
    assert code == 2
    assert said in err[0]
    assert list(tmp_path.iterdir()) == []
