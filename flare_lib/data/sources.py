"""Real CTs for a fresh machine: fetched once (`archives`), kept in the cache, used offline after that.

The source archive of the TotalSegmentator package (Apache-2.0) contains example CTs for its own tests.
Reference: Wasserthal et al. 2023, "TotalSegmentator", doi 10.1148/ryai.230024. CTs without labels: `unlabelled`.
"""

import filecmp
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from flare_lib.ct.files import load_label_map, save_ct, save_label_map
from flare_lib.ct.labels import to_flare
from flare_lib.data.archives import Archive, Download, SourceUnavailable, check_sha256, pip_download, unavailable
from flare_lib.machine.atomic_write import atomic_write
from flare_lib.machine.failures import reason_of
from flare_lib.machine.fingerprint import sha256_of
from flare_lib.synthetic.phantom import phantom_case


@dataclass(frozen=True)
class SampleCase:
    """A CT with a label map of FLARE's organs on its grid, and one line saying where both come from."""

    ct_path: Path
    label_map_path: Path
    about: str

    def copy_to(self, folder: str | os.PathLike, *, replaces: Sequence[Path] = ()) -> "SampleCase":
        """Copy both to `folder` (created if missing) as ct.nii.gz and reference.nii.gz; an identical copy is kept.

        Copies of the files `replaces` are replaced. Raises ValueError, and copies nothing, if any other file has one of
        the two names: it may be somebody's CT.
        """
        folder = Path(folder)
        copies = SampleCase(folder / "ct.nii.gz", folder / "reference.nii.gz", self.about)
        pairs = (self.ct_path, copies.ct_path), (self.label_map_path, copies.label_map_path)
        to_write = [(source, copy) for source, copy in pairs if not _are_alike(source, copy)]
        for _, copy in to_write:
            if os.path.lexists(copy) and not any(_are_alike(file, copy) for file in replaces):
                raise ValueError(f"the sample's folder must hold no other {copy.name}, got {copy} (move or remove it)")
        folder.mkdir(parents=True, exist_ok=True)
        for source, copy in to_write:
            with atomic_write(copy) as unfinished:
                shutil.copyfile(source, unfinished)
        return copies


