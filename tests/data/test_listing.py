"""What folders, lists, patterns and files lead to."""

import numpy as np
import pytest
from cohorts import pair

from flare_lib.data.listing import case_name, list_cts

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


def test_a_list_names_its_cts_relative_to_itself(tmp_path):
    (tmp_path / "list.csv").write_text("name,ct\nfirst,in/a.nii.gz\n,in/b_0000.nii.gz\n", encoding="utf-8-sig")
    assert found(tmp_path, tmp_path / "list.csv") == {"first": "in/a.nii.gz", "b": "in/b_0000.nii.gz"}
    (tmp_path / "list.csv").write_text("path\na\n")
    with pytest.raises(ValueError, match="must have one column ct, and at most one name, got path"):
        list_cts([tmp_path / "list.csv"])
    (tmp_path / "list.csv").write_text("ct\n")
    with pytest.raises(FileNotFoundError, match="must list CTs, got none"):
        list_cts([tmp_path / "list.csv"])


@pytest.mark.parametrize(
    "content",
    [
        '\ufeffname,ct\r\n"first, again","in/b, c.nii.gz"\r\n\r\n,in/a.nii.gz\r\n,\r\n'.encode(),
        b'Name; CT ;note\nfirst, again;in/b, c.nii.gz;"a ""note"""\n;in\\a.nii.gz\n',
        b"\r\nsep=;\r\n;\r\nname;ct\r\nfirst, again;in/b, c.nii.gz\r\n;in/a.nii.gz\r\n",
        "name\tct\r\nfirst, again\tin/b, c.nii.gz\r\n\tin/a.nii.gz".encode("utf-16"),
    ],
)
def test_lists_are_read_as_spreadsheets_of_any_country_write_them(tmp_path, content):
    touch(tmp_path / "in" / "a.nii.gz")
    touch(tmp_path / "in" / "b, c.nii.gz")
    touch(tmp_path / "list.csv", content)
    assert found(tmp_path, tmp_path / "list.csv") == {"first, again": "in/b, c.nii.gz", "a": "in/a.nii.gz"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"name,ct\nx,b, c.nii.gz\n",
            r"must have 2 columns, got 3 in line 2 \(a cell that contains a comma must be quoted\)",
        ),
        (b"name,ct\nx,a.nii\n\nonly a name\n", "must name a CT in every row, got none in line 4"),
        ("name,ct\nx,a.nii\nübung,a.nii\n".encode("latin-1"), "must be text in UTF-8, got another encoding in line 3"),
        (b"name,ct\nx,a\0.nii\n", "must be text, got a NUL character"),
        (b"ct,ct\na.nii,b.nii\n", "must have one column ct, and at most one name, got ct, ct"),
        (b"name,ct,Name\nx,a.nii,y\n", "must have one column ct, and at most one name, got name, ct, name"),
        (b"name,ct\nx," + b"a" * 200_000, "must be a list, .csv, got: field larger than field limit"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_by_its_name_and_line(tmp_path, content, said):
    touch(tmp_path / "list.csv", content)
    with pytest.raises(ValueError, match=f"list.csv {said}"):
        list_cts([tmp_path / "list.csv"])


def test_a_path_of_another_system_is_a_case_named_after_its_file_that_fails_by_itself(tmp_path):
    write_list = tmp_path / "list.csv"
    write_list.write_text("ct\nC:\\data\\p1_0000.nii.gz\n\\\\server\\share\\p2.zip\n", encoding="utf-8")
    cases = list_cts([write_list])
    assert [case.name for case in cases] == ["p1", "p2"]
    assert [case.ct_path for case in cases] == [
        tmp_path / "C:\\data\\p1_0000.nii.gz",
        tmp_path / "\\\\server\\share\\p2.zip",
    ]


def test_a_pattern_that_none_is_is_refused_with_the_rule(tmp_path):
    with pytest.raises(ValueError, match=r"\*\* must stand alone between slashes, got .*/a\*\*/x"):
        list_cts([tmp_path / "a**" / "x"])


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


def test_a_file_whose_name_is_only_channel_and_format_is_refused(tmp_path):
    (tmp_path / "_0000.nii.gz").touch()
    with pytest.raises(ValueError, match="a CT's name must be a file's name, without folders, got ''"):
        list_cts([tmp_path])


def test_two_cts_of_one_name_and_inputs_that_lead_nowhere_are_refused(tmp_path):
    touch(tmp_path / "x" / "a.nii.gz")
    touch(tmp_path / "y" / "A.nii.gz")
    with pytest.raises(ValueError, match="every CT must have a name of its own, got A for "):
        list_cts([tmp_path / "x", tmp_path / "y"])
    assert len(list_cts([tmp_path / "x", tmp_path / "x" / "a.nii.gz"])) == 1
    with pytest.raises(FileNotFoundError, match="every input must exist, got nowhere"):
        list_cts(["nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="must hold CTs, NIfTI or DICOM, got none"):
        list_cts([tmp_path / "empty"])


@pytest.mark.parametrize(("file", "name"), [("a_0000.nii.gz", "a"), ("a.b.NII", "a.b"), ("x.zip", "x"), ("p.1", "p.1")])
def test_a_name_has_no_channel_and_no_format(tmp_path, file, name):
    assert case_name(tmp_path / file) == name
    assert np.array_equal([case_name(tmp_path / name)], [name])


def test_dicom_is_the_ct_whatever_nifti_lies_beside_it(tmp_path):
    touch(tmp_path / "p1" / "0.dcm", DICOM)
    touch(tmp_path / "p1" / "mask.nii.gz")
    assert found(tmp_path, tmp_path) == {"p1": "p1"}


def test_patients_with_masks_and_others_are_all_found(tmp_path):
    touch(tmp_path / "s1" / "ct.nii.gz")
    touch(tmp_path / "s1" / "segmentations" / "liver.nii.gz")
    touch(tmp_path / "p2" / "scan.nii.gz")
    assert found(tmp_path, tmp_path) == {"p2_scan": "p2/scan.nii.gz", "s1": "s1/ct.nii.gz"}


@pytest.mark.parametrize("below", ["", "patient/"])
def test_a_stray_slice_among_nifti_files_is_passed_over_by_name(tmp_path, below):
    folder = tmp_path / "in" / below
    for name in ("a.nii.gz", "sub/b.nii.gz"):
        touch(folder / name, bytes(1000))
    touch(folder / "IM0001", DICOM)
    notes = []
    cases = {case.name: case.ct_path for case in list_cts([tmp_path / "in"], on_note=notes.append)}
    before = below.replace("/", "_")
    assert cases == {f"{before}a": folder / "a.nii.gz", f"{before}sub_b": folder / "sub" / "b.nii.gz"}
    assert notes == [f"{folder} is taken for a folder of NIfTI files; passed over: IM0001"]


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
