"""Lists of CTs as people and spreadsheets write them."""

import pytest

from flare_lib.data.ct_list import read_list
from flare_lib.data.listing import list_cts


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found(folder, given):
    return {case.name: case.ct_path.relative_to(folder).as_posix() for case in list_cts([given])}


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
        (b"ct\nb, c.nii.gz\n", r"must have 1 column, got 2 in line 2 \(a cell that contains a comma must be quoted\)"),
        (b"name;ct\nx;b;c.nii\n", r"must have 2 columns, got 3 in line 2 \(a cell that contains a semicolon must be q"),
        (
            b"name,ct\nx,b, c.nii.gz\n",
            r"must have 2 columns, got 3 in line 2 \(a cell that contains a comma must be quoted\)",
        ),
        (b"name,ct\nx,a.nii\n\nonly a name\n", "must name a CT in every row, got none in line 4"),
        ("name,ct\nx,a.nii\nübung,a.nii\n".encode("latin-1"), "must be text in UTF-8, got another encoding in line 3"),
        (b"name,ct\nx,a\0.nii\n", "must be text, got a NUL character"),
        (b"ct,ct\na.nii,b.nii\n", "must have one column ct, and at most one name, got ct, ct"),
        (b"name,ct,Name\nx,a.nii,y\n", "must have one column ct, and at most one name, got name, ct, name"),
        (b"name,ct\nx," + b"a" * 200_000, "must be a list, .csv or .tsv, got: field larger than field limit"),
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


@pytest.mark.parametrize("root", ["C:\\", "\\\\server\\share\\", "/"])
def test_a_drive_and_a_root_are_no_cts(tmp_path, root):
    (tmp_path / "list.csv").write_text(f"ct\n{root}\n")
    with pytest.raises(ValueError, match=r"^a CT's name must be a file's name, without folders, got '' for "):
        list_cts([tmp_path / "list.csv"])


def test_a_dot_is_the_lists_own_folder_and_named_after_it(tmp_path, monkeypatch):
    touch(tmp_path / "exam" / "list.csv", b"ct\n.\n")
    monkeypatch.chdir(tmp_path / "exam")
    for given in ("list.csv", tmp_path / "exam" / "list.csv"):
        assert [case.name for case in list_cts([given])] == ["exam"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"ct\na, b.nii.gz\n", [(None, "a, b.nii.gz")]),
        (b"ct\tnote, long, very\na.nii.gz\tx, y\n", [(None, "a.nii.gz")]),
        (b"name;ct\nx;a.nii.gz\n", [("x", "a.nii.gz")]),
    ],
)
def test_a_tsv_is_parted_by_tabs_unless_its_columns_are_not(tmp_path, content, expected):
    listed = touch(tmp_path / "list.tsv", content)
    assert read_list(listed) == [(name, tmp_path / ct) for name, ct in expected]


def test_a_list_may_be_called_tsv_and_lead_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    ct, own = touch(tmp_path / "home" / "cts" / "a.nii.gz"), touch(tmp_path / "~" / "b.nii.gz")
    listed = touch(tmp_path / "list.TSV", b"name\tct\n\t~/cts/a.nii.gz\nx\t~/b.nii.gz\n\t~/gone.nii.gz\n")
    assert read_list(listed) == [(None, ct), ("x", own), (None, tmp_path / "home" / "gone.nii.gz")]
    touch(listed, b"ct\n~\\cts\\a.nii.gz\n~name/a.nii.gz\n")
    assert read_list(listed) == [(None, ct), (None, tmp_path / "~name" / "a.nii.gz")]
