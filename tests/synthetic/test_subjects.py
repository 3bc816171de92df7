"""Persons: both layouts of TotalSegmentator's label maps read alike, and bodies are drawn from the seed."""

import json

import numpy as np
import pytest

from flare_lib.ct.files import save_label_map
from flare_lib.ct.volume import Volume
from flare_lib.synthetic.subjects import embody, find_subjects, join_masks, load_subject

SPACING = (3.0, 2.0, 1.5)


def label_map():
    array = np.zeros((6, 9, 12), np.uint8)
    array[1:4, 2:7, 7:11] = 2
    array[2:5, 3:6, 1:4] = 1
    return array


def save(path, array):
    save_label_map(path, array, Volume.from_array(array, SPACING))


def one_file(folder):
    save(folder / "s1_totalseg117.nii.gz", label_map())
    (folder / "names.json").write_text(json.dumps({"1": "spleen", "2": "liver"}))
    return folder / "s1_totalseg117.nii.gz"


def masks(folder):
    (folder / "s2" / "segmentations").mkdir(parents=True)
    for label, name in ((1, "spleen"), (2, "liver")):
        save(folder / "s2" / "segmentations" / f"{name}.nii.gz", (label_map() == label).astype(np.uint8))
    return folder / "s2"


@pytest.mark.parametrize("layout", [one_file, masks])
def test_both_layouts_give_the_same_person(tmp_path, layout):
    person = load_subject(layout(tmp_path))
    assert person.spacing_zyx_mm == pytest.approx(SPACING)
    np.testing.assert_array_equal(person.mask("liver"), label_map() == 2)
    np.testing.assert_array_equal(person.mask("spleen"), label_map() == 1)


def test_all_persons_of_a_folder_are_found(tmp_path):
    assert find_persons_names(tmp_path, one_file, masks) == ["s2", "s1_totalseg117.nii.gz"]
    with pytest.raises(FileNotFoundError, match="got neither"):
        find_subjects(tmp_path / "s2" / "segmentations")


def find_persons_names(folder, *layouts):
    for layout in layouts:
        layout(folder)
    return [path.name for path in find_subjects(folder)]


def test_what_is_missing_or_does_not_fit_is_said(tmp_path):
    path = one_file(tmp_path)
    (tmp_path / "names.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"one \*names\*.json must lie beside"):
        load_subject(path)
    folder = masks(tmp_path)
    save(folder / "segmentations" / "aorta.nii.gz", np.ones((2, 3, 4), np.uint8))
    with pytest.raises(ValueError, match=r"one grid, got liver.nii.gz with \(6, 9, 12\) voxels.*, not \(2, 3, 4\)"):
        load_subject(folder)


def test_masks_of_one_shape_in_different_places_are_refused(tmp_path):
    folder = masks(tmp_path)
    affine = np.diag([*SPACING[::-1], 1.0])
    affine[0, 3] = 40.0  # mm to the right
    moved = Volume(label_map(), SPACING, affine)
    save_label_map(folder / "segmentations" / "spleen.nii.gz", moved.array_zyx, moved)
    with pytest.raises(ValueError, match=r"must lie on one grid, got spleen.nii.gz with a corner 40.0 mm away"):
        load_subject(folder)


def test_no_more_masks_are_joined_than_a_byte_tells_apart(tmp_path):
    for name in ("liver", "m254"):
        save(tmp_path / f"{name}.nii.gz", (label_map() == 2).astype(np.uint8))
    names = ["liver", *(f"m{k}" for k in range(1, 256))]
    assert join_masks(tmp_path, names[:255]).array_zyx.max() == 255
    with pytest.raises(ValueError, match="at most 255 masks can be joined, got 256 in"):
        join_masks(tmp_path, names)


@pytest.mark.parametrize("content", ['["spleen"]', '{"one": "spleen"}', "spleen", ""])
def test_names_that_are_none_are_refused_by_their_file(tmp_path, content):
    path = one_file(tmp_path)
    (tmp_path / "names.json").write_text(content)
    with pytest.raises(ValueError, match=r"names\.json must hold names as JSON, .*, got: "):
        load_subject(path)
    (tmp_path / "names.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"1": "spleen", "2": "liver"}).encode())
    assert load_subject(path).names == {0: "nothing", 1: "spleen", 2: "liver"}


def test_bodies_differ_and_hold_the_same_organs(tmp_path):
    person = load_subject(one_file(tmp_path))
    one, other = embody(person, 2, seed=0)
    assert one.mask("liver").sum() == other.mask("liver").sum() == 3 * 5 * 4
    assert one.mask("fat").sum() != other.mask("fat").sum()
