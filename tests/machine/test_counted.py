"""Counts in messages: one of a thing is not several."""

import pytest

from flare_lib.machine.counted import counted


@pytest.mark.parametrize(("n", "said"), [(0, "0 cases"), (1, "1 case"), (3, "3 cases")])
def test_one_has_no_plural(n, said):
    assert counted(n, "case") == said