def _are_alike(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


_TESTS = "totalsegmentator-2.18.0/tests/reference_files"
TOTALSEGMENTATOR = Archive(
    package="totalsegmentator",
    version="2.18.0",
    sha256="5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
    members={
        "abdomen_ct.nii.gz": (
            f"{_TESTS}/example_ct.nii.gz",
            "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1",
        ),
        "abdomen_117_structures.nii.gz": (
            f"{_TESTS}/example_seg_fast_force_split.nii.gz",
            "e8097758e56e73099075b6caaebce23ef11bc6fad66a4ec3753b9406846558c7",
        ),
    },
)
ABOUT_SAMPLE = (
    "the example CT of TotalSegmentator 2.18.0 (Apache-2.0); its labels are the output of that package's 3 mm model, "
    "so agreement with them is not accuracy"
)


def cache_folder() -> Path:
    """Return where fetched data is kept: FLARE_LIB_CACHE, or else flare-lib in the user's cache folder.

    Raises ValueError for a user without a home, as containers have them, who has not set FLARE_LIB_CACHE.
    """
    chosen = os.environ.get("FLARE_LIB_CACHE")
    try:
        return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("flare-lib", appauthor=False)
    except RuntimeError as error:
        raise ValueError(
            f"without a home folder, FLARE_LIB_CACHE must name a folder for fetched data, got {chosen or 'none'}"
        ) from error


@dataclass(frozen=True)
class Cache:
    """Where fetched data is kept, and how it gets there.

    `folder`: default `cache_folder()`; `offline`: use only what is already there; `archive`, `download`: another source
    of the same files.
    """

    folder: str | os.PathLike | None = None
    offline: bool = False
    archive: Archive = TOTALSEGMENTATOR
    download: Download = pip_download

    @property
    def path(self) -> Path:
        """The cache folder."""
        return Path(self.folder or cache_folder())

    @property
    def phantom_paths(self) -> tuple[Path, Path]:
        """Where the CT and the labels of the phantom are kept that stands in for the sample."""
        return self.path / "phantom_ct.nii.gz", self.path / "phantom_13_organs.nii.gz"

    @contextmanager
    def fetched(self, below: str | os.PathLike, *, instead_of: Path) -> Iterator[Path]:
        """Fetch the archive into a temporary folder in `below` (created if missing), check its hash, give its path.

        `instead_of`: the path that was missing. A download, disk or archive that fails, also in what is done with it in
        the block, is raised as SourceUnavailable; nothing of the archive stays behind.
        """
        if self.offline:
            raise unavailable(self.archive, f"{instead_of} is missing or damaged, and fetching was not allowed")
        try:
            Path(below).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=below, prefix=".") as scratch:
                file = self.download(self.archive, Path(scratch))
                check_sha256(self.archive, file, self.archive.sha256, file.name)
                yield file
        except SourceUnavailable:
            raise
        except (OSError, ValueError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
            raise unavailable(self.archive, reason_of(error)) from error

    def get(self, *names: str) -> list[Path]:
        """Return the paths of some of the archive's members, fetching it if one is missing or damaged.

        Their hashes are checked on every call. Raises SourceUnavailable.
        """
        archive, folder = self.archive, self.path / f"{self.archive.package}-{self.archive.version}"
        paths = [folder / name for name in names]
        if all(path.is_file() and sha256_of(path) == archive.members[path.name][1] for path in paths):
            return paths
        with self.fetched(self.path, instead_of=folder) as file:
            _extract(archive, file, paths)
        return paths


def fetch_sample(cache: Cache | None = None) -> SampleCase:
    """Return the real sample: an abdominal CT at 3 mm and a label map of 12 organs (no esophagus).

    Fetched once (38 MB), then kept. The label map, uint8 on the CT's grid, is made from the archive's 117 structures.
    Raises SourceUnavailable.
    """
    ct_path, structures_path = (cache or Cache()).get("abdomen_ct.nii.gz", "abdomen_117_structures.nii.gz")
    structures = load_label_map(structures_path)
    organs = to_flare(structures.array_zyx, "totalsegmentator")
    label_map_path = ct_path.with_name("abdomen_13_organs.nii.gz")
    if not _holds(label_map_path, organs):
        save_label_map(label_map_path, organs, structures)
    return SampleCase(ct_path, label_map_path, ABOUT_SAMPLE)


def sample_or_phantom(cache: Cache | None = None) -> SampleCase:
    """Return the real sample or, if it is unavailable, a phantom in its place; `about` says which, and why.

    The phantom (seed 0) is made once and kept beside the cached data. Raises ValueError if the cache cannot be written
    either.
    """
    cache = cache or Cache()
    try:
        return fetch_sample(cache)
    except SourceUnavailable as reason:
        about = f"a phantom, a synthetic CT, in place of the real one ({reason})"
    case = SampleCase(*cache.phantom_paths, about)
    if not (case.ct_path.is_file() and case.label_map_path.is_file()):
        cache.path.mkdir(parents=True, exist_ok=True)
        ct, labels = phantom_case(0)
        save_ct(case.ct_path, ct)
        save_label_map(case.label_map_path, labels.array_zyx, ct)
    return case


def _extract(archive: Archive, file: Path, paths: Sequence[Path]) -> None:
    """Extract members of an archive to `paths`; each appears complete and with the right hash, or not at all."""
    with tarfile.open(file) as tar:
        for path in paths:
            member, sha256 = archive.members[path.name]
            try:
                content = tar.extractfile(member)
            except KeyError as error:
                raise unavailable(archive, f"{member} is missing from it") from error
            if content is None:
                raise unavailable(archive, f"{member} must be a file, got a folder or a device")
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path) as unfinished:
                unfinished.write_bytes(content.read())
                check_sha256(archive, unfinished, sha256, path.name)


def _holds(path: Path, label_map_zyx: np.ndarray) -> bool:
    """Return whether a file is a readable label map with exactly these labels."""
    try:
        return np.array_equal(load_label_map(path).array_zyx, label_map_zyx)
    except (OSError, ValueError):
        return False
