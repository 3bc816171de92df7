"""Folders of label maps against folders of references: pairs, problems, the table, the summary."""

import csv
import shutil

import numpy as np
import pytest

from flare_lib.ct.files import save_label_map
from flare_lib.ct.labels import ORGANS
from flare_lib.ct.volume import Volume
from flare_lib.evaluation.cohort_scores import (
    COLUMNS,
    CaseScores,
    find_pairs,
    score_pair,
    score_pairs,
    summary,
    write_table,
)
from flare_lib.evaluation.flare_rules import CLEAN, Scores

SHAPE, SPACING = (8, 10, 12), (2.5, 1.5, 0.8)


def write(path, array, spacing=SPACING):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_label_map(path, array.astype(np.uint8), Volume.from_array(array, spacing))


def liver(first, last):
    array = np.zeros(SHAPE, np.uint8)
    array[2:6, 2:8, first:last] = 1
    return array


@pytest.fixture
def folders(tmp_path):
    """Predictions and references of two cases: a (12/13 in common) and b (all)."""
    for name, found in (("a", liver(3, 9)), ("b", liver(2, 9))):
        write(tmp_path / "found" / f"{name}.nii.gz", found)
        write(tmp_path / "true" / f"{name}.nii.gz", liver(2, 9))
    return tmp_path / "found", tmp_path / "true"


@pytest.mark.slow("two processes that load the library")
def test_cases_are_paired_by_name_and_scored_alike_in_one_process_and_in_two(folders, two_processes):
    pairs = find_pairs(*folders)
    assert [pair.name for pair in pairs] == ["a", "b"]
    seen = []
    one = score_pairs(pairs, progress=lambda *done: seen.append(done))
    two = score_pairs(pairs, pool=two_processes)
    assert seen == [(1, 2), (2, 2)]
    assert [case.scores.dice[0] for case in one] == [0.9231, 1.0]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.scores.nsd, b.scores.nsd)
    assert score_pair(pairs[0], rules=CLEAN).dice[0] == pytest.approx(12 / 13)


def test_a_bad_case_is_named_and_the_others_are_scored(folders):
    found, true = folders
    shutil.copy(true / "a.nii.gz", true / "c.nii.gz")
    shutil.copy(true / "a.nii.gz", found / "d.nii.gz")
    write(true / "e.nii.gz", liver(2, 9))
    write(found / "e.nii.gz", liver(2, 9), (2.5, 1.5, 1.0))
    write(true / "f.nii.gz", liver(2, 9))
    write(found / "f.nii.gz", liver(2, 9) * 14)
    write(true / "g.nii.gz", liver(2, 9))
    (found / "g.nii.gz").write_bytes(b"not a label map")
    cases = {case.name: case for case in score_pairs(find_pairs(found, true))}
    assert [name for name, case in cases.items() if case.scores is not None] == ["a", "b"]
    assert cases["c"].problem == "a case must have both label maps, got no prediction"
    assert cases["d"].problem == "a case must have both label maps, got no reference"
    assert "must lie on the reference's grid, got a corner 2.2 mm away" in cases["e"].problem
    assert "labels of prediction must be 0 to 13, got 0 to 14" in cases["f"].problem
    assert "g.nii.gz" in cases["g"].problem


def test_the_table_has_the_challenges_columns(folders, tmp_path):
    cases = score_pairs(find_pairs(*folders))
    cases[1].scores.nsd[4] = np.nan
    write_table(tmp_path / "scores.csv", [*cases, CaseScores("x", None, "broken")])
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["Name", *(f"{c}_DSC" for c in COLUMNS), *(f"{c}_NSD" for c in COLUMNS)]
    assert [row[0] for row in rows] == ["a", "b"]
    assert rows[0][header.index("Liver_DSC")] == "0.9231"
    assert rows[1][header.index("Aorta_NSD")] == ""


def test_the_challenges_columns_are_the_organs_in_their_order():
    full = {"RK": "right kidney", "LK": "left kidney", "IVC": "inferior vena cava"}
    full |= {"RAG": "right adrenal gland", "LAG": "left adrenal gland"}
    assert [full.get(column, column.lower()) for column in COLUMNS] == [organ.name for organ in ORGANS]


def test_the_summary_has_means_and_the_worst_case():
    cases = [
        CaseScores(name, Scores(np.full(13, dice), np.full(13, dice / 2))) for name, dice in (("p", 0.9), ("q", 0.5))
    ]
    cases[0].scores.dice[4] = cases[0].scores.nsd[4] = np.nan
    cases[0].scores.dice[5] = cases[1].scores.dice[5] = np.nan
    lines = summary(cases).splitlines()
    assert lines[0].split() == ["organ", "DSC", "NSD", "lowest", "DSC"]
    assert lines[1].split() == ["liver", "0.7000", "±", "0.200", "0.3500", "±", "0.100", "q", "(0.5000)"]
    assert lines[5].split()[:4] == ["aorta", "0.5000", "±", "0.000"]
    assert lines[6].split() == ["inferior", "vena", "cava", "not", "scored"]
    assert lines[-1].split() == ["mean", "of", "12", "organs", f"{(11 * 0.7 + 0.5) / 12:.4f}", "0.3417"]


def test_what_cannot_be_paired_or_summed_up_is_refused(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"must hold label maps .* got none"):
        find_pairs(tmp_path / "empty", folders[1])
    write(folders[0] / "a.nii", liver(2, 9))
    with pytest.raises(ValueError, match=r"every case must have one CT or label map in .*, got a\.nii and a\.nii\.gz"):
        find_pairs(*folders)
    with pytest.raises(ValueError, match="needs a case with scores, got none"):
        summary([CaseScores("x", None, "broken")])


def test_files_no_folder_and_one_folder_twice_are_refused_as_what_they_are(folders, tmp_path):
    found, true = folders
    for wrong in (found / "a.nii.gz", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=rf"must be given as a folder that exists, got {wrong}$"):
            find_pairs(wrong, true)
    with pytest.raises(ValueError, match=r"must lie in two folders, got .* for both"):
        find_pairs(true, true / ".." / true.name)


def test_what_a_killed_process_left_is_no_case(folders):
    found, true = folders
    (found / ".b1c2-a.nii.gz").write_bytes(b"half a file")
    assert [pair.name for pair in find_pairs(found, true)] == ["a", "b"]
