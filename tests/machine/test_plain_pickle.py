"""Pickles read as data: the same values, or one line and nothing run."""

import copyreg
import os
import pickle
import re
from collections import OrderedDict

import numpy as np
import pytest

from flare_lib.machine.plain_pickle import read_pickle


def pickled(path, content, protocol=pickle.DEFAULT_PROTOCOL):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_plain_values_and_numpys_come_back_as_they_were(tmp_path, protocol):
    plans = OrderedDict(
        stages={0: {"spacing": np.array([2.5, 0.7, 0.8]), "patch": np.array([[3, 4], [5, 6]], np.int16)}},
        mean=np.float64(77.5),
        flags=(True, None, b"\x00\xff", {1, 2}),
        names=["größe", "x"],
    )
    read = read_pickle(pickled(tmp_path / "plans.pkl", plans, protocol))
    assert type(read) is OrderedDict
    assert (read["mean"], read["flags"], read["names"]) == (77.5, (True, None, b"\x00\xff", {1, 2}), ["größe", "x"])
    for name in ("spacing", "patch"):
        array = read["stages"][0][name]
        np.testing.assert_array_equal(array, plans["stages"][0][name], strict=True)


def test_numpy_1s_names_are_known(tmp_path):
    content = pickle.dumps(np.arange(4.0), 2).replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "old.pkl").write_bytes(content)
    np.testing.assert_array_equal(read_pickle(tmp_path / "old.pkl"), [0.0, 1.0, 2.0, 3.0])


class Runs:
    """An object whose pickle calls a function with one argument."""

    def __init__(self, function, argument):
        self.how = function, (argument,)

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, np.load])
def test_what_could_run_code_is_refused_and_does_not(tmp_path, protocol, function):
    gone = tmp_path / "ran"
    hidden = {"plans": OrderedDict(a=[1, (Runs(function, f"open({str(gone)!r}, 'w')"),)])}
    path = pickled(tmp_path / "plans.pkl", hidden, protocol)
    named = r"(posix|nt|builtins|__builtin__|numpy[\w.]*)\." + function.__name__
    with pytest.raises(
        ValueError, match=rf"plans\.pkl must hold plain values alone, got {named}, which could run code$"
    ):
        read_pickle(path)
    assert not gone.exists()


class Forged:
    """An array of one object whose type says that it holds none: its 8 bytes are an address of the pickle's choice."""

    def __reduce__(self):
        rebuild, start, _ = np.empty(0).__reduce__()
        return rebuild, start, (1, (1,), ForgedType(), False, b"AAAAAAAA")


class ForgedType:
    def __reduce__(self):
        *state, _flags = np.dtype([("a", "O")]).__reduce__()[2]
        return np.dtype, ("V8", False, True), (*state, 0)


@pytest.mark.parametrize("content", [Forged(), np.array(["a"], object), np.array([(1, 2.0)], "i4,f8"), np.array(["a"])])
def test_arrays_of_anything_but_numbers_are_refused(tmp_path, content):
    path = pickled(tmp_path / "plans.pkl", [content], 2)
    with pytest.raises(ValueError, match=r"hold plain values alone, got NumPy's type '[VOU]\d+', which"):
        read_pickle(path)


class OnBytes:
    """An array of one object that lies where 8 bytes of the pickle say."""

    def __reduce__(self):
        return np.ndarray, ((1,), "O", b"AAAAAAAA")


def test_an_array_cannot_be_laid_on_bytes(tmp_path):
    with pytest.raises(ValueError, match=r"plans\.pkl must be a whole pickle, got TypeError: "):
        read_pickle(pickled(tmp_path / "plans.pkl", [OnBytes()], 2))


def test_a_type_of_numbers_cannot_be_altered(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"cnumpy\ndtype\n(S'f8'\nI00\nI01\ntR(I3\nS'<'\nNNNI-1\nI-1\nI63\ntb.")
    assert (read_pickle(path), read_pickle(path).flags) == (np.dtype("f8"), 0)


def test_other_ways_to_name_a_function_are_refused_as_well(tmp_path):
    # the oldest instruction for an instance, and a code of the extension registry
    (tmp_path / "a.pkl").write_bytes(b"(S'true'\nios\nsystem\n.")
    copyreg.add_extension("os", "system", 240)
    try:
        (tmp_path / "b.pkl").write_bytes(b"\x80\x02\x82\xf0X\x04\x00\x00\x00true\x85R.")
        for name in ("a.pkl", "b.pkl"):
            with pytest.raises(ValueError, match=r"got os\.system, which could run code"):
                read_pickle(tmp_path / name)
    finally:
        copyreg.remove_extension("os", "system", 240)


def test_a_name_that_would_paint_the_terminal_is_told_in_plain_letters(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"c\x1b[31mmodule\nname\n.")
    with pytest.raises(ValueError, match=re.escape(r"got \x1b[31mmodule.name,")):
        read_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2, 3])[:-4], b"\x80\x04P1\n."])
def test_what_is_no_whole_pickle_is_refused_by_name(tmp_path, content):
    (tmp_path / "plans.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"plans\.pkl must be a whole pickle, got \w+: "):
        read_pickle(tmp_path / "plans.pkl")


def test_a_file_that_is_not_there_is_told_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_pickle(tmp_path / "plans.pkl")
