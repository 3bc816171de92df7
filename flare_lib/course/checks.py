"""What the course's exercises are checked by: a right function, a few cases, and the slips that people make.

A reader's function is called on every case. If its values are right, it is right, however it was written. If they are
those of a known slip, that slip's sentence is returned; otherwise, a sentence about the first case that differs.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from flare_lib.course.slips import CHECKS


def check(function: Callable[..., Any]) -> str:
    """Return "right", "no answer yet", or one sentence that helps; the exercise is found by the function's name.

    Raises nothing, whatever the function does or returns and whatever its name is.
    """
    if not callable(function):
        return f"a function must be given, without calling it, got {type(function).__name__}"
    name = getattr(function, "__name__", type(function).__name__)
    if name not in CHECKS:
        return f"not yet: the function keeps the name it had in the exercise ({', '.join(CHECKS)}), got {name}"
    exercise = CHECKS[name]
    expected = [exercise.right(*case) for case in exercise.cases]
    answers: list[Any] = []
    for case in exercise.cases:
        try:
            with np.errstate(all="ignore"):
                answers.append(function(*copy.deepcopy(case)))
        except NotImplementedError:
            return "no answer yet"
        except (Exception, SystemExit) as error:  # whatever a reader's code may raise
            return f"not yet: for {_words(case)} it stops with {type(error).__name__}: {error}"
    if all(map(_same, answers, expected)):
        return "right"
    for sentence, slip in exercise.slips.items():
        with np.errstate(all="ignore"):
            if all(map(_same, answers, [slip(*case) for case in exercise.cases])):
                return f"not yet: {sentence}"
    return next(
        f"not yet: {_difference(case, answer, right)}"
        for case, answer, right in zip(exercise.cases, answers, expected, strict=True)
        if not _same(answer, right)
    )


def _numbers(answer: Any) -> np.ndarray | None:
    """Return an answer as numbers (booleans count as 0 and 1), or None if it is something else."""
    try:
        values = np.asarray(answer.detach() if hasattr(answer, "detach") else answer)
    except Exception:  # ragged lists, for example; an answer may be any object
        return None
    return values.astype(float) if values.dtype.kind in "biuf" else None


def _same(answer: Any, right: Any) -> bool:
    values, expected = _numbers(answer), np.asarray(right, float)
    return (
        values is not None
        and values.shape == expected.shape
        and np.allclose(values, expected, rtol=1e-4, atol=1e-6, equal_nan=True)
    )


def _difference(case: tuple, answer: Any, right: Any) -> str:
    """Say how an answer differs from the right one, for the first case in which it does."""
    values, expected = _numbers(answer), np.asarray(right, float)
    form = "one number" if expected.ndim == 0 else f"{' x '.join(map(str, expected.shape))} numbers"
    form = "True or False" if isinstance(right, (bool, np.bool)) else form
    if answer is None:
        return f"it must return {form}, and returns nothing: is `return` missing?"
    if values is None:
        return f"it must return {form}, got {type(answer).__name__}"
    if values.shape != expected.shape:
        return f"for {_words(case)} it must return {form}, got the shape {values.shape}"
    return f"for {_words(case)} it must return {_words((right,))}, got {_words((answer,))}"


def _words(case: tuple) -> str:
    """Return arguments as they may stand in a sentence: short arrays in full, long ones by shape, masks by size.

    Six decimals show every difference that counts, and no error of rounding.
    """
    words = []
    for value in case:
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
        if array.size > 12 and array.dtype.kind == "b":
            words.append(f"a mask of {array.sum()} voxels in {' x '.join(map(str, array.shape))}")
        elif array.size > 12:
            words.append(f"an array of shape {array.shape}")
        else:
            words.append(str((np.round(array, 6) if array.dtype.kind in "iuf" else array).tolist()))
    return ", ".join(words)
