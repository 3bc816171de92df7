"""What folders, lists, patterns and files lead to."""

import os
import re

import nibabel as nib
import numpy as np
import pytest
from cohorts import pair
from dicoms import a_slice, write

from flare_lib.data.cohort import find_cases
from flare_lib.data.listing import list_cts

DICOM = bytes(128) + b"DICM" + bytes(40)


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found(folder, *inputs):
    return {case.name: case.ct_path.relative_to(folder).as_posix() for case in list_cts(inputs)}


def test_a_folder_gives_its_files_and_its_patients(tmp_path):
    touch(tmp_path / "b_0000.NII.GZ")
    touch(tmp_path / "a.nii")
    touch(tmp_path / ".hidden.nii.gz")
    touch(tmp_path / "notes.txt")
    touch(tmp_path / "exam.zip")
    touch(tmp_path / "p1" / "study" / "s1" / "IM0", DICOM)
    touch(tmp_path / "p1" / "study" / "s2" / "IM0", DICOM)
    touch(tmp_path / "more" / "a.nii.gz")
    touch(tmp_path / "empty" / "readme.txt")
    assert found(tmp_path, tmp_path) == {
        "a": "a.nii",
        "b": "b_0000.NII.GZ",
        "exam": "exam.zip",
        "more_a": "more/a.nii.gz",
        "p1": "p1",
    }


def test_a_folder_with_one_series_and_a_file_are_one_ct_each(tmp_path):
    touch(tmp_path / "series" / "IM0", DICOM)
    touch(tmp_path / "x" / "c_0000.nii.gz")
    assert found(tmp_path, tmp_path / "x" / "c_0000.nii.gz", tmp_path / "series") == {
        "c": "x/c_0000.nii.gz",
        "series": "series",
    }


def test_a_data_set_gives_its_cts_without_the_labels(tmp_path):
    pair(tmp_path / "flare", "c1")
    assert list(found(tmp_path, tmp_path / "flare")) == ["c1"]
    touch(tmp_path / "total" / "s1" / "ct.nii.gz")
    touch(tmp_path / "total" / "s1" / "segmentations" / "liver.nii.gz")
    assert found(tmp_path, tmp_path / "total") == {"s1": "total/s1/ct.nii.gz"}


def test_a_pattern_that_none_is_is_refused_with_the_rule(tmp_path):
    with pytest.raises(ValueError, match=r"\*\* must stand alone between slashes, got .*/a\*\*/x"):
        list_cts([tmp_path / "a**" / "x"])


@pytest.mark.parametrize(
    ("pattern", "names"), [("**", ["c", "x_a", "y_z_b"]), ("y/**", ["z_b"]), ("*/**", ["a", "z_b"]), ("**/z*", ["b"])]
)
def test_a_pattern_of_folders_and_what_is_in_them_leads_to_every_ct_once(tmp_path, pattern, names):
    for name in ("c", "x/a", "y/z/b"):
        touch(tmp_path / f"{name}.nii.gz")
    assert sorted(found(tmp_path, tmp_path / pattern)) == names


def test_links_that_lead_in_circles_are_gone_once(tmp_path):
    touch(tmp_path / "in" / "a.nii.gz")
    touch(tmp_path / "in" / "sub" / "b.nii.gz")
    for name in ("in/again", "in/sub/up", "in/sub/self"):
        (tmp_path / name).symlink_to(tmp_path / "in")
    assert found(tmp_path, tmp_path / "in") == {"a": "in/a.nii.gz", "sub_b": "in/sub/b.nii.gz"}
    assert found(tmp_path, tmp_path / "in" / "**" / "*.nii.gz") == {"a": "in/a.nii.gz", "b": "in/sub/b.nii.gz"}


def test_a_link_to_a_folder_that_is_there_anyway_changes_no_name(tmp_path):
    touch(tmp_path / "b" / "x.nii.gz")
    touch(tmp_path / "elsewhere" / "c" / "y.nii.gz")
    (tmp_path / "cts" / "a").mkdir(parents=True)
    (tmp_path / "b").rename(tmp_path / "cts" / "b")
    (tmp_path / "cts" / "a" / "link").symlink_to(tmp_path / "cts" / "b")
    (tmp_path / "cts" / "a" / "far").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path, tmp_path / "cts") == {"b_x": "cts/b/x.nii.gz", "a_far_c_y": "cts/a/far/c/y.nii.gz"}


