"""Settings as they are typed."""

import pytest

from flare_lib.commands.settings import parse_setting, seen_from_here


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n_steps=3", ("n_steps", 3)),
        ("rate=1e-3", ("rate", 0.001)),
        ("full=True", ("full", True)),
        ("patch=(1, 2, 3)", ("patch", (1, 2, 3))),
        ("path=a/b=c.nii", ("path", "a/b=c.nii")),
        ("name=", ("name", "")),
        ("pattern={[a-c]: x}", ("pattern", "{[a-c]: x}")),
        ("pattern={[1]: 2}", ("pattern", "{[1]: 2}")),
    ],
)
def test_a_parameter_is_a_python_literal_or_text(text, expected):
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["n_steps", "=3", "n steps=3"])
def test_a_parameter_without_a_name_or_a_value_is_refused(text):
    with pytest.raises(ValueError, match="must be written name=value, got "):
        parse_setting(text)


def test_paths_lead_from_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert seen_from_here(("ct_path", "a/ct.nii.gz")) == ("ct_path", str(tmp_path / "a" / "ct.nii.gz"))
    assert seen_from_here(("output_folder", "/out")) == ("output_folder", "/out")
    assert seen_from_here(("ct_path", "link/../ct.nii")) == ("ct_path", str(tmp_path / "link" / ".." / "ct.nii"))
    (tmp_path / "~").mkdir()
    assert seen_from_here(("output_folder", "~")) == ("output_folder", str(tmp_path / "~"))  # what is there is meant
    for unchanged in (("ct_path", ""), ("kind", "kl"), ("n_steps", 3), ("results_file", None)):
        assert seen_from_here(unchanged) == unchanged
