"""The `flare` command as a whole: its help, and one line with exit code 2 for a wrong command line."""

import subprocess
import sys

import pytest

import flare_lib
from flare_lib.cli import _help

COMMANDS = [
    "fetch",
    "info",
    "segment",
    "measure",
    "phantom",
    "evaluate",
    "profile",
    "check",
    "pseudo-label",
    "train",
    "notebooks",
    "editions",
]


def test_help_lists_the_commands_in_their_order_and_waits_for_no_library(flare):
    code, out, _ = flare()
    assert code == 0
    assert [words[1] for words in map(str.split, out) if words[1:] and words[1] in COMMANDS] == COMMANDS
    heavy = "import sys, flare_lib.cli; print({'torch', 'numpy', 'nibabel', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout == "set()\n"


def test_a_paragraph_of_help_is_one_line_that_the_screen_breaks():
    def command():
        """Do it.

        This goes on
        for two lines.

        And this.
        """

    assert _help(command) == "Do it.\n\nThis goes on for two lines.\n\nAnd this."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["measure"], "Missing argument 'ct'"),
        (["segment", "a.nii.gz"], "Missing option '--output'"),
        (["segment", "a.nii.gz", "-o", "b.nii.gz", "--margin-mm", "-1"], "--margin-mm"),
        (["phantom", "a.nii.gz", "b.nii.gz", "--spacing", "1", "2", "wide"], "--spacing"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(flare, arguments, message):
    code, out, err = flare(*arguments)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")
    assert message in err[0]


@pytest.mark.parametrize(
    "empty", [["", "-o", "out"], ["ct.nii.gz", "-o", ""], ["ct.nii.gz", "--output="], ["-o", "out", "--", ""]]
)
def test_an_empty_argument_is_not_taken_for_the_current_folder(flare, tmp_path, monkeypatch, empty):
    monkeypatch.chdir(tmp_path)
    said = "error: no argument may be empty, got an empty one (an unset variable?)"
    assert flare("segment", *empty) == (2, [], [said])
    assert list(tmp_path.iterdir()) == []
    assert flare("profile", "-o", "p.json", "--", sys.executable, "-c", "")[0] == 0  # another program's argument


def test_a_tilde_that_no_shell_has_seen_is_the_home_folder(flare, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    prints = [sys.executable, "-c", "import sys; sys.exit(sys.argv[1] != '~/x')", "~/x"]  # another program's argument
    assert flare("profile", "--output=~/a.json", "--", *prints)[0] == 0
    assert flare("profile", "-o~/b.json", "--figure", "~/b.svg", "--", *prints)[0] == 0
    assert sorted(path.name for path in (tmp_path / "home").glob("[!.]*")) == ["a.json", "b.json", "b.svg"]
    (tmp_path / "~").mkdir()
    assert flare("profile", "-o", "~/c.json", "--", *prints)[0] == 0  # what is there is meant


@pytest.mark.skipif(sys.platform == "win32", reason="there, a current folder cannot be removed")
def test_a_current_folder_that_has_been_removed_is_told(flare, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    said = "error: the current folder must exist, got one that has been removed"
    assert flare("info", "ct.nii.gz") == (2, [], [said])


def test_the_version_is_told(flare):
    assert flare("--version") == (0, [f"flare-lib {flare_lib.__version__}"], [])
