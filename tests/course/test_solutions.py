"""Solutions: each is right, and each belongs to an exercise."""

import inspect

import pytest

from flare_lib.course import solutions
from flare_lib.course.checks import check
from flare_lib.course.slips import CHECKS


@pytest.mark.parametrize("name", CHECKS)
def test_the_solution_is_right(name):
    assert check(getattr(solutions, name)) == "right"
    assert CHECKS[name].right is getattr(solutions, name)


def test_every_solution_has_an_exercise():
    functions = [name for name, value in vars(solutions).items() if inspect.isfunction(value)]
    assert sorted(functions) == sorted(CHECKS)
