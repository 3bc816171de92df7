"""Settings as they are typed: name=value."""

import ast
from pathlib import Path
from typing import Any

_PLACES = ("_path", "_file", "_folder")  # how the names of paths end


def parse_setting(text: str) -> tuple[str, Any]:
    """Split "name=value"; the value is read as a Python literal (3, 0.5, True, None, (1, 2)) or else stays text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"a setting must be written name=value, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def seen_from_here(setting: tuple[str, Any]) -> tuple[str, Any]:
    """Return a setting whose path, if it is one, leads from where the command was typed: it may be read elsewhere."""
    name, value = setting
    return name, str(Path(value).absolute()) if value and isinstance(value, str) and name.endswith(_PLACES) else value
