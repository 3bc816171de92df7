"""Sources: fetched once, checked by hash, kept, and an error in one line when they cannot be had."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from flare_lib.ct.files import load_ct, load_label_map, save_ct, save_label_map
from flare_lib.ct.volume import Volume
from flare_lib.data import sources
from flare_lib.data.archives import Archive, SourceUnavailable
from flare_lib.data.sources import Cache, SampleCase, cache_folder, fetch_sample, sample_or_phantom

SPACING_ZYX_MM = (3.0, 2.0, 1.5)
STRUCTURES_ZYX = np.zeros((2, 3, 4), np.uint8)
STRUCTURES_ZYX[0, 1, :3] = 5, 2, 79  # liver, right kidney, spinal cord
STRUCTURES_ZYX[1, 2, 3] = 63  # inferior vena cava
ORGANS_ZYX = np.zeros((2, 3, 4), np.uint8)
ORGANS_ZYX[0, 1, :2] = 1, 2
ORGANS_ZYX[1, 2, 3] = 6


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Index:
    """A package index in a folder: one archive with two small images, and how often it was asked for it."""

    def __init__(self, folder):
        self.downloads = 0
        ct = Volume.from_array(np.full((2, 3, 4), -1000, np.int16), SPACING_ZYX_MM)
        save_ct(folder / "ct.nii.gz", ct)
        save_label_map(folder / "structures.nii.gz", STRUCTURES_ZYX, ct)
        files = {
            "abdomen_ct.nii.gz": "ct.nii.gz",
            "abdomen_117_structures.nii.gz": "structures.nii.gz",
        }
        self.contents = {name: (folder / file).read_bytes() for name, file in files.items()}
        self.file = folder / "small-1.0.tar.gz"
        with tarfile.open(self.file, "w:gz") as tar:
            for name, content in self.contents.items():
                member = tarfile.TarInfo(f"small-1.0/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            tar.addfile(self._folder("small-1.0/empty"))
        members = {name: (f"small-1.0/{name}", sha256(content)) for name, content in self.contents.items()}
        self.archive = Archive("small", "1.0", sha256(self.file.read_bytes()), members)

    @staticmethod
    def _folder(name):
        member = tarfile.TarInfo(name)
        member.type = tarfile.DIRTYPE
        return member

    def download(self, archive, folder):
        self.downloads += 1
        copy = Path(folder) / self.file.name
        copy.write_bytes(self.file.read_bytes())
        return copy

    def moved(self, name, path, content=b""):
        """The same archive, with a member expected elsewhere, or with other content."""
        digest = sha256(content or self.contents[name])
        return replace(self.archive, members=self.archive.members | {name: (path, digest)})


@pytest.fixture
def index(tmp_path):
    (tmp_path / "index").mkdir()
    return Index(tmp_path / "index")


@pytest.fixture
def fetch(index, tmp_path):
    def get(get=fetch_sample, archive=index.archive, offline=False):
        return get(Cache(tmp_path / "cache", offline, archive, index.download))

    return get


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_sample_is_a_ct_and_the_13_organs_on_its_grid(fetch):
    case = fetch()
    ct, labels = load_ct(case.ct_path), load_label_map(case.label_map_path)
    np.testing.assert_array_equal(ct.array_zyx, -1000)
    np.testing.assert_array_equal(labels.array_zyx, ORGANS_ZYX)
    np.testing.assert_array_equal(labels.affine, ct.affine)
    assert labels.spacing_zyx_mm == SPACING_ZYX_MM
    assert "not accuracy" in case.about


def test_only_the_named_members_are_kept(fetch, tmp_path):
    fetch()
    assert files_in(tmp_path / "cache") == [
        "abdomen_117_structures.nii.gz",
        "abdomen_13_organs.nii.gz",
        "abdomen_ct.nii.gz",
    ]


def test_a_second_call_needs_no_download_and_changes_no_file(fetch, index):
    first = fetch()
    written = [path.stat().st_mtime_ns for path in (first.ct_path, first.label_map_path)]
    assert fetch(offline=True) == first
    assert index.downloads == 1
    assert [path.stat().st_mtime_ns for path in (first.ct_path, first.label_map_path)] == written


@pytest.mark.parametrize("damaged", ["abdomen_ct.nii.gz", "abdomen_117_structures.nii.gz"])
def test_a_damaged_file_in_the_cache_is_fetched_again(fetch, index, damaged):
    path = fetch().ct_path.with_name(damaged)
    path.write_bytes(path.read_bytes()[:-1])
    fetch()
    assert index.downloads == 2
    assert path.read_bytes() == index.contents[damaged]


def test_a_damaged_label_map_is_made_again_without_a_download(fetch, index):
    case = fetch()
    case.label_map_path.write_bytes(b"not a label map")
    fetch(offline=True)
    np.testing.assert_array_equal(load_label_map(case.label_map_path).array_zyx, ORGANS_ZYX)


def test_a_file_that_is_asked_for_comes_alone(fetch, index, tmp_path):
    [path] = fetch(lambda cache: cache.get("abdomen_ct.nii.gz"))
    assert path.read_bytes() == index.contents["abdomen_ct.nii.gz"]
    assert files_in(tmp_path / "cache") == ["abdomen_ct.nii.gz"]


def test_offline_with_an_empty_cache_is_an_error_that_leaves_nothing(fetch, tmp_path):
    with pytest.raises(
        SourceUnavailable, match=r"small 1\.0 could not be fetched with pip: .*small-1\.0 is missing or damaged"
    ):
        fetch(offline=True)
    assert not (tmp_path / "cache").exists()


def test_an_archive_of_another_hash_is_refused(fetch, index, tmp_path):
    with pytest.raises(SourceUnavailable, match="must have sha256 0000, got " + index.archive.sha256):
        fetch(archive=replace(index.archive, sha256="0000"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_member_of_another_hash_is_refused(fetch, index, tmp_path):
    name = "abdomen_ct.nii.gz"
    with pytest.raises(SourceUnavailable, match=rf"{name} must have sha256 {sha256(b'other')}, got "):
        fetch(archive=index.moved(name, f"small-1.0/{name}", b"other"))
    assert files_in(tmp_path / "cache") == []


def test_a_missing_member_and_a_folder_in_its_place_are_refused(fetch, index):
    with pytest.raises(SourceUnavailable, match=r"small-1\.0/no is missing from it"):
        fetch(archive=index.moved("abdomen_ct.nii.gz", "small-1.0/no"))
    with pytest.raises(SourceUnavailable, match=r"small-1\.0/empty must be a file"):
        fetch(archive=index.moved("abdomen_ct.nii.gz", "small-1.0/empty"))


def test_a_file_that_is_no_archive_is_refused(fetch, index):
    index.file.write_bytes(b"<html>log in first</html>")
    with pytest.raises(SourceUnavailable, match="file could not be opened successfully"):
        fetch(archive=replace(index.archive, sha256=sha256(index.file.read_bytes())))


def test_a_damaged_archive_is_refused(fetch, index):
    whole = index.file.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], whole[:middle] + bytes(100) + whole[middle + 100 :]):
        index.file.write_bytes(damaged)
        with pytest.raises(SourceUnavailable, match=r"small 1\.0 could not be fetched with pip: "):
            fetch(archive=replace(index.archive, sha256=sha256(damaged)))


def test_a_cache_that_cannot_be_written_is_an_error_in_one_line(index, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SourceUnavailable, match=r"small 1\.0 could not be fetched with pip: ") as raised:
        fetch_sample(Cache(tmp_path / "file", archive=index.archive, download=index.download))
    assert "\n" not in str(raised.value)


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("FLARE_LIB_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


@pytest.mark.parametrize(("chosen", "got"), [("", "none"), ("~nobody-of-that-name/cache", "~nobody")])
def test_a_user_without_a_home_is_asked_for_a_cache_folder(monkeypatch, chosen, got):
    def no_home(*_names, **_how):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setenv("FLARE_LIB_CACHE", chosen)
    monkeypatch.setattr(platformdirs, "user_cache_path", no_home)
    with pytest.raises(ValueError, match=f"FLARE_LIB_CACHE must name a folder for fetched data, got {got}"):
        cache_folder()


def test_the_cache_folder_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.delenv("FLARE_LIB_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name, appauthor: tmp_path / f"{appauthor}" / name)
    assert cache_folder() == tmp_path / "False" / "flare-lib"


def test_without_a_network_a_phantom_takes_its_place_and_is_kept(fetch, tmp_path, monkeypatch):
    made = []

    def phantom_case(seed):
        made.append(seed)
        ct = Volume.from_array(np.full((2, 3, 4), -900, np.int16), SPACING_ZYX_MM)
        return ct, ct.with_array(ORGANS_ZYX)

    monkeypatch.setattr(sources, "phantom_case", phantom_case)
    for _ in range(2):
        case = fetch(sample_or_phantom, offline=True)
        np.testing.assert_array_equal(load_ct(case.ct_path).array_zyx, -900)
        np.testing.assert_array_equal(load_label_map(case.label_map_path).array_zyx, ORGANS_ZYX)
        assert "in place of the real one (small 1.0 could not be fetched with pip" in case.about
    assert made == [0]
    assert fetch(sample_or_phantom) == fetch()


def test_copies_are_written_once_and_replace_nobodys_files(fetch, tmp_path):
    case = fetch()
    copy = case.copy_to(tmp_path / "new" / "folder")
    assert copy == SampleCase(tmp_path / "new/folder/ct.nii.gz", tmp_path / "new/folder/reference.nii.gz", case.about)
    assert copy.ct_path.read_bytes() == case.ct_path.read_bytes()
    assert copy.label_map_path.read_bytes() == case.label_map_path.read_bytes()
    written = copy.ct_path.stat().st_mtime_ns
    copy.label_map_path.unlink()
    case.copy_to(tmp_path / "new" / "folder")
    assert copy.ct_path.stat().st_mtime_ns == written
    assert copy.label_map_path.read_bytes() == case.label_map_path.read_bytes()
    copy.label_map_path.write_bytes(b"somebody's own")
    copy.ct_path.unlink()
    with pytest.raises(ValueError, match=r"must hold no other reference\.nii\.gz, got .* \(move or remove it\)"):
        case.copy_to(tmp_path / "new" / "folder")
    assert copy.label_map_path.read_bytes() == b"somebody's own"
    assert not copy.ct_path.exists()  # both or none
    case.copy_to(tmp_path / "new" / "folder", replaces=[copy.label_map_path])  # as if it were our own phantom
    assert copy.label_map_path.read_bytes() == case.label_map_path.read_bytes()
