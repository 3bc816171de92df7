"""Files in and out: every orientation, dtype and scaling, and one clear line for what is not a CT."""

import gzip
import os
import re
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from grids import ORDERS, grid_affine, random_hu, refusal_of, world_values, write_nifti
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_lib.ct.files import (
    check_writable,
    load_ct,
    load_label_map,
    load_labels_on,
    save_ct,
    save_label_map,
)
from flare_lib.ct.volume import Volume, to_file_axes


@pytest.mark.parametrize(("order", "signs"), ORDERS)
@pytest.mark.parametrize("degrees", [(0, 0, 0), (7, -11, 19)])
def test_every_orientation_keeps_its_values_in_the_world_and_goes_back(tmp_path, order, signs, degrees):
    array, affine = random_hu(), grid_affine(order, signs, degrees)
    volume = load_ct(write_nifti(tmp_path / "ct.nii", array, affine))
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert volume.array_zyx.flags.c_contiguous
    assert world_values(volume.array_zyx.T, volume.affine) == world_values(array, affine)
    np.testing.assert_allclose(volume.spacing_zyx_mm, np.array([0.75, 1.25, 3.0])[np.argsort(order)][::-1], rtol=1e-6)

    labels = (volume.array_zyx % 14).astype(np.uint8)
    save_label_map(tmp_path / "labels.nii.gz", labels, volume)
    saved = nib.load(tmp_path / "labels.nii.gz")
    assert saved.shape == array.shape
    np.testing.assert_array_equal(saved.affine, nib.load(tmp_path / "ct.nii").affine)
    np.testing.assert_array_equal(np.asanyarray(saved.dataobj), array % 14)
    back = load_label_map(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(back.array_zyx, labels)
    np.testing.assert_array_equal(back.affine, volume.affine)


@given(
    st.sampled_from(ORDERS),
    st.tuples(*[st.integers(-180, 180)] * 3),
    st.tuples(*[st.integers(1, 6)] * 3),
    st.tuples(*[st.floats(0.3, 8.0)] * 3),
    st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    st.sampled_from(["sform", "qform", "both"]),
)
@settings(max_examples=80)
def test_any_grid_comes_back_exactly(tmp_path_factory, orders, degrees, shape, spacing, image_class, form):
    folder = tmp_path_factory.mktemp("grid")
    array = random_hu(shape) - np.int16(2000)  # below 0, however few voxels there are
    image = image_class(array, grid_affine(*orders, degrees, spacing))
    image.header.set_sform(image.affine if form != "qform" else None, code=2 if form != "qform" else 0)
    image.header.set_qform(image.affine if form != "sform" else None, code=1 if form != "sform" else 0)
    image.to_filename(folder / "ct.nii")
    before = nib.load(folder / "ct.nii")
    volume = load_ct(folder / "ct.nii")
    save_ct(folder / "again.nii", volume)
    save_label_map(folder / "labels.nii", np.full(volume.shape_zyx, 13), volume)
    for name in ("again.nii", "labels.nii"):
        after = nib.load(folder / name)
        assert type(after) is image_class
        assert after.shape == before.shape
        np.testing.assert_array_equal(after.affine, before.affine)
        for field in ("sform_code", "qform_code", "xyzt_units"):
            assert after.header[field] == before.header[field]
        np.testing.assert_array_equal(after.header["pixdim"], before.header["pixdim"])
    np.testing.assert_array_equal(np.asanyarray(nib.load(folder / "again.nii").dataobj), array)


def test_labels_are_stored_as_uint8_with_slope_1_and_nothing_of_the_ct_but_its_geometry(tmp_path):
    image = nib.Nifti1Image(random_hu(), grid_affine())
    image.header["descrip"] = b"Mustermann^Max"
    image.header.set_slope_inter(2.0, -1024)
    image.to_filename(tmp_path / "ct.nii")
    ct = load_ct(tmp_path / "ct.nii")
    save_label_map(tmp_path / "labels.nii", np.ones(ct.shape_zyx, dtype=np.int64), ct)
    header = nib.Nifti1Header((tmp_path / "labels.nii").read_bytes()[:348], check=False)
    assert header.get_data_dtype() == np.uint8
    assert (header["scl_slope"], header["scl_inter"]) == (1.0, 0.0)
    assert header["descrip"].item() == b""


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", ">i4", "<i8", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_whole_numbers_are_int16_whatever_the_file_holds(tmp_path, dtype, suffix):
    array = random_hu(dtype=dtype)
    array[0, 0, 0] = -3024  # padding outside the field of view
    image = nib.Nifti1Image(array, grid_affine(), nib.Nifti1Header(endianness=dtype[0]))
    image.set_data_dtype(dtype)
    image.to_filename(tmp_path / f"ct{suffix}")
    volume = load_ct(tmp_path / f"ct{suffix}")
    assert volume.array_zyx.dtype == np.dtype(np.int16)
    np.testing.assert_array_equal(volume.array_zyx.T, array)


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "expected"),
    [
        (np.uint8, 10, -1000, np.int16),
        (np.uint16, 1, -1024, np.int16),
        (np.int16, 2, -300, np.int16),
        (np.int16, 0.5, -300, np.float32),
        (np.int16, 1000, -300, np.float32),  # whole numbers, too large for int16
        (np.int32, 1, -99.5, np.float32),
        (np.float32, 4, -1024, np.int16),
        (np.float64, 0, 99, np.int16),  # slope 0 means that nothing is scaled
    ],
)
def test_slope_and_intercept_are_applied_and_int16_is_kept_when_nothing_is_lost(
    tmp_path, dtype, slope, intercept, expected
):
    stored = np.random.default_rng(4).integers(0, 200, (5, 7, 9)).astype(dtype)
    if slope == 0:
        stored -= 1000
    stored[0] = 33  # the first slices are whole numbers even where later ones are not
    image = nib.Nifti1Image(stored, grid_affine((2, 1, 0)))
    image.set_data_dtype(dtype)
    image.to_filename(tmp_path / "ct.nii")
    with open(tmp_path / "ct.nii", "r+b") as file:  # scl_slope and scl_inter
        file.seek(112)
        file.write(np.array([slope, intercept], "<f4").tobytes())
    volume = load_ct(tmp_path / "ct.nii")
    assert volume.array_zyx.dtype == expected
    values = stored.astype(np.float64) * slope + intercept if slope else stored
    np.testing.assert_array_equal(to_file_axes(volume.array_zyx, volume.file_grid), values)


