"""A file that must hold a JSON object: read, or refused in one line that names it."""

import json
from pathlib import Path
from typing import Any


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds, in UTF-8 with or without a byte order mark.

    Raises OSError for a file that cannot be read, and ValueError for one that holds anything else.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(read).__name__}")
    return read
