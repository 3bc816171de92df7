"""Settings as they are typed: name=value."""

import ast
from typing import Any


def parse_setting(text: str) -> tuple[str, Any]:
    """Split "name=value"; the value is read as a Python literal (3, 0.5, True, None, (1, 2)) or else stays text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"a setting must be written name=value, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