def test_fractions_in_the_last_slice_alone_are_kept(tmp_path):
    array = random_hu(dtype=np.float32)
    array[:, :, -1] += 0.25
    volume = load_ct(write_nifti(tmp_path / "ct.nii", array))
    assert volume.array_zyx.dtype == np.float32
    np.testing.assert_array_equal(volume.array_zyx.T, array)
    save_ct(tmp_path / "again.nii.gz", volume)
    assert nib.load(tmp_path / "again.nii.gz").get_data_dtype() == np.float32
    np.testing.assert_array_equal(load_ct(tmp_path / "again.nii.gz").array_zyx, volume.array_zyx)


def test_a_label_map_of_floats_is_loaded_as_uint8(tmp_path):
    labels = np.random.default_rng(6).integers(0, 118, (4, 6, 5))
    for dtype in (np.uint8, np.int16, np.float64):
        volume = load_label_map(write_nifti(tmp_path / "labels.nii.gz", labels.astype(dtype), grid_affine((1, 2, 0))))
        assert volume.array_zyx.dtype == np.uint8
        np.testing.assert_array_equal(to_file_axes(volume.array_zyx, volume.file_grid), labels)


def test_a_fourth_axis_of_length_1_is_dropped(tmp_path):
    volume = load_ct(write_nifti(tmp_path / "ct.nii", random_hu((5, 7, 9, 1))))
    assert volume.shape_zyx == (9, 7, 5)
    save_label_map(tmp_path / "labels.nii", np.zeros(volume.shape_zyx, np.uint8), volume)
    assert nib.load(tmp_path / "labels.nii").shape == (5, 7, 9)


