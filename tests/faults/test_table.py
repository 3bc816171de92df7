"""The table of faults: every kind has a test, and the test is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "what comes" not in line
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_a_row_says_what_happens_and_names_a_test_that_is_there(row):
    comes, happens, test = row
    assert comes
    assert re.match(r"(right|noted|refused)\b", happens), happens
    path, name = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", test).groups()
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), test


def test_no_kind_is_named_twice():
    assert len({row[0] for row in ROWS}) == len(ROWS)
