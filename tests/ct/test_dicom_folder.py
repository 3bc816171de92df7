"""Where DICOM files lie: below folders, in archives, on discs with an index."""

import re
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from dicoms import HU, SERIES, N, a_slice, disc, headers_in, set_elements, write, write_series, zipped
from pydicom import Dataset, dcmread, uid
from series import CAPTURE, REPORT, SCOUT

from flare_lib.ct.dicom_folder import read_files
from flare_lib.ct.dicom_series import find_series
from flare_lib.ct.files import load_ct
from flare_lib.ct.volume import to_file_axes

DISC = Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests"


def hu_of(path):
    volume = load_ct(path)
    return to_file_axes(volume.array_zyx, volume.grid).T


def spread(folder):
    """Write a series with no suffixes, a slice or two to a folder, below one another."""
    write_series(folder)
    for k, place in enumerate(["A", "A/B", "A/B", "C", "C/D"]):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / f"{k:03}.dcm").rename(folder / place / f"IM{k}")
    return folder


def test_a_series_spread_over_folders_is_one(tmp_path):
    np.testing.assert_array_equal(hu_of(spread(tmp_path)), HU)


def test_links_are_followed_once(tmp_path):
    write_series(tmp_path / "elsewhere")
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "slices").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "ct")
    assert len(headers_in(tmp_path / "ct")) == N


def test_an_archive_is_read_like_the_folder_in_it(tmp_path):
    archive = zipped(spread(tmp_path / "ct"), tmp_path / "ct.zip")
    shutil.rmtree(tmp_path / "ct")
    np.testing.assert_array_equal(hu_of(archive), HU)
    np.testing.assert_array_equal(hu_of(tmp_path), HU)  # also below a folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct.zip"]


def test_archives_as_windows_and_macos_pack_them_are_read(tmp_path):
    write_series(tmp_path / "ct")
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as windows, zipfile.ZipFile(tmp_path / "mac.zip", "w") as mac:
        for path in sorted((tmp_path / "ct").iterdir()):
            windows.write(path, f"study\\series\\{path.name}")
            mac.write(path, f"Größe 影/{path.name}")
            mac.writestr(f"__MACOSX/Größe 影/._{path.name}", b"\0\5\x16\7" + bytes(100))
    np.testing.assert_array_equal(hu_of(tmp_path / "windows.zip"), HU)
    np.testing.assert_array_equal(hu_of(tmp_path / "mac.zip"), HU)


def test_a_damaged_member_of_an_archive_is_refused_by_name(tmp_path):
    write_series(tmp_path / "ct")
    archive = tmp_path / "ct.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted((tmp_path / "ct").iterdir()):
            packed.write(path, path.name)
    whole = bytearray(archive.read_bytes())
    at = whole.rindex((HU[4] + 1024).astype("<u2").tobytes())
    whole[at + 6] ^= 1  # one bit of one voxel
    archive.write_bytes(whole)
    with pytest.raises(ValueError, match=r"ct\.zip/004\.dcm must "):
        load_ct(archive)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda whole: whole[:-300], "must be a complete .zip archive"),
        (lambda whole: b"", "must be a complete .zip archive"),
        (lambda whole: whole.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"), "without a password"),
        (
            lambda whole: re.sub(rb"(PK(\x01\x02..|\x03\x04)..\0\0)\x08", rb"\1\t", whole, flags=re.DOTALL),
            "must be packed by deflate",
        ),
    ],
)
def test_an_archive_that_cannot_be_read_is_refused(tmp_path, spoil, said):
    archive = zipped(write_series(tmp_path / "ct"), tmp_path / "ct.zip")
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(ValueError, match=said):
        load_ct(archive)
    write_series(tmp_path)
    shutil.rmtree(tmp_path / "ct")
    with pytest.raises(ValueError, match=said):  # beside a series it may hold some of its slices
        load_ct(tmp_path)


def test_an_archive_within_an_archive_is_refused(tmp_path):
    zipped(write_series(tmp_path / "ct"), tmp_path / "ct" / "again.zip")
    archive = zipped(tmp_path / "ct", tmp_path / "both.zip")
    with pytest.raises(ValueError, match=r"again\.zip must be unpacked first, got an archive within an archive"):
        load_ct(archive)


def test_a_disc_is_listed_by_its_folder_or_its_index(tmp_path):
    """pydicom's own: three persons of four studies, among them a gated CT with its scout, and a brain in pieces."""
    found = {series.name: series for series in find_series(DISC)}
    assert [series.name for series in find_series(DISC / "DICOMDIR")] == list(found)
    assert len(found) == 14
    gated = found["1.3.6.1.4.1.5962.1.1.0.0.0.1194734704.16302.0.6"]
    assert str(gated).startswith("SmartScore - Gated 0.5 sec: CT (CT Image), 5 slices of 2.5 x 0.4883 x 0.4883 mm")
    assert (gated.kernel, gated.against) == ("STANDARD", None)
    volume = load_ct(DISC / "98892001")
    assert volume.shape_zyx == (5, 16, 16)
    assert volume.notes[0].startswith("passed over beside this series: Scout: CT (CT Image), a scout, 2 files, 1.3.6.1")


