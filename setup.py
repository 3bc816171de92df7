"""The long description of the package: README.md, readable away from the repository. All else is in pyproject.toml.

It runs on older versions of Python, too: pip can then say which ones the package is for.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent


def repository_address() -> str | None:
    """Return the repository's address from pyproject.toml; None as long as it has none."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Repository = "(.+)"$', project, re.MULTILINE)
    return found and found[1]


def long_description(readme: str, address: str | None) -> str:
    """Return a README whose relative links and pictures lead into the repository; without an address, with none.

    In that case a link becomes its text, and a picture is removed with its line. Links within the page itself stay.
    """
    relative = r"\((?!https?:|mailto:|#)([^)\s]+)\)"
    if address is None:
        readme = re.sub(rf"^!\[[^]]*\]{relative}\n\n?", "", readme, flags=re.MULTILINE)
        return re.sub(rf"(?<!!)\[([^]]+)\]{relative}", r"\1", readme)
    readme = re.sub(rf"!\[([^]]*)\]{relative}", rf"![\1]({address}/raw/main/\2)", readme)
    return re.sub(rf"(?<!!)\[([^]]+)\]{relative}", rf"[\1]({address}/blob/main/\2)", readme)


if __name__ == "__main__":
    from setuptools import setup

    setup(
        long_description=long_description((ROOT / "README.md").read_text(encoding="utf-8"), repository_address()),
        long_description_content_type="text/markdown",
    )
