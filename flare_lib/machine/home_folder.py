"""Paths as people write them: `~` is the home folder, unless something of that very name is there."""

import os
import re

_HOME = re.compile(r"~(?=$|/|\\)" if os.name == "nt" else r"~(?=$|/)")


def at_home(written: str, folder: str | os.PathLike = "") -> str:
    """Return a path with a leading `~` as the home folder; as it is written if it leads somewhere from `folder`.

    `folder`: where a relative path begins; by default, the current one. Only a `~` alone or before a separator is the
    home folder: another user's, `~name`, is not the same everywhere.
    """
    if not _HOME.match(written) or os.path.lexists(os.path.join(folder, written)):
        return written
    return os.path.expanduser(written)
