"""Stored results: found from any working directory, and named if they are not there."""

import json

import pytest

from flare_lib.course.results import stored_results


def test_a_file_above_the_working_directory_comes_before_the_library_s_own(tmp_path, monkeypatch):
    mine = tmp_path / "benchmarks" / "results" / "ablations.json"
    mine.parent.mkdir(parents=True)
    mine.write_text(json.dumps({"mine": 1}), encoding="utf-8")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert stored_results("benchmarks/results/ablations.json") == {"mine": 1}
    assert stored_results(mine) == {"mine": 1}


def test_the_repository_s_own_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "study" in stored_results("benchmarks/results/ablations.json")
    with pytest.raises(FileNotFoundError, match=r"must be a file, here or in the repository, got results/none\.json"):
        stored_results("results/none.json")
