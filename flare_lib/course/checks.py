"""What the course's exercises are checked by: the right function, a few cases, and the slips that people make.

A reader's function is called on every case. If its values are right, it is right, however it was written. If they are
those of a known slip, that slip's sentence is returned; otherwise, a sentence about the first case that differs.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from flare_lib.course import solutions
from flare_lib.course.slips import SLIPS


def _label_map() -> np.ndarray:
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 1:3, 1:4], labels[2, 0, :2] = 3, 1
    return labels


_STRIDES = ((2, 2, 2), (2, 2, 2), (1, 2, 2))
_SQUARE, _SHIFTED = np.pad(np.ones((2, 4)), 2) > 0, np.roll(np.pad(np.ones((2, 4)), 2) > 0, 1, axis=1)
_EMPTY = np.zeros_like(_SQUARE)
_INSIDE = np.pad(np.ones((2, 2, 2)), ((1, 1), (0, 1), (1, 0))) > 0  # touches the sides, not the first and last slice

# {the exercise's function: the arguments of each call}; every slip gives other values than the right function
CASES: dict[str, tuple[tuple, ...]] = {
    "volume_ml": tuple((_label_map(), organ_id, (5.0, 0.8, 0.9)) for organ_id in (3, 1, 2)),
    "normalized": (
        (np.array([-1000.0, -100.0, 40.0, 60.0, 900.0]), -325.0, 325.0),
        (np.array([[0.0, 50.0], [400.0, 80.0]]), -100.0, 200.0),
    ),
    "head_shape": (((24, 32, 40), _STRIDES, 1), ((24, 32, 40), _STRIDES, 3), ((40, 48, 56), _STRIDES, 4)),
    "consistency": ((np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]]),), (np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]),)),
    "total_loss": ((2.0, 0.5, 0, 100), (1.5, 0.4, 50, 200), (0.9, 0.3, 100, 100), (0.6, 0.2, 250, 100)),
    "pooled_mean_sd": (
        (np.array([100, 300]), np.array([50.0, 90.0]), np.array([10.0, 20.0])),
        (np.array([5, 5, 90]), np.array([0.0, 10.0, 20.0]), np.array([1.0, 2.0, 3.0])),
    ),
    "averaged": (
        (np.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]), (0, 2), 5),
        (np.repeat([[1.0], [3.0], [8.0]], 3, axis=1), (0, 1, 2), 5),  # one voxel is seen three times
    ),
    "output_slab": (
        (np.array([0.0, 1.0, 4.0, 9.0]), 10, 3, 7),
        (np.array([2.0, 1.0, 5.0]), 6, 0, 3),
        (np.array([2.0, 1.0, 5.0]), 6, 3, 6),
    ),
    "flare_dsc": ((_SQUARE, _SHIFTED), (_SQUARE, _SQUARE), (_SQUARE, _EMPTY), (_EMPTY, _SQUARE), (_EMPTY, _EMPTY)),
    "paired_difference": (
        (np.array([0.72, 0.76, 0.68]), np.array([0.70, 0.74, 0.66])),
        (np.array([0.60, 0.70, 0.50]), np.array([0.50, 0.49, 0.62])),  # one seed says the opposite
    ),
    "cut_by_border": ((_INSIDE,), (_INSIDE[1:],), (_INSIDE[:-1],), (np.zeros((3, 4, 5), bool),)),
}


def check(function: Callable[..., Any]) -> str:
    """Return "right", "no answer yet", or one sentence that helps; the exercise is found by the function's name.

    Raises nothing, whatever the function does or returns and whatever its name is.
    """
    if not callable(function):
        return f"a function must be given, without calling it, got {type(function).__name__}"
    name = getattr(function, "__name__", type(function).__name__)
    if name not in CASES:
        return f"not yet: the function keeps the name it had in the exercise ({', '.join(CASES)}), got {name}"
    cases = CASES[name]
    expected = [getattr(solutions, name)(*case) for case in cases]
    answers: list[Any] = []
    for case in cases:
        try:
            with np.errstate(all="ignore"):
                answers.append(function(*copy.deepcopy(case)))
        except NotImplementedError:
            return "no answer yet"
        except (Exception, SystemExit) as error:  # whatever a reader's code may raise
            return f"not yet: for {_words(case)} it stops with {type(error).__name__}: {error}"
    if all(map(_same, answers, expected)):
        return "right"
    for sentence, slip in SLIPS[name].items():
        with np.errstate(all="ignore"):
            if all(map(_same, answers, [slip(*case) for case in cases])):
                return f"not yet: {sentence}"
    return next(
        f"not yet: {_difference(case, answer, right)}"
        for case, answer, right in zip(cases, answers, expected, strict=True)
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
