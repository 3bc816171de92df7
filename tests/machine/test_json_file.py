"""JSON objects: read as they were written, anything else refused by name."""

import re

import pytest

from flare_lib.machine.json_file import read_json_object


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_an_object_is_read_with_or_without_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "a.json").write_text('{"Größe": [1, 2.5, null]}', encoding=encoding)
    assert read_json_object(tmp_path / "a.json") == {"Größe": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1, 2]", "must hold a JSON object, got a list"),
        (b"null", "must hold a JSON object, got a NoneType"),
        (b'{"a": 1', "must be JSON, got Expecting"),
        (b"", "must be JSON, got Expecting value"),
        (b"\xff{}", "must be JSON, got 'utf-8' codec"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} {said}')}"):
        read_json_object(path)