def test_a_slice_that_an_index_lists_and_that_is_not_there_is_missed(tmp_path):
    copy = tmp_path / "disc"
    shutil.copytree(DISC, copy)
    assert not [s for s in find_series(copy) if "DICOMDIR" in (s.against or "")]
    gone = sorted(path for path in (copy / "77654033" / "CT2").iterdir())[-1]
    gone.unlink()
    missed = [s for s in find_series(copy) if "DICOMDIR" in (s.against or "")]
    assert len(missed) == 1
    assert missed[0].against.endswith(f"got none for {gone}")


STATE = {"SOPClassUID": uid.GrayscaleSoftcopyPresentationStateStorage, "Modality": "PR", "ContentLabel": "A"}
STATE |= {"PresentationCreationDate": "20200229", "PresentationCreationTime": "12", "ReferencedSeriesSequence": []}
VERIFIED = {"CompletionFlag": "COMPLETE", "VerificationFlag": "VERIFIED", "ConceptNameCodeSequence": [Dataset()]}
OTHER_CT = {"StudyInstanceUID": f"{SERIES}.97", "SeriesInstanceUID": f"{SERIES}.97.1"}


@pytest.mark.parametrize("own_series", [False, True], ids=["one series", "a series for each slice"])
def test_of_what_an_index_lists_only_slices_are_missed(tmp_path, own_series):
    """Six slices, of which five are enough for a CT, and files of all kinds that nobody need copy from a disc."""
    page, report = CAPTURE | {"Modality": "OT"}, REPORT | VERIFIED | {"ContentDate": "20200229", "ContentTime": "12"}
    others = [STATE, report, page, SCOUT, OTHER_CT, OTHER_CT | {"PatientID": "4712"}]
    (tmp_path / "files").mkdir()
    for k, elements in enumerate([{}] * (N + 1) + others):
        ds = a_slice(k % N)
        series = f"{SERIES}.{k}" if own_series else SERIES
        set_elements(ds, SOPInstanceUID=f"{SERIES}.7.{k}", SeriesInstanceUID=series, InstanceNumber=k)
        set_elements(ds, **({"ImagePositionPatient": [-31, 42, 7.5 + 3 * k]} | elements))
        write(ds, tmp_path / "files" / f"{k:02}.dcm")
    copy = disc(tmp_path / "copy", tmp_path / "files")
    paths = {str(header.value("SOPInstanceUID")): header.path for header in headers_in(copy)}
    for k in range(N + 1, len(paths)):
        paths[f"{SERIES}.7.{k}"].unlink()
    np.testing.assert_array_equal(hu_of(copy), [*HU, HU[0]])
    for end in (0, N):
        gone = paths[f"{SERIES}.7.{end}"]
        gone.rename(tmp_path / "gone")
        with pytest.raises(ValueError, match=f"DICOMDIR lists for a series must be there, got none for {gone}$"):
            load_ct(copy)
        (tmp_path / "gone").rename(gone)


def test_files_that_were_given_new_uids_where_an_index_lists_them_are_not_missed(tmp_path):
    copy = disc(tmp_path / "copy", write_series(tmp_path / "files"))
    for k, header in enumerate(headers_in(copy)):
        ds = dcmread(header.path)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.8.{k}"
        write(ds, header.path)
    np.testing.assert_array_equal(hu_of(copy), HU)


def test_a_folder_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(ValueError, match="must be a folder that can be read, got: No such file"):
        read_files(tmp_path / "nowhere")


def test_a_file_without_a_suffix_is_missed_among_slices_without_one_unless_it_is_hidden_or_text(tmp_path):
    for path in list(write_series(tmp_path).iterdir()):
        path.rename(path.with_suffix(""))
    (tmp_path / ".index").write_bytes(bytes(range(256)))
    (tmp_path / "README").write_text("Five slices.\n")
    assert read_files(tmp_path).unread == []
    (tmp_path / "005").write_bytes(bytes(range(256)))
    [(_, reason)] = read_files(tmp_path).unread
    assert reason.startswith(f"{tmp_path / '005'} must be a complete DICOM file, as its name says")


def test_a_single_slice_given_as_a_file_is_no_ct(tmp_path):
    path = write(a_slice(2), tmp_path / "one.dcm")
    with pytest.raises(ValueError, match="must be a folder with all slices of a series, or a multi-frame file"):
        load_ct(path)


def test_a_member_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("IM0", "w") as file:
        file.write(bytes(128) + b"DICM")
        for _ in range(65):
            file.write(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=r"bomb\.zip must be an archive of images, got 68,157,572 bytes packed into"
        ):
            load_ct(tmp_path / "bomb.zip")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_damaged_file_beside_the_slices_in_an_archive_is_one_line(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    write_series(folder)
    text = b"".join(b"%d %d, " % (k, k * k) for k in range(9000))
    with zipfile.ZipFile(tmp_path / "exam.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
        archive.writestr("x.dcm", text)
    content = (tmp_path / "exam.zip").read_bytes()
    at = content.index(text) + 30_000
    (tmp_path / "exam.zip").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(ValueError, match=r"x\.dcm must be a"):
        load_ct(tmp_path / "exam.zip")
