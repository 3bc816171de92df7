"""Counts in messages: one of a thing is not several."""

import pytest

from flare_lib.machine.counted import counted, some_of


@pytest.mark.parametrize(("n", "said"), [(0, "0 cases"), (1, "1 case"), (3, "3 cases")])
def test_one_has_no_plural(n, said):
    assert counted(n, "case") == said


@pytest.mark.parametrize(
    ("texts", "said"), [("", ""), ("ab", "a, b"), ("abcde", "a, b, c, d, e"), ("abcdefg", "a, b, c, d, e and 2 more")]
)
def test_the_first_of_many_are_named(texts, said):
    assert some_of([*texts]) == said