def test_a_header_whose_qfac_is_0_is_read_as_the_standard_says(tmp_path):
    image = nib.Nifti1Image(random_hu(), None)
    image.header.set_qform(grid_affine(), code=1)
    image.to_filename(tmp_path / "ct.nii")
    with open(tmp_path / "ct.nii", "r+b") as file:
        file.seek(76)
        file.write(np.array([0], "<f4").tobytes())
    np.testing.assert_allclose(load_ct(tmp_path / "ct.nii").affine, grid_affine(), atol=1e-5)


def test_a_volume_made_in_memory_is_saved_on_its_own_grid(tmp_path):
    volume = Volume.from_array(random_hu((2, 3, 4)), (5.0, 2.0, 0.5))
    save_ct(tmp_path / "phantom.nii.gz", volume)
    again = load_ct(tmp_path / "phantom.nii.gz")
    np.testing.assert_array_equal(again.array_zyx, volume.array_zyx)
    np.testing.assert_array_equal(again.affine, volume.affine)
    assert again.spacing_zyx_mm == (5.0, 2.0, 0.5)
    header = nib.load(tmp_path / "phantom.nii.gz").header
    assert (header["sform_code"], header["qform_code"], header.get_xyzt_units()[0]) == (1, 1, "mm")


def _patched(path: Path, offset: int, values: np.ndarray) -> Path:
    """Return a file whose header is overwritten at an offset, as no library would write it."""
    with open(write_nifti(path, random_hu()), "r+b") as file:
        file.seek(offset)
        file.write(values.tobytes())
    return path


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must exist to be loaded, got .*missing\.nii\.gz"):
        load_ct(tmp_path / "missing.nii.gz")


def test_an_unknown_suffix_is_refused(tmp_path):
    (tmp_path / "ct.mha").write_bytes(b"")
    assert refusal_of(tmp_path / "ct.mha").startswith("an image must be a .nii or .nii.gz file, or a folder")


@pytest.mark.parametrize("kept", [0, 7, 200, 1000, -100, -5])
def test_a_truncated_gz_file_is_refused(tmp_path, kept, capfd):
    path = write_nifti(tmp_path / "ct.nii.gz", random_hu((20, 22, 24)))
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal_of(path).startswith("FILE must be a")
    assert capfd.readouterr() == ("", "")


def test_a_truncated_plain_file_is_refused(tmp_path):
    path = write_nifti(tmp_path / "ct.nii", random_hu())
    path.write_bytes(path.read_bytes()[:-1])
    assert "must be a complete NIfTI file, 982 bytes as its header declares, got 981" in refusal_of(path)


def test_a_damaged_gz_file_is_refused_by_its_checksum(tmp_path):
    path = tmp_path / "ct.nii.gz"
    write_nifti(tmp_path / "ct.nii", random_hu())
    damaged = bytearray(gzip.compress((tmp_path / "ct.nii").read_bytes(), compresslevel=0))
    damaged[-100] ^= 1  # stored, not compressed: a wrong HU that only the checksum tells
    path.write_bytes(damaged)
    assert re.search("incorrect data check|Incorrect checksum", refusal_of(path))  # zlib's word for it, or ISA-L's


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_a_file_that_is_not_nifti_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>not found</html>" * 100)
    assert refusal_of(tmp_path / name).startswith("FILE must be a")


def test_an_unknown_datatype_is_refused_in_one_line(tmp_path, capfd):
    assert "one real number per voxel, got data type 999 (not one of NIfTI's)" in refusal_of(
        _patched(tmp_path / "ct.nii", 70, np.array([999], "<i2"))
    )
    assert capfd.readouterr() == ("", "")


def test_colours_are_refused(tmp_path):
    rgb = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "one real number per voxel" in refusal_of(write_nifti(tmp_path / "ct.nii", rgb))
    assert "one real number per voxel, got data type 32 (complex64)" in refusal_of(
        write_nifti(tmp_path / "ct.nii", random_hu().astype(np.complex64))
    )


