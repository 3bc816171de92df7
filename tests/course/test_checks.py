"""Checks: a wrong answer is met with a sentence that helps, and nothing that is returned crashes."""

import functools

import numpy as np
import pytest
import torch

from flare_lib.course import solutions
from flare_lib.course.checks import CASES, check

every_exercise = pytest.mark.parametrize("name", CASES)


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
        "not yet: for [0.72, 0.76, 0.68], [0.7, 0.74, 0.66] it must return [0.02, 0.0], got [0, 0]"
    )
    small = check(named("flare_dsc", lambda p, r: (2 * (p & r).sum() + 1e-5) / (p.sum() + r.sum() + 1e-5)))
    assert small.endswith("it must return 0.0, got 1e-06")  # not "got 0.0"
    assert "an array of shape (3, 4, 5)" in check(named("volume_ml", lambda *args: 7.0))


def test_a_result_in_place_of_a_function_is_named():
    assert check(3.84) == "a function must be given, without calling it, got float"


@pytest.mark.parametrize("function", [lambda: 3, np.sin, functools.partial(solutions.volume_ml)])
def test_a_function_of_another_name_is_named(function):
    name = getattr(function, "__name__", "partial")
    assert check(function).endswith(f"keeps the name it had in the exercise ({', '.join(CASES)}), got {name}")


def test_true_or_false_is_asked_for_by_these_words():
    assert check(named("cut_by_border", lambda mask: None)).endswith(
        "must return True or False, and returns nothing: is `return` missing?"
    )
    n = int(CASES["cut_by_border"][0][0].sum())
    assert check(named("cut_by_border", lambda mask: mask.sum())) == (
        f"not yet: for a mask of {n} voxels in 4 x 3 x 3 it must return False, got {n}"
    )


def leave():
    raise SystemExit


class Odd:
    """What cannot become an array."""

    def __array__(self, *args, **kwargs):
        raise KeyError("odd")


@every_exercise
@pytest.mark.parametrize(
    "wrong",
    [
        lambda *args: Odd(),
        lambda *args: leave(),
        lambda *args: (value for value in args),
        lambda *args: np.nan,
        lambda *args: torch.tensor(2.5, requires_grad=True),
        lambda *args: (None, None),
        lambda *args: 1j,
    ],
)
def test_nothing_that_is_returned_or_raised_gets_through(name, wrong):
    assert check(named(name, wrong)).startswith("not yet: ")
