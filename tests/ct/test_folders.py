"""What in a folder is a CT, in every form, and what its case is called."""

import os

import pytest
from dicoms import a_slice, only, write, write_series, zipped
from pydicom import uid

from flare_lib.ct.folders import case_name, case_namer, find_cts, find_dicom, find_images, holds_dicom


@pytest.fixture
def mixed(tmp_path):
    """A folder of CTs in every form, and of what is none."""
    for name in ("a_0000.nii.gz", "B_0000.NII", ".hidden.nii.gz", "notes.txt", "x.json"):
        (tmp_path / name).write_bytes(b"?")
    write_series(tmp_path / "c_0000" / "study" / "series")
    zipped(write_series(tmp_path / ".made" / "e"), tmp_path / "e_0000.ZIP")
    (tmp_path / "broken.zip").write_bytes(b"half")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_cts_in_a_folder_are_everything_that_can_be_loaded_each_with_its_cases_name(mixed):
    images = {"B": mixed / "B_0000.NII", "a": mixed / "a_0000.nii.gz"}
    assert find_images(mixed) == {f"{name}_0000": path for name, path in images.items()}
    series = {"broken": mixed / "broken.zip", "c": mixed / "c_0000", "e": mixed / "e_0000.ZIP"}
    assert find_cts(mixed) == images | series
    for find, other in ((find_cts, "a.nii"), (find_images, "a_0000.nii")):
        (mixed / other).write_bytes(b"?")
        with pytest.raises(ValueError) as refusal:
            find(mixed)
        assert str(refusal.value) == (
            f"every case must have one CT or label map in {mixed}, got {other} and a_0000.nii.gz"
        )
    write_series(mixed, slices=[0])
    with pytest.raises(ValueError) as refusal:
        find_cts(mixed)
    assert str(refusal.value) == (
        f"{mixed} must hold a folder or .zip of DICOM for each CT, got DICOM files side by side"
    )


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["case_0000.nii.gz", "case_0001.nii.gz", "case_0002.nii.gz"], ["case_0000", "case_0001", "case_0002"]),
        (
            ["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"],
            ["a", "a_0001", "b", "b_0001"],
        ),  # PET/CT
        (["a_0000_0000.nii", "a_0001_0000.nii"], ["a_0000", "a_0001"]),
        (["a_0000.nii.gz", "b_0001.nii.gz"], ["a", "b_0001"]),
        (["a_0000.nii.gz", "a_0002.nii", "a_0003.nii.gz"], ["a_0000", "a_0002", "a_0003"]),
        (["a_0000.nii.gz", "a_00020.nii.gz", "a_000x.nii.gz"], ["a", "a_00020", "a_000x"]),
    ],
)
def test_a_number_is_a_channel_unless_cases_are_counted_from_it(tmp_path, files, names):
    for file in files:
        (tmp_path / file).touch()
    assert list(find_cts(tmp_path)) == names
    assert [case_name(tmp_path / file) for file in files] == names


def test_what_holds_dicom_is_known_by_content_and_at_the_depth_asked_for(mixed):
    assert holds_dicom(mixed / "c_0000", deep=True)
    assert not holds_dicom(mixed / "c_0000")
    assert holds_dicom(mixed / "c_0000" / "study" / "series")
    assert [holds_dicom(mixed / name) for name in ("e_0000.ZIP", "broken.zip")] == [True, True]
    none = ("empty", "notes.txt", "a_0000.nii.gz", "nowhere", "nowhere.zip")
    assert not any(holds_dicom(mixed / name, deep=deep) for name in none for deep in (False, True))
    slices = write_series(mixed / "damaged", slices=[0])
    whole = (slices / "000.dcm").read_bytes()
    (slices / "000.dcm").write_bytes(whole[:200])
    assert holds_dicom(slices)  # `load_ct` then says what is wrong with it
    (slices / "000.dcm").rename(slices / "000.png")
    assert not holds_dicom(slices)  # a name that is never a slice's is not even opened


def test_the_images_of_a_folder_are_counted_without_an_index(tmp_path):
    write_series(tmp_path / "a", only(1, NumberOfFrames=40), slices=[0, 1])
    ds = a_slice(2)
    ds.SOPClassUID = uid.MediaStorageDirectoryStorage
    write(ds, tmp_path / "a" / "INDEX")
    for damaged in ("DICOMDIR", "b"):
        (tmp_path / damaged).write_bytes(bytes(128) + b"DICM" + b"damaged")
    found = {path.relative_to(tmp_path).as_posix(): n for path, n in find_dicom(tmp_path).items()}
    assert found == {"a/000.dcm": 1, "a/001.dcm": 40, "b": 1}


@pytest.mark.parametrize(
    ("labelled", "names"),
    [
        (["a"], ["a", "a_0001"]),
        (["a_0000"], ["a_0000", "a_0001"]),
        (["a_0001"], ["a_0000", "a_0001"]),
        (["a", "a_0000"], ["a_0000", "a_0001"]),
    ],
)
def test_labels_say_whether_a_number_is_a_channel(tmp_path, labelled, names):
    for file in ("a_0000.nii.gz", "a_0001.nii.gz"):
        (tmp_path / file).touch()
    assert list(find_cts(tmp_path, labelled)) == names


def test_a_folder_of_many_cts_is_listed_once_to_name_them(tmp_path, monkeypatch):
    paths = [tmp_path / file for file in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz")]
    for path in paths:
        path.touch()
    listed, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    assert [*map(case_namer(), paths)] == ["a", "a_0001", "b"]
    assert listed == [tmp_path]


@pytest.mark.parametrize(("file", "name"), [("a_0000.nii.gz", "a"), ("a.b.NII", "a.b"), ("x.zip", "x"), ("p.1", "p.1")])
def test_a_name_has_no_channel_and_no_format(tmp_path, file, name):
    assert case_name(tmp_path / file) == name
    assert case_name(tmp_path / name) == name
