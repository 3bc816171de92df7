"""The `flare` command: what it prints, what it writes, and one line with exit code 2 for every mistake."""

import gzip
import json
import subprocess
import sys

import nbformat
import nibabel as nib
import numpy as np
import pytest
import torch

from flare_lib import cli
from flare_lib.ct.files import load_ct, load_label_map, save_label_map
from flare_lib.ct.labels import organ
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Volume
from flare_lib.data import phantom, sources
from flare_lib.data.sources import SampleCase
from flare_lib.inference import coarse_to_fine
from flare_lib.inference.coarse_to_fine import Segmentation

SHAPE_XYZ = (7, 6, 5)
# axes towards left, front, head as in many a hospital's file (LPS would be left, back, head); spacings all different
AFFINE = np.array([[-1.5, 0.0, 0.0, 40.0], [0.0, 2.0, 0.0, -30.0], [0.0, 0.0, 3.0, 10.0], [0.0, 0.0, 0.0, 1.0]])
VOXEL_ML = 1.5 * 2.0 * 3.0 / 1000


def grey_values(shape=SHAPE_XYZ):
    """Air, and in the middle something soft."""
    values = np.full(shape, -1000, np.int16)
    values[tuple(slice(1, n - 1) for n in shape)] = 40
    return values


def save(path, values, affine=AFFINE):
    nib.Nifti1Image(values, affine).to_filename(path)
    return path


def labels_zyx():
    """Two organs: 6 voxels of liver, 2 of the aorta."""
    labels = np.zeros(SHAPE_XYZ[::-1], np.uint8)
    labels[1:4, 2, 1:3] = organ("liver").id
    labels[1:3, 3, 3] = organ("aorta").id
    return labels


def save_labels(path, labels, affine=AFFINE):
    """Save canonical ZYX labels in the axes of the test's files, which run to the left."""
    return save(path, np.ascontiguousarray(labels.T[::-1]), affine)


