"""Packages that not everybody needs."""

import getpass
import importlib
import os
import sys
import types

import pytest

from flare_lib.machine.extras import MissingExtra, check_extra, extra


def test_a_missing_package_is_told_in_one_line_with_the_extra_that_brings_it():
    with (
        pytest.raises(
            MissingExtra, match=r"^no_such_package must be installed \(pip install 'flare-lib\[train\]'\), got"
        ) as raised,
        extra("train"),
    ):
        importlib.import_module("no_such_package")
    assert "\n" not in str(raised.value)


def test_a_package_that_is_there_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "such_a_package", types.ModuleType("such_a_package"))
    with extra("train"):
        such_a_package = importlib.import_module("such_a_package")
    assert such_a_package is sys.modules["such_a_package"]


@pytest.mark.parametrize("error", [ImportError, KeyError, OSError])  # on Windows, up to Python 3.12, and later
def test_a_package_may_ask_for_the_name_of_a_user_who_is_only_a_number(monkeypatch, error):
    def user():
        if name := os.environ.get("LOGNAME"):
            return name
        raise error("getpwuid(): uid not found: 4321")

    monkeypatch.setattr(getpass, "getuser", user)
    monkeypatch.setenv("LOGNAME", "sigrun")
    with extra("train"):
        assert getpass.getuser() == "sigrun"
    monkeypatch.delenv("LOGNAME")
    with extra("train"):
        assert getpass.getuser() == "nobody"


def test_a_package_that_cannot_be_loaded_keeps_its_own_error():
    with pytest.raises(ImportError, match=r"^its library is damaged$") as raised, extra("train"):
        raise ImportError("its library is damaged")
    assert not isinstance(raised.value, MissingExtra)


def test_long_work_can_ask_before_it_begins():
    check_extra("json", "train")
    with pytest.raises(MissingExtra, match=r"^no_such_package must be installed \(pip install 'flare-lib\[train\]'\)"):
        check_extra("no_such_package", "train")