def test_a_pattern_finds_hidden_files_only_if_it_names_what_is_hidden(tmp_path):
    touch(tmp_path / ".cache" / "a.nii.gz")
    touch(tmp_path / ".cache" / ".half.nii.gz")
    assert found(tmp_path, tmp_path / ".cache" / "*.nii.gz") == {"a": ".cache/a.nii.gz"}
    with pytest.raises(FileNotFoundError, match="every input must exist"):
        list_cts([tmp_path / "*" / "*.nii.gz"])


def test_patterns_match_at_any_depth(tmp_path):
    for name in ("x/a.nii.gz", "y/z/b.nii.gz", "y/c.txt"):
        touch(tmp_path / name)
    assert found(tmp_path, tmp_path / "**" / "*.nii.gz") == {"a": "x/a.nii.gz", "b": "y/z/b.nii.gz"}


def test_a_file_whose_name_is_only_channel_and_format_is_refused_by_its_path(tmp_path):
    (tmp_path / "a_0000.nii.gz").touch()
    (tmp_path / "_0000.nii.gz").touch()
    nameless = re.escape(f"a CT's name must be a file's name, without folders, got '' for {tmp_path / '_0000.nii.gz'} ")
    with pytest.raises(ValueError, match=nameless):
        list_cts([tmp_path])


def test_a_data_sets_labels_say_whether_a_number_is_part_of_a_cts_name(tmp_path):
    for name in ("imagesTr/case_0000.nii.gz", "imagesTr/case_0001.nii.gz", "labelsTr/case.nii.gz"):
        touch(tmp_path / name)
    assert list(found(tmp_path, tmp_path)) == ["case", "case_0001"]