@pytest.fixture
def flare(capsys):
    """Run a command; returns its exit code, the lines of stdout and those of stderr."""

    def run(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return run


@pytest.fixture
def nets(monkeypatch):
    """Nets that always find the two organs; the list holds what `segment` was asked for."""
    asked = []

    def segment(ct, coarse, fine, *, margin_mm, progress):
        asked.append((coarse, fine, margin_mm))
        progress("coarse", 1, 1)
        box = Box((0, 0, 0), ct.shape_zyx)
        return Segmentation(labels_zyx(), ct, box, {"coarse net": 0.5, "fine net": 1.0}, ("looked everywhere",))

    monkeypatch.setattr(coarse_to_fine, "load_stages", lambda folder, *, device: (f"coarse of {folder}", device))
    monkeypatch.setattr(coarse_to_fine, "segment", segment)
    return asked


@pytest.fixture
def ct_path(tmp_path):
    return save(tmp_path / "case_0000.nii.gz", grey_values())


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_refused(answer, message):
    code, out, err = answer
    assert code == 2
    assert out == []
    assert len(err) == 1, err
    assert err[0].startswith("error: ")
    assert message in err[0]


def test_help_lists_the_commands_and_waits_for_no_library(flare):
    code, out, _ = flare()
    assert code == 0
    assert [name for name in ("fetch", "info", "segment", "phantom", "notebooks") if name not in "\n".join(out)] == []
    heavy = "import sys, flare_lib.cli; print({'torch', 'numpy', 'nibabel', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["info"], "Missing argument 'ct'"),
        (["segment", "a.nii.gz"], "Missing option '--output'"),
        (["segment", "a.nii.gz", "-o", "b.nii.gz", "--margin-mm", "-1"], "--margin-mm"),
        (["phantom", "a.nii.gz", "b.nii.gz", "--spacing", "1", "2", "wide"], "--spacing"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(flare, arguments, message):
    assert_refused(flare(*arguments), message)


def test_info_says_what_the_file_holds(flare, ct_path):
    code, out, _ = flare("info", ct_path)
    assert code == 0
    assert [line[18:] for line in out] == [
        str(ct_path),
        "7 x 6 x 5, LAS",
        "5 x 6 x 7",
        "3.0 x 2.0 x 1.5 mm",
        "15 x 12 x 10 mm",
        "-1000 to 40 HU, int16",
        "1:4, 1:5, 1:6",
    ]


def test_labels_are_saved_on_the_cts_own_grid(flare, nets, ct_path, tmp_path):
    target = tmp_path / "labels.nii.gz"
    code, out, err = flare("segment", ct_path, "-o", target, "--margin-mm", 12, "--weights-dir", "w", "--device", "cpu")
    assert code == 0
    assert nets == [("coarse of w", torch.device("cpu"), 12.0)]
    saved = nib.load(target)
    np.testing.assert_array_equal(saved.affine, AFFINE)
    np.testing.assert_array_equal(saved.dataobj, labels_zyx().T[::-1])
    assert out[1].split() == ["liver", f"{6 * VOXEL_ML:.1f}"]
    assert out[-1] == f"{ct_path}: 1.5 s; wrote {target}"
    assert err == ["note: looked everywhere"]
    assert files_in(tmp_path) == ["case_0000.nii.gz", "labels.nii.gz"]


def test_a_reference_gives_dice_scores_of_the_organs_it_has(flare, nets, ct_path, tmp_path):
    reference = labels_zyx()
    reference[1, 3, 3] = 0  # half of the aorta: 2 * 1 / (2 + 1)
    path = save_labels(tmp_path / "reference.nii.gz", reference)
    code, out, _ = flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", "--reference", path)
    assert code == 0
    assert out[0].split() == ["organ", "mL", "Dice", "with", "reference"]
    assert [out[i].split()[-1] for i in (1, 5)] == ["1.000", "0.667"]
    assert out[2].endswith("not in it")
    assert out[14].split() == ["mean", "of", "the", "2", "organs", "in", "it", "0.833"]


def test_a_figure_is_saved_beside_the_labels(flare, nets, ct_path, tmp_path):
    figure = tmp_path / "overlay.png"
    code, out, _ = flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", "--figure", figure)
    assert code == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert out[-1].endswith(f"wrote {tmp_path / 'labels.nii.gz'} and {figure}")


def test_several_cts_go_into_a_folder_and_a_bad_one_does_not_stop_the_others(flare, nets, tmp_path):
    first, last = (save(tmp_path / f"{name}_0000.nii.gz", grey_values()) for name in ("a", "c"))
    bad = save(tmp_path / "b.nii", grey_values().astype(np.uint8))
    (tmp_path / "out").mkdir()
    code, out, err = flare("segment", first, bad, last, "-o", tmp_path / "out")
    assert code == 2
    assert files_in(tmp_path / "out") == ["a.nii.gz", "c.nii.gz"]
    assert [line for line in err if line.startswith("error: ")] == [line for line in err if "b.nii" in line]
    assert len([line for line in out if "wrote" in line]) == 2


def truncated(path):
    whole = gzip.compress(gzip.decompress(save(path, grey_values((40, 41, 42))).read_bytes()))
    path.write_bytes(whole[: len(whole) // 2])


def sheared(path):
    affine = AFFINE.copy()
    affine[0, 1] = 0.8
    save(path, grey_values(), affine)


def without_spacing(path):
    image = nib.Nifti1Image(grey_values(), AFFINE)
    raw = bytearray(image.to_bytes())
    raw[80:84] = bytes(4)  # pixdim[1] of a NIfTI-1 header
    path.write_bytes(gzip.compress(bytes(raw)))


BAD_CTS = {
    "missing": (lambda path: None, "must exist"),
    "truncated": (truncated, "must be a complete NIfTI file"),
    "4-D": (lambda path: save(path, grey_values((7, 6, 5, 2))), "must be a 3-D image, got shape (7, 6, 5, 2)"),
    "2-D": (lambda path: save(path, grey_values((7, 6))), "must be a 3-D image, got shape (7, 6)"),
    "label map": (lambda path: save_labels(path, labels_zyx()), "must be a CT in HU"),
    "NaN": (lambda path: save(path, np.full(SHAPE_XYZ, np.nan, np.float32)), "must hold finite numbers only"),
    "spacing 0": (without_spacing, "must be 3 positive numbers (x, y, z), got (0.0, 2.0, 3.0)"),
    "sheared": (sheared, "must have axes at right angles"),
    "another format": (lambda path: path.write_text("no image"), "must be a complete NIfTI file, got"),
}


@pytest.mark.parametrize("kind", BAD_CTS)
@pytest.mark.parametrize("command", ["info", "segment"])
def test_a_bad_ct_is_told_in_one_line_and_leaves_nothing(flare, nets, tmp_path, command, kind):
    make, message = BAD_CTS[kind]
    path = tmp_path / "ct.nii.gz"
    make(path)
    before = files_in(tmp_path)
    outputs = ["-o", tmp_path / "labels.nii.gz", "--figure", tmp_path / "f.png"] if command == "segment" else []
    assert_refused(flare(command, path, *outputs), message)
    assert nets == []
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("labels.png", "an output must end in .nii or .nii.gz"),
        ("nowhere/labels.nii.gz", "the output's folder must exist"),
        ("case_0000.nii.gz/labels.nii.gz", "the output's folder must exist"),
        ("case_0000.nii.gz", "every output must be a file of its own, not an input"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_before_any_work(flare, nets, ct_path, tmp_path, output, message):
    assert_refused(flare("segment", ct_path, "-o", tmp_path / output), message)
    assert nets == []
    assert files_in(tmp_path) == ["case_0000.nii.gz"]


def test_inputs_are_never_overwritten_through_a_folder(flare, nets, tmp_path):
    ct = save(tmp_path / "case.nii.gz", grey_values())
    assert_refused(flare("segment", ct, "-o", tmp_path), "every output must be a file of its own, not an input")


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


@pytest.fixture
def two_folders(tmp_path):
    """Folders of predictions and references: case a, half of whose liver is found, and b, all of it."""
    for name, last in (("a", 6), ("b", 10)):
        for folder, stop in (("found", last), ("true", 10)):
            (tmp_path / folder).mkdir(exist_ok=True)
            labels = np.zeros((6, 8, 12), np.uint8)
            labels[1:5, 2:6, 2:stop] = 1
            save_label_map(tmp_path / folder / f"{name}.nii.gz", labels, Volume.from_array(labels, (3.0, 2.0, 1.0)))
    return tmp_path / "found", tmp_path / "true"


def test_label_maps_are_scored_against_references(flare, two_folders, tmp_path):
    table, figure = tmp_path / "scores.csv", tmp_path / "scores.png"
    code, out, err = flare("evaluate", *two_folders, "-o", table, "--figure", figure)
    assert (code, err) == (0, [])
    assert out[1].split()[:2] == ["liver", "0.8334"]  # of 0.6667 and 1
    assert "a (0.6667)" in out[1]
    assert out[-1] == f"2 of 2 cases scored; wrote {table} and {figure}"
    assert table.read_text().splitlines()[1].startswith("a,0.6667,1,")
    assert figure.stat().st_size > 5000


def test_a_case_that_cannot_be_scored_is_named_and_does_not_stop_the_others(flare, two_folders, tmp_path):
    (two_folders[0] / "b.nii.gz").write_bytes(b"")
    code, out, err = flare("evaluate", *two_folders, "-o", tmp_path / "scores.csv")
    assert code == 2
    assert len(err) == 1
    assert err[0].startswith("error: b: ")
    assert out[-1].startswith("1 of 2 cases scored")
    (two_folders[0] / "a.nii.gz").unlink()
    code, out, err = flare("evaluate", *two_folders, "-o", tmp_path / "none.csv")
    assert (code, out, len(err)) == (2, [], 2)
    assert not (tmp_path / "none.csv").exists()


def test_a_table_of_scores_has_a_place_and_a_name_before_any_work(flare, two_folders, tmp_path):
    assert_refused(flare("evaluate", *two_folders, "-o", tmp_path / "s.txt"), "must be a .csv file")
    assert_refused(flare("evaluate", *two_folders, "-o", tmp_path / "no" / "s.csv"), "table's folder must exist")
    assert_refused(flare("evaluate", tmp_path, two_folders[1], "-o", tmp_path / "s.csv"), "must hold label maps")


def test_several_cts_need_a_folder_and_have_no_reference(flare, nets, ct_path, tmp_path):
    answer = flare("segment", ct_path, ct_path, "-o", tmp_path / "labels.nii.gz")
    assert_refused(answer, "for 2 CTs, --output must be an existing folder")
    other = save(tmp_path / "other.nii.gz", grey_values())
    (tmp_path / "out").mkdir()
    answer = flare("segment", ct_path, other, "-o", tmp_path / "out", "--reference", other)
    assert_refused(answer, "--reference and --figure need exactly one CT, got 2")


def test_two_cts_of_one_name_cannot_share_a_file(flare, nets, ct_path, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "more").mkdir()
    other = save(tmp_path / "more" / ct_path.name, grey_values())
    assert_refused(flare("segment", ct_path, other, "-o", tmp_path / "out"), "or another output, got")


def test_a_reference_on_another_grid_is_refused(flare, nets, ct_path, tmp_path):
    moved = AFFINE.copy()
    moved[2, 3] += 3.0
    path = save_labels(tmp_path / "reference.nii.gz", labels_zyx(), moved)
    answer = flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", "--reference", path)
    assert_refused(answer, "must lie on the CT's grid, got a corner 3.0 mm away")
    assert not (tmp_path / "labels.nii.gz").exists()


def test_a_reference_with_other_labels_is_refused(flare, nets, ct_path, tmp_path):
    path = save_labels(tmp_path / "reference.nii.gz", labels_zyx() * 3)
    answer = flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", "--reference", path)
    assert_refused(answer, "must hold the labels 0 to 13 of FLARE 2022, got 15")
    assert not (tmp_path / "labels.nii.gz").exists()


@pytest.mark.parametrize("device", ["gpu", "meta:x", "xpu:7"])
def test_a_device_that_is_not_there_is_refused(flare, nets, ct_path, tmp_path, device):
    answer = flare("segment", ct_path, "-o", tmp_path / "labels.nii.gz", "--device", device)
    assert_refused(answer, f"device must be auto or one that torch can use here, got {device} (")


def test_a_phantom_is_saved_with_its_labels_on_one_grid(flare, tmp_path):
    ct, labels = tmp_path / "ct.nii.gz", tmp_path / "labels.nii.gz"
    options = ["--seed", 3, "--spacing", 12, 10, 9, "--shape", 20, 30, 40]
    code, out, _ = flare("phantom", ct, labels, *options)
    assert code == 0
    assert out == [f"wrote {ct} and {labels}: 20 x 30 x 40 voxels (z, y, x), seed 3"]
    expected_ct, expected_labels = phantom.phantom_case(3, spacing_zyx_mm=(12, 10, 9), shape_zyx=(20, 30, 40))
    np.testing.assert_array_equal(load_ct(ct).array_zyx, expected_ct.array_zyx)
    np.testing.assert_array_equal(load_label_map(labels).array_zyx, expected_labels.array_zyx)
    assert load_label_map(labels).spacing_zyx_mm == (12.0, 10.0, 9.0)


def test_a_phantom_of_an_unknown_field_of_view_or_into_one_file_is_refused(flare, tmp_path):
    one, two = tmp_path / "one.nii.gz", tmp_path / "two.nii.gz"
    assert_refused(flare("phantom", one, one), "or another output, got")
    assert_refused(flare("phantom", one, two, "--field-of-view", "foot"), "foot")
    assert files_in(tmp_path) == []


def test_fetch_says_what_it_brought_and_copies_it(flare, monkeypatch, ct_path, tmp_path):
    labels = save_labels(tmp_path / "labels.nii.gz", labels_zyx())
    asked = []

    def sample_or_phantom(*, offline):
        asked.append(offline)
        return SampleCase(ct_path, labels, "a test")

    monkeypatch.setattr(sources, "sample_or_phantom", sample_or_phantom)
    assert flare("fetch", "--offline") == (0, [f"CT:     {ct_path}", f"labels: {labels}"], ["this is a test"])
    code, out, _ = flare("fetch", "--to", tmp_path / "new" / "folder")
    assert (code, asked) == (0, [True, False])
    assert out[0] == f"CT:     {tmp_path / 'new' / 'folder' / 'ct.nii.gz'}"
    assert (tmp_path / "new" / "folder" / "reference.nii.gz").read_bytes() == labels.read_bytes()


@pytest.fixture
def course(tmp_path):
    """A folder with one notebook, which divides 6 by its parameter."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [nbformat.v4.new_markdown_cell("# Divide"), nbformat.v4.new_code_cell("by = 2")]
    cells[1].metadata["tags"] = ["parameters"]
    cells.append(nbformat.v4.new_code_cell("6 / by"))
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "00_divide.ipynb")
    return folder


def test_notebooks_are_executed_with_time_title_and_a_page(flare, course, tmp_path):
    code, out, _ = flare("notebooks", course, "--out", tmp_path / "out", "--only", "00", "-p", "by=3")
    assert code == 0
    assert out[0].endswith(" s  00_divide: Divide")
    assert out[1] == f"wrote {tmp_path / 'out' / 'index.html'}, the page that leads to all of them"
    _, out, _ = flare("notebooks", course, "--out", tmp_path / "out", "-p", "by=3")
    assert out[0].endswith("00_divide: Divide (unchanged, not run again)")


def test_a_failing_notebook_shows_its_own_error_and_exits_with_1(flare, course, tmp_path):
    code, _, err = flare("notebooks", course, "--out", tmp_path / "out", "-p", "by=0")
    assert code == 1
    assert err[:3] == [
        "error: 00_divide.ipynb stopped in cell [3]:",
        "6 / by",
        "ZeroDivisionError: division by zero",
    ]


def test_notebooks_that_are_not_there_and_parameters_they_do_not_have_are_refused(flare, course, tmp_path):
    out = tmp_path / "out"
    assert_refused(flare("notebooks", tmp_path, "--out", out), "a folder with notebooks is needed")
    assert_refused(flare("notebooks", course, "--out", out, "--only", "07"), "a notebook must be one of 00_divide")
    assert_refused(flare("notebooks", course, "--out", out, "-p", "buy=3"), "known to a notebook (by), got buy")
    assert_refused(flare("notebooks", course, "--out", out, "-p", "by"), "must be written name=value, got 'by'")
    assert not out.exists()


def test_an_install_without_the_notebooks_is_told_what_it_lacks(flare, course, monkeypatch):
    monkeypatch.delitem(sys.modules, "flare_lib.notebooks", raising=False)
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert_refused(flare("notebooks", course), 'notebooks need pip install "flare-lib[notebooks]", got no papermill')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n_steps=3", ("n_steps", 3)),
        ("rate=1e-3", ("rate", 0.001)),
        ("full=True", ("full", True)),
        ("patch=(1, 2, 3)", ("patch", (1, 2, 3))),
        ("path=a/b=c.nii", ("path", "a/b=c.nii")),
        ("name=", ("name", "")),
    ],
)
def test_a_parameter_is_a_python_literal_or_text(text, expected):
    assert cli.parse_setting(text) == expected


@pytest.mark.parametrize("text", ["n_steps", "=3", "n steps=3"])
def test_a_parameter_without_a_name_or_a_value_is_refused(text):
    with pytest.raises(ValueError, match="must be written name=value, got "):
        cli.parse_setting(text)


@pytest.fixture
def persons(tmp_path):
    """A folder with one person's structures: a liver."""
    folder = tmp_path / "persons"
    folder.mkdir()
    array = np.zeros((24, 20, 14), np.uint8)
    array[12:20, 5:15, 3:11] = 1
    save(folder / "s1_totalseg117.nii.gz", array, np.diag([8.0, 8.0, 8.0, 1.0]))
    (folder / "names.json").write_text('{"1": "liver"}')
    return folder


SMALL = ("patch_size=(8,16,12)", "features_per_stage=(4,6,8)", "strides=((2,2,2),(1,2,2))", "n_heads=2", "n_steps=2")


def test_train_writes_weights_that_segment_can_use(flare, persons, tmp_path):
    settings = [part for setting in (*SMALL, "spacing_zyx_mm=(8,8,8)") for part in ("--set", setting)]
    settings += ["--set", 'sources={"label_maps": 1.0}']
    for stage, start in (("coarse", []), ("fine", ["--init", tmp_path / "trained" / "coarse"])):
        code, out, err = flare(
            *("train", stage, "--label-maps", persons, "-o", tmp_path / "trained", "--workers", "0"), *start, *settings
        )
        assert (code, err) == (0, [])
        assert out[-1].startswith("2 steps")
        assert (stage == "fine") == (f"started from all tensors of {tmp_path / 'trained' / 'coarse'}" in out[0])
        assert out[-1].endswith(f"wrote {tmp_path / 'trained' / stage}.safetensors and its card")
    coarse, fine = coarse_to_fine.load_stages(tmp_path / "trained")
    assert (coarse.patch_size, fine.preprocessing.spacing_zyx_mm) == ((8, 16, 12), (8.0, 8.0, 8.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["middle"], "stage must be one of coarse, fine, got 'middle'"),
        (["coarse", "--set", "epochs=3"], "got epochs"),
        (["coarse", "--preset", "best"], "preset must be one of"),
        (["coarse", "--set", "n_steps=0"], "n_steps must be 1 or more, got 0"),
        (["coarse", "--init", "nowhere"], "nowhere"),
    ],
)
def test_a_run_that_cannot_be_is_told_before_any_work(flare, persons, tmp_path, arguments, message):
    code, out, err = flare("train", "--label-maps", persons, "-o", tmp_path / "trained", *arguments)
    assert (code, out, len(err)) == (2, [], 1)
    assert message in err[0]
    assert not (tmp_path / "trained").exists()


def test_training_needs_persons(flare, tmp_path):
    code, _, err = flare("train", "coarse", "--label-maps", tmp_path, "-o", tmp_path / "trained")
    assert (code, len(err)) == (2, 1)
    assert "must hold */segmentations or *totalseg117*.nii.gz" in err[0]


def test_check_tells_every_problem_and_fails(flare, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    save(tmp_path / "images" / "a_0000.nii.gz", grey_values())
    save_labels(tmp_path / "labels" / "a.nii.gz", labels_zyx() * 3)
    save(tmp_path / "images" / "b_0000.nii.gz", grey_values())
    code, out, _ = flare("check", tmp_path)
    assert code == 1
    assert out[0].startswith("a: labels must be 0 to 13, got ")
    assert out[-1] == "2 cases, 1 of them with labels: 1 with problems"
    (tmp_path / "labels" / "a.nii.gz").unlink()
    code, out, _ = flare("check", tmp_path)
    assert (code, out) == (0, ["2 cases, 0 of them with labels: none with problems"])


def test_a_folder_without_cases_cannot_be_checked(flare, tmp_path):
    assert_refused(flare("check", tmp_path), "must hold CTs")


def test_profile_measures_any_command_and_passes_its_status_on(flare, tmp_path):
    code, out, _ = flare(
        "profile", "-o", tmp_path / "p.json", "--figure", tmp_path / "p.png", "--", sys.executable, "-c", "exit(3)"
    )
    assert code == 3
    assert out[0].startswith("wall time")
    assert out[-1] == f"the command ended with 3; wrote {tmp_path / 'p.json'} and {tmp_path / 'p.png'}"
    stored = json.loads((tmp_path / "p.json").read_text())
    assert stored["status"] == 3
    assert stored["command"][-2:] == ["-c", "exit(3)"]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "p.csv", "--", "true"], "must go to a .json file, got p.csv"),
        (["-o", "nowhere/p.json", "--", "true"], "folder must exist and be writable, got nowhere"),
        (["--", "no-such-command"], "no-such-command"),
    ],
)
def test_profile_says_what_it_cannot_do(flare, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = flare("profile", *arguments)
    assert code == 2
    assert said in err[0]
    assert list(tmp_path.iterdir()) == []


def test_measure_prints_and_writes_what_a_label_map_says(flare, tmp_path):
    ct, labels = save(tmp_path / "ct.nii.gz", grey_values()), save_labels(tmp_path / "labels.nii.gz", labels_zyx())
    code, out, _ = flare("measure", ct, labels, "-o", tmp_path / "organs.csv")
    assert code == 0
    assert out[1].split()[:2] == ["liver", f"{6 * VOXEL_ML:.1f}"]
    assert out[-1] == f"2 organs measured; wrote {tmp_path / 'organs.csv'}"
    assert len((tmp_path / "organs.csv").read_text().splitlines()) == 3
    code, _, err = flare("measure", ct, labels, "-o", tmp_path / "organs.txt")
    assert (code, "must be a .csv file" in err[0]) == (2, True)
    other = save_labels(tmp_path / "other.nii.gz", labels_zyx(), np.diag([1.0, 2.0, 3.0, 1.0]))
    code, _, err = flare("measure", ct, other)
    assert (code, "must lie on the CT's grid" in err[0]) == (2, True)


def test_editions_are_made_of_a_folder_of_notebooks(flare, tmp_path):
    code, out, err = flare("editions", tmp_path)
    assert (code, "without any" in err[0]) == (2, True)
    (tmp_path / "course").mkdir()
    cells = [
        nbformat.v4.new_markdown_cell("<details><summary>Solution</summary>`answer = 4`</details>"),
        nbformat.v4.new_code_cell("answer = None"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "course" / "00_a.ipynb")
    code, out, _ = flare("editions", tmp_path / "course")
    assert (code, out) == (0, [f"wrote {tmp_path / 'course-students'} and {tmp_path / 'course-teachers'}"])
