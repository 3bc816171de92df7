"""Settings as typed on the command line: name=value."""

import ast
from pathlib import Path
from typing import Any

from flare_lib.machine.home_folder import at_home

_PLACES = ("_path", "_file", "_folder")  # a setting whose name ends like this holds a path


def parse_setting(text: str) -> tuple[str, Any]:
    """Split "name=value"; read the value as a Python literal (3, 0.5, True, None, (1, 2)), or else as text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"a setting must be written name=value, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # whatever literal_eval raises for text
        return name, value


def seen_from_here(setting: tuple[str, Any]) -> tuple[str, Any]:
    """Make a setting's path absolute, if it holds one: it may be read from a folder other than the current one."""
    name, value = setting
    if value and isinstance(value, str) and name.endswith(_PLACES):
        return name, str(Path(at_home(value)).absolute())  # `..` is kept: it may follow a link
    return setting