def test_two_cts_of_one_name_and_inputs_that_lead_nowhere_are_refused(tmp_path):
    touch(tmp_path / "x" / "a.nii.gz")
    touch(tmp_path / "y" / "A.nii.gz")
    with pytest.raises(ValueError, match="every CT must have a name of its own, got A for "):
        list_cts([tmp_path / "x", tmp_path / "y"])
    assert len(list_cts([tmp_path / "x", tmp_path / "x" / "a.nii.gz", tmp_path / "y" / ".." / "x" / "a.nii.gz"])) == 1
    for folder, e in (("1", "e\u0301"), ("2", "\u00e9")):  # for some file systems, one name
        touch(tmp_path / folder / f"{e}.nii.gz")
    with pytest.raises(ValueError, match="every CT must have a name of its own, got \u00e9 for "):
        list_cts([tmp_path / "1", tmp_path / "2"])
    with pytest.raises(FileNotFoundError, match="every input must exist, got nowhere"):
        list_cts(["nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="must hold CTs, NIfTI or DICOM, got none"):
        list_cts([tmp_path / "empty"])


def test_dicom_is_the_ct_whatever_nifti_lies_beside_it(tmp_path):
    touch(tmp_path / "p1" / "0.dcm", DICOM)
    touch(tmp_path / "p1" / "mask.nii.gz")
    assert found(tmp_path, tmp_path) == {"p1": "p1"}


def test_patients_with_masks_and_others_are_all_found(tmp_path):
    touch(tmp_path / "s1" / "ct.nii.gz")
    touch(tmp_path / "s1" / "segmentations" / "liver.nii.gz")
    touch(tmp_path / "p2" / "scan.nii.gz")
    assert found(tmp_path, tmp_path) == {"p2_scan": "p2/scan.nii.gz", "s1": "s1/ct.nii.gz"}


@pytest.mark.parametrize(("below", "stray"), [("", "IM0001"), ("patient/", "IM0001"), ("", "000.img")])
def test_a_stray_slice_among_nifti_files_is_passed_over_by_name(tmp_path, below, stray):
    folder = tmp_path / "in" / below
    for name in ("a.nii.gz", "sub/b.nii.gz"):
        touch(folder / name, bytes(1000))
    touch(folder / stray, DICOM)
    notes = []
    cases = {case.name: case.ct_path for case in list_cts([tmp_path / "in"], on_note=notes.append)}
    before = below.replace("/", "_")
    assert cases == {f"{before}a": folder / "a.nii.gz", f"{before}sub_b": folder / "sub" / "b.nii.gz"}
    assert notes == [f"{folder} is taken for a folder of NIfTI files; passed over: {stray}"]


def test_labels_among_the_slices_of_a_ct_are_passed_over_by_name(tmp_path):
    for name in ("IM0001", "IM0002"):
        touch(tmp_path / "exam" / name, DICOM + bytes(1000))
    touch(tmp_path / "exam" / "masks" / "liver.nii.gz")
    notes = []
    (case,) = list_cts([tmp_path], on_note=notes.append)
    assert (case.name, case.ct_path) == ("exam", tmp_path / "exam")
    assert notes == [f"{case.ct_path} is taken for the slices of one CT; passed over: masks/liver.nii.gz"]


@pytest.mark.parametrize("below", ["", "IMAGES/"])
def test_slices_are_a_ct_beside_a_larger_conversion_of_it(tmp_path, below):
    touch(tmp_path / "exam" / "DICOMDIR", DICOM)
    for name in ("IM0001", "IM0002"):
        touch(tmp_path / "exam" / below / name, DICOM)
    touch(tmp_path / "exam" / "ct.nii", bytes(5000))
    notes = []
    assert [case.ct_path for case in list_cts([tmp_path / "exam"], on_note=notes.append)] == [tmp_path / "exam"]
    assert notes == [f"{tmp_path / 'exam'} is taken for the slices of one CT; passed over: ct.nii"]


def test_a_multi_frame_ct_is_more_than_a_stray_slice(tmp_path):
    ds = a_slice(0)
    ds.NumberOfFrames = 3
    write(ds, tmp_path / "frames.dcm")
    for name in ("ct.nii", "again.nii"):
        touch(tmp_path / name, bytes(5000))
    notes = []
    assert [case.ct_path for case in list_cts([tmp_path], on_note=notes.append)] == [tmp_path]
    assert notes == [f"{tmp_path} is taken for the slices of one CT; passed over: again.nii, ct.nii"]


def test_a_label_map_larger_than_a_ct_in_one_file_is_passed_over(tmp_path):
    touch(tmp_path / "ct.dcm", DICOM)
    save(tmp_path / "mask.nii.gz", np.ones((2, 3, 4), np.uint8))
    assert [case.ct_path for case in list_cts([tmp_path])] == [tmp_path]


def save(path, array, intent=None, slope=None):
    image = nib.Nifti1Image(array, np.diag([3.0, 2.0, 1.5, 1.0]))
    if intent:
        image.header.set_intent(intent)
    if slope:
        image.header.set_slope_inter(*slope)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)


def test_label_maps_among_cts_are_passed_over_by_name(tmp_path):
    ct = np.arange(-1000, -880, dtype=np.int16).reshape(4, 5, 6)
    labels = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    save(tmp_path / "a.nii.gz", ct)
    save(tmp_path / "b_mask.nii.gz", ct, intent="label")  # neither a name nor an intent proves anything
    save(tmp_path / "c.nii.gz", labels.astype(np.uint8), slope=(10.0, -1024.0))  # bytes that are HU
    save(tmp_path / "d.nii.gz", labels)  # nor do its values: a CT that has lost its intercept must be told
    save(tmp_path / "a_bytes.nii.gz", labels.astype(np.uint8))
    save(tmp_path / "a_intent.nii.gz", labels, intent="label")
    save(tmp_path / "a.seg.nii", labels.astype(np.float64))
    save(tmp_path / "masks" / "liver.nii.gz", labels.astype(np.uint8))
    (tmp_path / "seg.nii").write_bytes(b"damaged")
    notes = []
    assert [case.name for case in list_cts([tmp_path], on_note=notes.append)] == ["a", "b_mask", "c", "d", "seg"]
    assert notes == [
        f"{tmp_path} holds label maps among its CTs; passed over: a.seg.nii, a_bytes.nii.gz, a_intent.nii.gz",
        f"{tmp_path / 'masks'} holds label maps among its CTs; passed over: liver.nii.gz",
    ]
    told = []  # to check and to train on, they are no cases either
    assert [case.name for case in find_cases(tmp_path, on_note=told.append)] == ["a", "b_mask", "c", "d", "seg"]
    assert told == notes[:1]
    with pytest.raises(FileNotFoundError, match="must hold CTs, NIfTI or DICOM, got none"):
        list_cts([tmp_path / "masks"])


@pytest.mark.parametrize("layout", ["", "images/", "labelsTr/"])
def test_images_that_are_not_read_are_passed_over_by_name(tmp_path, layout):
    not_read = [".f.nii.gz.icloud", "a.img", "b.NRRD", "c.nii.xz", "d.nii.gz.part", "e.tar.gz", "g.nii.gz.dvc"]
    others = ["a.nii.gz", "a.nii.gz.crypt", "a.json", ".b.nii.gz.part", "notes.txt", "x.img/d.txt"]
    others += ["h.nii.json", "h.nii.TXT", "h.nii.gz.sha256", "h.nii.md5", "model.tar", "model_best.pth.tar", "w.pt.tgz"]
    for name in ("imagesTr/a.nii.gz", *not_read, *others) if layout == "labelsTr/" else (*not_read, *others):
        touch(tmp_path / (name if name.startswith("imagesTr/") else f"{layout}{name}"))
    note = (
        f"{tmp_path / layout} holds what may be images in a form that is not read; passed over: "
        ".f.nii.gz.icloud, a.img, b.NRRD, c.nii.xz, d.nii.gz.part and 2 more"
    )
    for of_folder in (lambda folder, on_note: list_cts([folder], on_note=on_note), find_cases):
        notes = []
        assert [case.name for case in of_folder(tmp_path, on_note=notes.append)] == ["a"]
        assert notes == [note]


def test_a_patients_folder_whose_image_is_not_read_is_told_of(tmp_path):
    for name in ("s1/ct.nii.gz", "s2/ct.nii.gz", "s3/ct.nrrd", "s4/IM0", "s5/notes.txt"):
        touch(tmp_path / name, DICOM if name == "s4/IM0" else b"x")
    for of_folder in (lambda folder, on_note: list_cts([folder], on_note=on_note), find_cases):
        notes = []
        assert [case.name for case in of_folder(tmp_path, on_note=notes.append)] == ["s1", "s2", "s4"]
        assert notes == [f"{tmp_path / 's3'} holds what may be images in a form that is not read; passed over: ct.nrrd"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes here")
def test_a_pipe_among_cts_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "mask.nii")
    (tmp_path / "seg.nii.gz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "labels.nii").mkdir()
    assert found(tmp_path, tmp_path) == {"mask": "mask.nii", "seg": "seg.nii.gz"}


def test_somebody_elses_manifest_hides_no_ct(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        touch(tmp_path / name)
    touch(tmp_path / "manifest.jsonl", b'{"name": "a", "output": "a.nii.gz"}\n')
    assert found(tmp_path, tmp_path) == {"a": "a.nii.gz", "b": "b.nii.gz"}


def test_what_lies_beside_the_folders_of_a_data_set_is_passed_over_by_name(tmp_path):
    for name in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b_0000.nii.gz", "c.nii"):
        touch(tmp_path / name)
    notes = []
    assert [case.name for case in list_cts([tmp_path], on_note=notes.append)] == ["a"]
    assert notes == [
        f"{tmp_path} is taken for a data set, its CTs in imagesTr; passed over: c.nii, imagesTs/b_0000.nii.gz"
    ]
    assert [case.name for case in list_cts([tmp_path / "imagesTs"], on_note=notes.append)] == ["b"]
    assert len(notes) == 1