@pytest.mark.parametrize("shape", [(5, 7, 9, 2), (5, 7), (5,), (5, 7, 9, 1, 3)])
def test_an_image_that_is_not_3d_is_refused(tmp_path, shape):
    assert (
        refusal_of(write_nifti(tmp_path / "ct.nii", random_hu(shape))) == f"FILE must be a 3-D image, got shape {shape}"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(tmp_path, bad):
    array = random_hu(dtype=np.float64)
    array[2, 3, 4] = bad
    assert refusal_of(write_nifti(tmp_path / "ct.nii", array)).startswith(
        "FILE must hold finite numbers only, got NaN or Inf"
    )


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(1).integers(0, 14, (5, 7, 9)).astype(np.uint8),
        np.random.default_rng(1).integers(0, 14, (5, 7, 9)).astype(np.float32),
        np.zeros((5, 7, 9), np.int16),
        np.random.default_rng(1).integers(-1, 118, (5, 7, 9)).astype(np.int16),  # -1 for "ignore"
        np.random.default_rng(1).integers(0, 4096, (5, 7, 9)).astype(np.int16),  # the offset of 1024 is missing
        np.random.default_rng(1).normal(0, 1, (5, 7, 9)).astype(np.float32),  # normalised
    ],
)
def test_a_label_map_or_a_normalised_image_is_no_ct(tmp_path, array):
    message = refusal_of(write_nifti(tmp_path / "ct.nii.gz", array))
    assert f"must be a CT in HU: air and fat must lie well below 0, got values from {array.min():g} to" in message


def test_a_ct_of_soft_tissue_without_any_air_is_a_ct(tmp_path):
    tissue = np.random.default_rng(1).normal(40, 20, (20, 22, 24)).astype(np.int16)
    np.testing.assert_array_equal(load_ct(write_nifti(tmp_path / "ct.nii.gz", tissue)).array_zyx.T, tissue)


@pytest.mark.parametrize("bad", [0.0, -0.0, np.nan])
def test_a_spacing_of_0_is_refused_although_nibabel_would_repair_it(tmp_path, bad, capfd):
    message = refusal_of(_patched(tmp_path / "ct.nii", 84, np.array([bad], "<f4")))  # pixdim[2]
    assert (
        message == f"the spacing in FILE must be 0.01 to 100 mm along each axis (x, y, z), got (0.75, {abs(bad):g}, 3)"
    )
    assert capfd.readouterr() == ("", "")


def test_an_affine_with_an_axis_of_length_0_is_refused(tmp_path):
    assert "finite, with 3 axes longer than 0" in refusal_of(
        _patched(tmp_path / "ct.nii", 280, np.zeros(4, "<f4"))
    )  # srow_x


def test_a_sheared_affine_is_refused_and_a_rounded_one_is_not(tmp_path):
    sheared, rounded = grid_affine(), grid_affine()
    sheared[1, 2] = 0.6
    rounded[1, 2] = 0.003
    assert "must have axes at right angles" in refusal_of(write_nifti(tmp_path / "ct.nii", random_hu(), sheared))
    assert "got axes 11.3 degrees off" in refusal_of(write_nifti(tmp_path / "ct.nii", random_hu(), sheared))
    volume = load_ct(write_nifti(tmp_path / "ct.nii", random_hu(), rounded))
    save_ct(tmp_path / "again.nii", volume)
    np.testing.assert_array_equal(nib.load(tmp_path / "again.nii").affine, nib.load(tmp_path / "ct.nii").affine)


