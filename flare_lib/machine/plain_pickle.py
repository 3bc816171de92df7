"""Pickles read as data: containers, text, numbers and NumPy's arrays of numbers; what could run code is refused.

A pickle is a program for a small machine, and its only dangerous instructions fetch and call what it names. Here it may
name the few things below, which build values and do nothing else. Of NumPy's types only those of numbers are among
them: a pickle may alter any other, and have an array's bytes taken for addresses.

Reference: https://docs.python.org/3/library/pickle.html#restricting-globals
"""

import _codecs
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

_LONGEST = 80  # characters of a stranger's name that are told


def read_pickle(path: str | Path) -> Any:
    """Return what a pickle holds, if it is made of plain values and NumPy's numbers and arrays of them.

    Nothing that it names is imported or called. Raises OSError, or ValueError, in one line, for a pickle that holds
    anything else (the first such name is told) and for a file that is none, damaged or empty.
    """
    with Path(path).open("rb") as file:
        try:
            return _Plain(file).load()
        except _StrangerError as error:
            raise ValueError(f"{path} must hold plain values alone, got {error}, which could run code") from None
        except Exception as error:  # a damaged pickle fails in as many ways as there are instructions
            raise ValueError(f"{path} must be a whole pickle, got {type(error).__name__}: {error}") from error


class Array(np.ndarray):
    """An array as a pickle begins it: empty, until it is told its type, shape and values.

    It takes no arguments: NumPy's own would take a buffer of bytes for the addresses of objects.
    """

    def __new__(cls) -> "Array":
        """Return an array of no bytes."""
        return super().__new__(cls, (0,), np.int8)


def _begin_array(*_kind_shape_type: object) -> Array:
    return Array()


def numpy_builders() -> dict[str, Callable]:
    """Return what rebuilds NumPy's numbers and arrays, {full name: function}, as NumPy 1 and NumPy 2 write it."""
    scalar = cast(Callable, np.float64(0).__reduce__()[0])
    builders: dict[str, Callable] = {"numpy.ndarray": Array}
    for core in ("core", "_core"):
        builders |= {f"numpy.{core}.multiarray.{n}": f for n, f in (("scalar", scalar), ("_reconstruct", _begin_array))}
    return builders


class _StrangerError(Exception):
    """A name that is not among the known ones."""


def _number_type(name: Any, *_how: object) -> np.dtype:
    """Return NumPy's own type of a kind of number, which stays as it is whatever a pickle says of it afterwards."""
    kind = np.dtype(name)
    if kind.kind not in "biufc" or kind.isbuiltin != 1:
        raise _StrangerError(f"NumPy's type {ascii(name)[:_LONGEST]}")
    return kind


class _Plain(pickle.Unpickler):
    _known: dict[str, Any] = numpy_builders() | {
        "numpy.dtype": _number_type,
        "collections.OrderedDict": OrderedDict,
        # bytes and sets as the oldest protocols write them
        "_codecs.encode": _codecs.encode,
        **{
            f"{builtins}.{kind.__name__}": kind for builtins in ("builtins", "__builtin__") for kind in (set, frozenset)
        },
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return a known thing; it is here that an ordinary unpickler would import."""
        full = f"{module}.{name}"
        if full not in self._known:
            raise _StrangerError(ascii(full[:_LONGEST]).strip("'\""))
        return self._known[full]
