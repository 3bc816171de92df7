"""The home folder, as it is written."""

import pytest

from flare_lib.machine.home_folder import at_home


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    return str(tmp_path / "home")


def test_a_tilde_alone_or_before_a_separator_is_the_home_folder(home):
    assert at_home("~") == home
    assert at_home("~/a/~") == f"{home}/a/~"
    for unchanged in ("", "a/~", "~name", "~name/a", "~.nii.gz"):
        assert at_home(unchanged) == unchanged


def test_what_is_there_is_meant(tmp_path, monkeypatch, home):
    (tmp_path / "in" / "~").mkdir(parents=True)
    assert at_home("~/a", tmp_path / "in") == f"{home}/a"
    (tmp_path / "in" / "~" / "a").touch()
    assert at_home("~/a", tmp_path / "in") == "~/a"
    assert at_home("~/a") == f"{home}/a"
    monkeypatch.chdir(tmp_path / "in")
    assert at_home("~/a") == "~/a"
