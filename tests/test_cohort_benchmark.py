"""Thousands of cases in small: nothing is lost, nothing written twice, every bad one named, whatever is killed."""

import cohort  # of benchmarks/
import cohort_case
import pytest


def assert_all_is_there(found, n_cases):
    n_bad = n_cases // cohort_case.BAD_EVERY
    assert found["good"] == found["good_done"] == found["files_right"] == n_cases - n_bad
    assert found["bad"] == found["bad_named"] == n_bad
    assert found["lines_too_many"] == 0


@pytest.mark.slow("four runs in two processes each")
def test_killed_at_random_moments_a_run_loses_nothing_and_does_nothing_twice():
    found = cohort.kills(60, 3, seconds=0.0)
    assert_all_is_there(found, 60)
    assert (found["kills"], found["lost"], found["known_done_again"]) == (3, 0, 0)


def test_a_case_that_was_done_twice_or_not_at_all_is_counted(tmp_path):
    (tmp_path / "executed").write_text("0\n1\n0\n")
    (tmp_path / "manifest.jsonl").write_text('{"name": "0", "result": 0}\n{"name": "1", "result": 3}\n')
    for k in range(2):
        (tmp_path / f"{k}.txt").write_text(f"{k}\n")
    found = cohort.count(tmp_path, 2)
    assert (found["good_done"], found["files_right"], found["done_again"]) == (1, 2, 1)
