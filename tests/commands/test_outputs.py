"""Outputs: told before any work when they cannot be written, never an input, named when they are there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from scans import assert_refused, files_in, grey_values, save

from flare_lib.commands.outputs import check_table, wrote


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("labels.png", "an output must end in .nii or .nii.gz or .dcm, or be a folder that exists or has no ending"),
        (".nii.gz", "an output must have a name before its ending, got"),
        ("nowhere/labels.nii.gz", "the output's folder must exist"),
        ("case_0000.nii.gz/labels.nii.gz", "the output's folder must exist"),
        ("case_0000.nii.gz", "every output must be a separate file, neither an input"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_before_any_work(flare, nets, ct_path, tmp_path, output, message):
    assert_refused(flare("segment", ct_path, "-o", tmp_path / output), message)
    assert nets == []
    assert files_in(tmp_path) == ["case_0000.nii.gz"]


def test_inputs_are_never_overwritten_through_a_folder(flare, nets, tmp_path):
    ct = save(tmp_path / "case.nii.gz", grey_values())
    assert_refused(flare("segment", ct, "-o", tmp_path), "must be another folder than that of a CT, got")


def test_a_list_is_not_replaced_by_the_table_of_its_cts(flare, tmp_path):
    save(tmp_path / "case.nii.gz", grey_values())
    (tmp_path / "labels").mkdir()
    listed = tmp_path / "list.csv"
    listed.write_text("ct\ncase.nii.gz\n")
    (tmp_path / "LINK.csv").symlink_to(listed)
    for table in (listed, tmp_path / "LINK.csv"):
        answer = flare("measure", listed, tmp_path / "labels", "-o", table)
        assert_refused(answer, "every output must be a separate file, neither an input nor another output, got")
    assert listed.read_text() == "ct\ncase.nii.gz\n"


def test_two_cts_of_one_name_cannot_share_a_file(flare, nets, ct_path, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "more").mkdir()
    other = save(tmp_path / "more" / ct_path.name, grey_values())
    assert_refused(
        flare("segment", ct_path, other, "-o", tmp_path / "out"), "every CT must have a name of its own, got case for"
    )


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ("figure.nii.gz", "a figure must end in .png, .jpg, .pdf, .svg"),
        ("nowhere/figure.png", "the figure's folder must exist and be writable"),
    ],
)
def test_a_figure_that_cannot_be_written_is_told_before_any_work(flare, nets, ct_path, tmp_path, figure, message):
    answer = flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", "--figure", tmp_path / figure)
    assert_refused(answer, message)
    assert nets == []


def test_a_new_folder_with_a_dot_and_a_dash_are_no_outputs(flare, nets, ct_path, tmp_path):
    said = "an output must end in .nii or .nii.gz or .dcm, or be a folder that exists or has no ending, got "
    assert_refused(flare("segment", ct_path, "-o", tmp_path / "run.v2"), said)
    assert_refused(flare("segment", ct_path, "-o", "-"), "the output must be a folder, got -: nothing but text goes to")
    assert nets == []


@pytest.mark.parametrize("to", ["gone", "link"], ids=["to nothing", "to itself"])
def test_a_link_that_leads_nowhere_is_no_folder(flare, nets, ct_path, tmp_path, to):
    (tmp_path / "link").symlink_to(tmp_path / to)
    assert_refused(flare("segment", ct_path, "-o", tmp_path / "link"), "the output must be a writable folder, or one")
    assert nets == []


def test_a_link_that_leads_to_itself_is_no_input_and_is_replaced_as_an_output(flare, nets, ct_path, tmp_path):
    (tmp_path / "loop.nii.gz").symlink_to(tmp_path / "loop.nii.gz")
    assert_refused(flare("segment", tmp_path / "loop.nii.gz", "-o", tmp_path / "a.nii"), "every input must exist")
    code, _, err = flare("segment", tmp_path, "-o", tmp_path / "out", "--workers", 0, "--device", "cpu")
    assert (code, len(nets)) == (2, 1)
    assert len(err) == 1
    assert err[0].startswith(f"error: {tmp_path / 'loop.nii.gz'}: ")  # and the system's words for it
    assert flare("segment", ct_path, "-o", tmp_path / "loop.nii.gz")[0] == 0
    assert not (tmp_path / "loop.nii.gz").is_symlink()


def test_a_table_may_end_in_capitals(tmp_path):
    check_table(tmp_path / "SCORES.CSV")
    with pytest.raises(ValueError, match=r"must be a \.csv file, got .*scores\.xlsx"):
        check_table(tmp_path / "scores.xlsx")


def test_what_was_written_is_named_without_what_was_not_wanted():
    assert wrote(Path("a.csv"), None) == "wrote a.csv"
    assert wrote(Path("a.csv"), Path("b.png")) == "wrote a.csv and b.png"


def test_a_figure_is_saved_whatever_window_matplotlib_is_to_open(tmp_path):
    code = (
        "from pathlib import Path; from flare_lib.commands.outputs import drawing\n"
        "with drawing() as save:\n    from matplotlib.figure import Figure\n    save(Figure(), Path('a.svg'))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "MPLBACKEND": "no such window"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "a.svg").stat().st_size > 0
