"""Settings as they are typed."""

import pytest

from flare_lib.commands.settings import parse_setting


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n_steps=3", ("n_steps", 3)),
        ("rate=1e-3", ("rate", 0.001)),
        ("full=True", ("full", True)),
        ("patch=(1, 2, 3)", ("patch", (1, 2, 3))),
        ("path=a/b=c.nii", ("path", "a/b=c.nii")),
        ("name=", ("name", "")),
    ],
)
def test_a_parameter_is_a_python_literal_or_text(text, expected):
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["n_steps", "=3", "n steps=3"])
def test_a_parameter_without_a_name_or_a_value_is_refused(text):
    with pytest.raises(ValueError, match="must be written name=value, got "):
        parse_setting(text)
