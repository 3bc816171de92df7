"""Checks: a wrong answer is met with a sentence that helps, and nothing that is returned crashes."""

import numpy as np
import pytest

from flare_lib.course import solutions
from flare_lib.course.checks import CHECKS, check

every_exercise = pytest.mark.parametrize("name", CHECKS)


def named(name, function):
    """Return a function that a reader may have written, under the exercise's name."""

    def answer(*args):
        return function(*args)

    answer.__name__ = name
    return answer


@every_exercise
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda *args: None, "returns nothing: is `return` missing?"),
        (lambda *args: "3.84", "got str"),
        (lambda *args: {"answer": 1}, "got dict"),
        (lambda *args: [[1, 2], [3]], "got list"),
        (lambda *args: np.zeros((7, 5, 3)), "got the shape (7, 5, 3)"),
        (lambda *args: args[0].nothing, "it stops with AttributeError"),
        (lambda: 3, "it stops with TypeError"),
    ],
)
def test_answers_of_a_wrong_kind_are_met_with_a_sentence(name, wrong, words):
    said = check(named(name, wrong))
    assert said.startswith("not yet: ")
    assert words in said


@every_exercise
def test_a_reader_may_change_what_the_function_is_given(name):
    def greedy(*args):
        right = getattr(solutions, name)(*args)
        for value in args:
            if isinstance(value, np.ndarray):
                value[...] = 0
        return right

    assert check(named(name, greedy)) == "right"


def test_what_is_not_written_yet_is_no_mistake():
    def volume_ml(label_map_zyx, organ_id, spacing_zyx_mm):
        raise NotImplementedError

    assert check(volume_ml) == "no answer yet"


def test_other_wrong_values_are_shown_beside_the_right_ones():
    assert check(named("paired_difference", lambda a, b: (0, 0))) == (
        "not yet: for [0.72, 0.76, 0.68], [0.7, 0.74, 0.66] it must return [0.02, 0.0], got [0.0, 0.0]"
    )
    assert "an array of shape (3, 4, 5)" in check(named("volume_ml", lambda *args: 7.0))


def test_a_result_in_place_of_a_function_is_named():
    assert check(3.84) == "a function must be given, without calling it, got float"
    with pytest.raises(ValueError, match=r"must be one of volume_ml, .*, got <lambda>"):
        check(lambda: 3)
