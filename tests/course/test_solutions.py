"""Solutions: each is right, and each belongs to an exercise."""

import inspect

import pytest

from flare_lib.course import solutions
from flare_lib.course.checks import CASES, check
from flare_lib.course.slips import SLIPS


@pytest.mark.parametrize("name", CASES)
def test_the_solution_is_right(name):
    assert check(getattr(solutions, name)) == "right"


def test_every_solution_has_an_exercise():
    functions = [name for name, value in vars(solutions).items() if inspect.isfunction(value)]
    assert sorted(functions) == sorted(CASES) == sorted(SLIPS)
