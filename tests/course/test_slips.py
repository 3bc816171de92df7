"""Slips: each exercise knows at least four, and each is recognised by its values."""

import pytest

from flare_lib.course.checks import check
from flare_lib.course.slips import SLIPS


@pytest.mark.parametrize("name", SLIPS)
def test_every_slip_is_met_with_its_sentence(name):
    slips = SLIPS[name]
    assert len(slips) >= 4
    for sentence, slip in slips.items():

        def answer(*args, slip=slip):
            return slip(*args)

        answer.__name__ = name
        assert check(answer) == f"not yet: {sentence}"