def test_a_file_that_does_not_say_how_it_lies_in_the_patient_is_refused(tmp_path):
    assert "sform or qform" in refusal_of(_patched(tmp_path / "ct.nii", 252, np.zeros(2, "<i2")))


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.array([[[0, 1, 256]]], np.int16), "256 at voxel (0, 0, 2) (x, y, z)"),
        (np.array([[[0, -1, 1]]], np.int16), "-1 at voxel (0, 0, 1) (x, y, z)"),
        (np.array([[[0], [2.5]]], np.float32), "2.5 at voxel (0, 1, 0) (x, y, z): was it interpolated, or scaled?"),
    ],
)
def test_labels_that_are_not_0_to_255_are_refused(tmp_path, array, got):
    message = refusal_of(write_nifti(tmp_path / "labels.nii", array), load_label_map)
    assert message == f"FILE must be a label map, whole numbers from 0 to 255; got {got}"


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (np.full((2, 3, 4), 256), "int64, 256 to 256"),
        (np.full((2, 3, 4), -1), "int64, -1 to -1"),
        (np.full((2, 3, 4), 0.5), "float64, 0.5 to 0.5"),
    ],
)
def test_labels_that_uint8_cannot_hold_are_not_saved(tmp_path, labels, got):
    like = Volume.from_array(np.zeros((2, 3, 4), np.int16), (5.0, 2.0, 0.5))
    with pytest.raises(ValueError, match=f"integers from 0 to 255, got {got}"):
        save_label_map(tmp_path / "labels.nii.gz", labels, like)
    with pytest.raises(ValueError, match="volume's shape"):
        save_label_map(tmp_path / "labels.nii.gz", np.zeros((4, 3, 2), np.uint8), like)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("like", ["ct.nii.gz", np.zeros((2, 3, 4))])
def test_labels_are_saved_like_a_volume_alone(tmp_path, like):
    with pytest.raises(TypeError, match=f"like must be a Volume, .* got {type(like).__name__}"):
        save_label_map(tmp_path / "labels.nii.gz", np.zeros((2, 3, 4), np.uint8), like)


def test_labels_of_a_ct_lie_on_its_grid_and_belong_to_its_label_set(tmp_path):
    ct = Volume.from_array(np.zeros((3, 4, 5), np.int16), (2.5, 1.5, 0.8))
    labels = np.zeros(ct.shape_zyx, np.uint8)
    labels[1, 2, 3] = 14
    save_label_map(tmp_path / "labels.nii", labels, ct)
    np.testing.assert_array_equal(load_labels_on(ct, tmp_path / "labels.nii", n_classes=15), labels)
    with pytest.raises(ValueError, match=r"the labels of .*labels\.nii must be 0 to 13, got 0 to 14"):
        load_labels_on(ct, tmp_path / "labels.nii")
    save_label_map(tmp_path / "wide.nii", labels, Volume.from_array(labels, (2.5, 1.5, 0.9)))
    with pytest.raises(ValueError, match=r"wide\.nii must lie on the CT's grid, got a corner 0\.4 mm away"):
        load_labels_on(ct, tmp_path / "wide.nii")


def test_an_unwritable_output_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.nii").mkdir()
    for name, reason in (
        ("labels.png", "must end in .nii or .nii.gz"),
        ("missing/labels.nii", "folder must exist"),
        ("file/labels.nii", "folder must exist"),
        ("folder.nii", "must be a file that may be replaced"),
    ):
        with pytest.raises(ValueError, match=reason):
            check_writable(tmp_path / name)

    def refuse(**_where):  # root may write anywhere
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="folder must be writable"):
        patch.setattr(tempfile, "TemporaryFile", refuse)
        check_writable(tmp_path / "labels.nii")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.nii"]
    check_writable(tmp_path / "labels.nii.gz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.nii"]


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    volume = Volume.from_array(random_hu((2, 3, 4)), (5.0, 2.0, 0.5))
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(b"old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_ct(path, volume)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("ct.nii.gz", b"old")]


def test_the_file_that_was_loaded_can_be_saved_over(tmp_path):
    path = write_nifti(tmp_path / "ct.nii", random_hu())
    volume = load_ct(path)
    save_ct(path, volume.with_array(volume.array_zyx + np.int16(1)))
    np.testing.assert_array_equal(load_ct(path).array_zyx.T, random_hu() + 1)


@pytest.mark.parametrize("name", ["labels.Nii", "labels.nii.GZ", "LABELS.NII.gz"])
def test_an_ending_is_written_in_letters_of_any_size(tmp_path, name):
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    save_label_map(tmp_path / name, labels, Volume.from_array(labels, (3.0, 2.0, 1.5)))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert ((tmp_path / name).read_bytes()[:2] == b"\x1f\x8b") == name.lower().endswith(".gz")
    np.testing.assert_array_equal(load_label_map(tmp_path / name).array_zyx, labels)
