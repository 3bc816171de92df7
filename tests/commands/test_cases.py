"""Cases: what is said of a CT, what is made and fetched, what is wrong with a folder of them."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from dicoms import SERIES, every, other_series, write_series
from pydicom import uid
from scans import AFFINE, SHAPE_XYZ, assert_refused, files_in, grey_values, labels_zyx, save, save_labels

from flare_lib.ct.files import load_ct, load_label_map
from flare_lib.data import sources, unlabelled
from flare_lib.data.archives import SourceUnavailable
from flare_lib.data.sources import SampleCase
from flare_lib.machine import hardware
from flare_lib.synthetic import phantom


def test_fetch_says_what_it_brought_and_copies_it(flare, monkeypatch, ct_path, tmp_path):
    labels = save_labels(tmp_path / "labels.nii.gz", labels_zyx())
    asked = []

    def sample_or_phantom(cache):
        asked.append(cache.offline)
        return SampleCase(ct_path, labels, "a test")

    monkeypatch.setattr(sources, "sample_or_phantom", sample_or_phantom)
    assert flare("fetch", "--offline") == (0, [f"CT:     {ct_path}", f"labels: {labels}"], ["this is a test"])
    code, out, _ = flare("fetch", "--to", tmp_path / "new" / "folder")
    assert (code, asked) == (0, [True, False])
    assert out[0] == f"CT:     {tmp_path / 'new' / 'folder' / 'ct.nii.gz'}"
    assert (tmp_path / "new" / "folder" / "reference.nii.gz").read_bytes() == labels.read_bytes()


def test_fetch_brings_cts_without_labels_into_a_folder(flare, monkeypatch, tmp_path):
    monkeypatch.setattr(unlabelled, "fetch_unlabelled", lambda one, to, cache: to / one.name)
    code, out, _ = flare("fetch", "--unlabelled", "--to", tmp_path)
    assert (code, len(out)) == (0, 4)
    assert out[0] == f"{tmp_path / unlabelled.UNLABELLED[0].name}: {unlabelled.UNLABELLED[0].about}"
    assert_refused(flare("fetch", "--unlabelled"), "--unlabelled needs --to")

    def gone(one, to, cache):
        if one is unlabelled.UNLABELLED[1]:
            raise SourceUnavailable("no longer there")
        return to / one.name

    monkeypatch.setattr(unlabelled, "fetch_unlabelled", gone)
    code, out, err = flare("fetch", "--unlabelled", "--to", tmp_path)
    assert (code, len(out), err) == (2, 3, ["error: no longer there"])


def test_info_says_what_the_machine_is(flare, monkeypatch, ct_path):
    monkeypatch.setattr(
        hardware, "describe_machine", lambda: {"processor": "a test", "precision": "float32 (a reason)"}
    )
    assert flare("info", "--machine") == (0, ["processor         a test", "precision         float32 (a reason)"], [])
    assert flare("info")[2] == ["error: info needs a CT or --machine, got neither"]
    assert flare("info", "--machine", ct_path)[2] == ["error: info needs a CT or --machine, got both"]


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


def test_info_lists_the_series_of_a_folder_and_describes_the_only_one(flare, tmp_path):
    write_series(tmp_path / "ct", every(ConvolutionKernel="B30f"))
    code, out, err = flare("info", tmp_path / "ct")
    assert (code, err) == (0, [])
    assert out[:2] == [
        "Abdomen 3.0: CT (CT Image), 5 slices of 3 x 1.25 x 0.75 mm (z, y, x), kernel B30f",
        f"    --series {SERIES}",
    ]
    assert out[4] == "voxels (z, y, x)  5 x 6 x 7"


def test_info_of_a_folder_without_a_series_is_refused(flare, tmp_path):
    (tmp_path / "notes.txt").touch()
    assert_refused(flare("info", tmp_path), f"{tmp_path} must hold a DICOM series, got no DICOM file")


def test_info_lists_several_series_with_what_speaks_against_each(flare, tmp_path):
    other_series(write_series(tmp_path), 7, every(Modality="SR", SOPClassUID=uid.EnhancedSRStorage))
    other_series(tmp_path, 8, slices=[2])
    code, out, err = flare("info", tmp_path)
    assert (code, err) == (0, [])
    assert out == [
        "Abdomen 3.0: CT (CT Image), 5 slices of 3 x 1.25 x 0.75 mm (z, y, x)",
        f"    --series {SERIES}",
        "Abdomen 3.0: SR (Enhanced SR), 1 file (7_000.dcm)",
        f"    --series {SERIES}.7",
        f"    against it: {tmp_path / '7_000.dcm'} must be a CT, got SR (Enhanced SR)",
        "Abdomen 3.0: CT (CT Image), 1 slice of 5 x 1.25 x 0.75 mm (z, y, x) (8_002.dcm)",
        f"    --series {SERIES}.8",
        "    against it: a single slice",
        f"3 series in {tmp_path}",
    ]
    code, out, err = flare("info", tmp_path, "--series", SERIES)
    assert (code, out[2], err) == (0, "voxels (z, y, x)  5 x 6 x 7", [])
    assert_refused(flare("info", tmp_path, "--series", "1.2"), "--series must name one series in")


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
    "spacing 0": (without_spacing, "must be 0.01 to 100 mm along each axis (x, y, z), got (0, 2, 3)"),
    "sheared": (sheared, "must have axes at right angles"),
    "another format": (lambda path: path.write_text("no image"), "must be a NIfTI-1 or NIfTI-2 file, got 8 bytes"),
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


@pytest.mark.usefixtures("quick_phantoms")
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


def test_check_tells_every_problem_and_fails(flare, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    save(tmp_path / "images" / "a_0000.nii.gz", grey_values())
    save_labels(tmp_path / "labels" / "a.nii.gz", labels_zyx() * 3)
    save(tmp_path / "images" / "b_0000.nii.gz", grey_values())
    code, out, _ = flare("check", tmp_path)
    assert code == 1
    assert out[0].startswith("a: labels must be 0 to 13, or 255 where nothing is to be learnt, got ")
    assert out[-1] == "2 cases, 1 of them with labels: 1 with problems"
    (tmp_path / "labels" / "a.nii.gz").unlink()
    code, out, _ = flare("check", tmp_path)
    assert (code, out) == (0, ["2 cases, 0 of them with labels: none with problems"])


def test_a_folder_without_cases_cannot_be_checked(flare, tmp_path):
    assert_refused(flare("check", tmp_path), "must hold CTs")
    assert_refused(flare("check", tmp_path / "nowhere"), "a cohort must be a folder that exists, got ")
