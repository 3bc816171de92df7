"""A notebook's file: every damage is one line with the file's name."""

import pytest

from flare_lib.course.editions import write_editions
from flare_lib.course.execution import run_notebooks
from flare_lib.course.notebook_file import read_notebook

WHOLE = '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}'


@pytest.mark.parametrize(
    "content",
    ["", "hello", "[]", "{}", WHOLE.replace("[]", "null"), WHOLE.replace("[]", '["x"]'), WHOLE.replace("4,", "9,", 1)],
)
def test_what_is_no_notebook_is_refused_by_name(tmp_path, content):
    path = tmp_path / "course" / "00_a.ipynb"
    path.parent.mkdir()
    path.write_text(content)
    for read in (read_notebook, lambda path: run_notebooks([path], tmp_path / "out")):
        with pytest.raises(
            ValueError, match=r"00_a\.ipynb must be a whole notebook, got one that cannot be read"
        ) as said:
            read(path)
        assert "\n" not in str(said.value)
    with pytest.raises(ValueError, match=r"00_a\.ipynb must be a whole notebook"):
        write_editions(path.parent)
    assert [p.name for p in tmp_path.iterdir()] == ["course"]


def test_what_is_missing_and_what_is_whole(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_notebook(tmp_path / "none.ipynb")
    (tmp_path / "00.ipynb").write_text(WHOLE)
    assert read_notebook(tmp_path / "00.ipynb").cells == []
