"""NIfTI files as people meet them: right, or refused in one line; never read as something else."""

import bz2
import os
import tracemalloc
import unicodedata

import nibabel as nib
import numpy as np
import pytest
from niftis import AFFINE, SPACING, body_hu, gzipped, header, nifti, put, refusal

from flare_lib.ct.files import check_writable, load_ct, load_label_map, save_ct, save_label_map
from flare_lib.ct.folders import find_cts, find_images
from flare_lib.ct.volume import Volume
from flare_lib.evaluation.cohort_scores import Pair, score_pair

MIRRORED = np.diag([-1.0, 1.0, 1.0, 1.0]) @ AFFINE
TURNED = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE
LABELS = (body_hu() > 0).astype(np.uint8)


def rows(affine):
    return {f"srow_{axis}": affine[i] for i, axis in enumerate("xyz")}


def pixdim(*spacing, qfac=1.0):
    return {"pixdim": [qfac, *spacing, 0, 0, 0, 0]}


def tilted(degrees):
    """Return AFFINE turned about z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.eye(4)
    turn[:2, :2] = [[c, -s], [s, c]]
    return turn @ AFFINE


def read(tmp_path, data, load=load_ct):
    """Return a file's values in its own axes (x, y, z), when it is canonical, and its volume."""
    volume = load(put(tmp_path / "case.nii", data))
    return volume.array_zyx.T, volume


def refused(tmp_path, data, load=load_ct):
    return refusal(put(tmp_path / "case.nii", data), load)


# What the file holds beside what its header declares


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("pack", [bytes, gzipped])
def test_more_voxels_than_a_file_can_hold_are_refused_before_anything_is_allocated(tmp_path, version, pack):
    dim = [3, 32767, 32767, 32767, 1, 1, 1, 1] if version == 1 else [3, 2**40, 2**40, 2**40, 1, 1, 1, 1]
    data = pack(nifti(version=version, dim=dim, **pixdim(0.05, 0.05, 0.05)))
    tracemalloc.start()
    message = refused(tmp_path, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "must be a complete NIfTI file" in message
    assert "bytes as its header declares" in message
    assert peak < 2**20


def test_fewer_voxels_than_the_file_holds_are_refused(tmp_path):
    message = refused(tmp_path, nifti(dim=[3, 20, 18, 8, 1, 1, 1, 1]))
    assert message == "FILE must end with the last voxel that its header declares, got more: is the header damaged?"


@pytest.mark.parametrize("kept", [-1, -4000, 352, 353])
def test_a_cut_file_is_refused(tmp_path, kept):
    data = nifti()
    message = refused(tmp_path, data[:kept])
    n_bytes = len(data[:kept])
    assert message == f"FILE must be a complete NIfTI file, 8,992 bytes as its header declares, got {n_bytes:,}"


@pytest.mark.parametrize(("version", "kept"), [(1, 4), (1, 347), (2, 348), (2, 539)])
def test_a_file_cut_in_its_header_is_refused(tmp_path, version, kept):
    assert "must be a complete NIfTI file" in refused(tmp_path, nifti(version=version)[:kept])


def test_a_block_filled_up_with_zeros_is_read(tmp_path):
    values, _ = read(tmp_path, nifti(behind=bytes(512)))
    np.testing.assert_array_equal(values, body_hu())


@pytest.mark.parametrize("behind", [bytes(513), b"\n", bytes(100) + b"x"])
def test_more_than_padding_behind_the_voxels_is_refused(tmp_path, behind):
    assert "must end with the last voxel" in refused(tmp_path, nifti(behind=behind))


def test_an_empty_file_is_refused(tmp_path):
    assert refused(tmp_path, b"") == "FILE must be a NIfTI-1 or NIfTI-2 file, got an empty file"


def test_a_file_of_zeros_is_refused(tmp_path):
    assert "got nothing but zeros (an unfinished download?)" in refused(tmp_path, bytes(10000))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"<!DOCTYPE html><html><body>404 not found", "a web page, or other markup"),
        (b'{"message": "not found"}', "JSON"),
        (b"PK\x03\x04" + bytes(600), "a zip archive"),
        (bz2.compress(bytes(600)), "a bzip2 file"),
        (b"\xfd7zXZ\x00" + bytes(600), "an xz file"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "a zstd file"),
        (b"NRRD0005\ntype: short\n", "an NRRD file"),
        (b"ObjectType = Image\nNDims = 3\n", "a MetaImage"),
        (b"\x93NUMPY\x01\x00" + bytes(600), "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file"),
    ],
)
def test_another_format_under_a_nifti_name_is_refused_by_its_own_name(tmp_path, data, name):
    assert refused(tmp_path, data) == f"FILE must be a NIfTI-1 or NIfTI-2 file, got {name}"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a pointer of Git LFS"),
        (b"/annex/objects/SHA256E-s1--0.nii.gz\n", "a pointer of git-annex"),
    ],
)
def test_a_pointer_left_in_place_of_a_file_is_refused(tmp_path, data, name):
    assert f"got {name} instead of the file it stands for" in refused(tmp_path, data)


def test_a_dicom_file_under_a_nifti_name_is_refused(tmp_path):
    assert refused(tmp_path, b"\1" * 128 + b"DICM" + bytes(300)).endswith("got a DICOM file")


# What the header says of the voxels


def test_the_header_of_a_pair_is_refused(tmp_path):
    assert "got the header of a pair (.hdr and .img)" in refused(tmp_path, nifti(magic=b"ni1"))


def test_analyze_which_does_not_tell_left_from_right_is_refused(tmp_path):
    assert "Analyze 7.5, which does not tell left from right" in refused(tmp_path, nifti(magic=b""))


@pytest.mark.parametrize("name", ["case.hdr", "case.img", "case.nii.bz2", "case.gz", "case"])
def test_a_name_that_is_not_niftis_is_refused(tmp_path, name):
    assert refusal(put(tmp_path / name, nifti())).startswith("an image must be a .nii or .nii.gz file, or a folder")


def test_a_file_transferred_as_text_is_refused(tmp_path):
    message = refused(tmp_path, nifti(version=2).replace(b"\r\n", b"\n", 1))
    assert message.endswith(r"got line ends b'\n\x1a\n\x04': was it transferred as text?")


@pytest.mark.parametrize("n", [0, -12])
def test_an_axis_without_voxels_is_refused(tmp_path, n):
    message = refused(tmp_path, nifti(dim=[3, 20, 18, n, 1, 1, 1, 1]))
    assert message == f"FILE must be a 3-D image, got shape (20, 18, {n})"


@pytest.mark.parametrize("n", [0, 8, -3])
def test_a_number_of_axes_that_cannot_be_is_refused(tmp_path, n):
    message = refused(tmp_path, nifti(dim=[n, 20, 18, 12, 1, 1, 1, 1]))
    assert message == f"FILE must be a 3-D image, got a header of {n} axes"


def test_further_axes_of_length_1_are_dropped(tmp_path):
    for n_axes in (4, 5, 7):
        values, _ = read(tmp_path, nifti(dim=[n_axes, 20, 18, 12, 1, 1, 1, 1]))
        np.testing.assert_array_equal(values, body_hu())


def test_several_volumes_in_a_file_are_refused(tmp_path):
    message = refused(tmp_path, nifti(dim=[4, 20, 18, 6, 2, 1, 1, 1]))
    assert message == "FILE must be a 3-D image, got shape (20, 18, 6, 2)"


def test_axes_beyond_the_number_of_axes_do_not_count(tmp_path):
    values, _ = read(tmp_path, nifti(dim=[3, 20, 18, 12, 5, 0, -1, 9]))
    np.testing.assert_array_equal(values, body_hu())


def test_bits_that_contradict_the_data_type_are_refused(tmp_path):
    message = refused(tmp_path, nifti(bitpix=32))
    assert (
        message == "the header of FILE must not contradict itself, got 32 bits per voxel and data type 4, which has 16"
    )


def test_bits_that_were_never_filled_in_are_no_contradiction(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, nifti(bitpix=0))[0], body_hu())


@pytest.mark.parametrize(
    ("code", "name"),
    [(0, "unknown"), (1, "binary"), (32, "complex64"), (128, "RGB"), (2304, "RGBA"), (999, "not one")],
)
def test_what_is_no_real_number_a_voxel_is_refused(tmp_path, code, name):
    message = refused(tmp_path, nifti(datatype=code))
    assert message.startswith(f"FILE must hold one real number per voxel, got data type {code} ({name}")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_the_other_byte_order_is_read(tmp_path, version, dtype):
    values, volume = read(tmp_path, nifti(body_hu().astype(dtype), version=version, byte_order=">"))
    assert volume.array_zyx.dtype == np.dtype(np.int16)
    np.testing.assert_array_equal(values, body_hu())
    np.testing.assert_array_equal(volume.affine, AFFINE)


@pytest.mark.parametrize("offset", [0, 1, 348, 351, -352, np.inf, -np.inf, np.nan, 352.5])
def test_voxels_that_begin_within_the_header_or_nowhere_are_refused(tmp_path, offset):
    message = refused(tmp_path, nifti(vox_offset=offset))
    assert message == f"the voxels of FILE must begin at byte 352 or later, got vox_offset {offset:g}"


def test_voxels_that_begin_within_a_nifti_2_header_are_refused(tmp_path):
    assert "must begin at byte 544 or later, got vox_offset 352" in refused(tmp_path, nifti(version=2, vox_offset=352))


@pytest.mark.parametrize("offset", [368, 1e9, 3e38])
def test_voxels_that_begin_too_late_for_the_file_are_refused(tmp_path, offset):
    for data in (nifti(vox_offset=offset), gzipped(nifti(vox_offset=offset))):
        assert "must be a complete NIfTI file" in refused(tmp_path, data)


def test_what_a_header_is_extended_by_is_passed_over(tmp_path):
    data = nifti(vox_offset=352 + 32)
    extended = data[:348] + b"\1\0\0\0" + np.array([32, 6], "<i4").tobytes() + b"a comment".ljust(24) + data[352:]
    for packed in (extended, gzipped(extended)):
        np.testing.assert_array_equal(read(tmp_path, packed)[0], body_hu())


@pytest.mark.parametrize("slope", [0.0, np.nan])
@pytest.mark.parametrize("intercept", [-99.0, np.nan])
def test_no_slope_means_that_nothing_is_scaled(tmp_path, slope, intercept):
    values, volume = read(tmp_path, nifti(scl_slope=slope, scl_inter=intercept))
    assert volume.array_zyx.dtype == np.int16
    np.testing.assert_array_equal(values, body_hu())


@pytest.mark.parametrize(("slope", "intercept"), [(np.inf, 0), (-np.inf, 0), (1, np.nan), (2, -np.inf)])
def test_a_scaling_that_is_not_finite_is_refused(tmp_path, slope, intercept):
    message = refused(tmp_path, nifti(scl_slope=slope, scl_inter=intercept))
    assert message == f"the scaling of FILE must be finite, got scl_slope {slope:g} and scl_inter {intercept:g}"


def test_a_scaling_beyond_all_numbers_is_refused(tmp_path):
    assert "must hold finite numbers only" in refused(tmp_path, nifti(scl_slope=3e38))


def test_nan_outside_the_scanners_circle_is_refused_with_what_to_write_there(tmp_path):
    padded = body_hu().astype(np.float32)
    padded[:2, :3, 4:] = np.nan
    assert refused(tmp_path, nifti(padded)) == (
        "FILE must hold finite numbers only, got NaN or Inf in slice 4 of its third axis, 6 of its 360 voxels "
        "(padding must be a number, too: -1024 HU in a CT)"
    )


# Where the image lies


@pytest.mark.parametrize("bad", [1e-30, 1e30, 1e6, 0.0, np.nan, np.inf])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_spacing_that_no_ct_has_is_refused(tmp_path, bad, axis):
    spacing = list(SPACING)
    spacing[axis] = bad
    affine = AFFINE.copy()
    affine[axis, axis] = bad
    message = refused(tmp_path, nifti(**pixdim(*spacing), **rows(affine)))
    got = ", ".join(f"{s:g}" for s in np.float32(spacing))
    assert message == f"the spacing in FILE must be 0.01 to 100 mm along each axis (x, y, z), got ({got})"


def test_a_person_of_4_metres_is_refused(tmp_path):
    message = refused(tmp_path, nifti(np.zeros((2, 3, 50), np.int16), affine=np.diag([1.0, 1.0, 80.0, 1.0])))
    assert message == "FILE must be 3000 mm long at most along each axis, got 4000 mm"


def test_a_spacing_that_contradicts_the_sforms_is_refused(tmp_path):
    message = refused(tmp_path, nifti(forms="sform", **pixdim(1.0, 1.0, 1.0)))
    assert message == "the spacing in FILE must be that of its sform, got (1, 1, 1) and (7, 8, 9) (x, y, z)"


def test_a_spacing_rounded_to_3_digits_is_no_contradiction(tmp_path):
    affine = np.diag([0.78125, 0.78125, 2.5, 1.0])
    _, volume = read(tmp_path, nifti(affine=affine, forms="sform", **pixdim(0.781, 0.781, 2.5)))
    np.testing.assert_array_equal(volume.affine, affine)


@pytest.mark.parametrize("forms", ["both", "sform"])
def test_a_negative_spacing_with_a_good_sform_is_read(tmp_path, forms):
    values, volume = read(tmp_path, nifti(forms=forms, **pixdim(-7.0, 8.0, 9.0)))
    np.testing.assert_array_equal(values, body_hu())
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert volume.spacing_zyx_mm == (9.0, 8.0, 7.0)


def test_a_negative_spacing_that_only_a_qform_uses_is_refused(tmp_path):
    message = refused(tmp_path, nifti(forms="qform", **pixdim(-7.0, 8.0, 9.0)))
    assert message == "the spacing in FILE must be positive where only a qform uses it, got (-7, 8, 9)"


@pytest.mark.parametrize("codes", [(1, 1), (2, 2), (1, 2), (4, 1)])
@pytest.mark.parametrize(("sform", "letters"), [(MIRRORED, "LAS"), (TURNED, "LPS")])
def test_an_sform_and_a_qform_that_contradict_each_other_about_left_are_refused(tmp_path, codes, sform, letters):
    message = refused(tmp_path, nifti(sform_code=codes[0], qform_code=codes[1], **rows(sform)))
    assert message == (
        "the sform and the qform of FILE must agree on where the patient's left is, got axes 180.0 degrees apart "
        f"(sform {letters}, qform RAS)"
    )


def test_forms_of_one_space_that_differ_by_more_than_rounding_are_refused(tmp_path):
    assert "got axes 5.0 degrees apart" in refused(tmp_path, nifti(**rows(tilted(5))))


def test_forms_of_one_space_that_differ_by_rounding_are_read(tmp_path):
    _, volume = read(tmp_path, nifti(**rows(tilted(0.5))))
    np.testing.assert_allclose(volume.affine, tilted(0.5), rtol=1e-6, atol=1e-6)


def test_an_sform_of_another_space_may_be_turned_as_long_as_axes_keep_their_names(tmp_path):
    _, volume = read(tmp_path, nifti(sform_code=4, **rows(tilted(20))))
    np.testing.assert_allclose(volume.affine, tilted(20), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("broken", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([7.0, 8.0, 0.0, 1.0])])
def test_an_sform_that_says_nothing_leaves_it_to_the_qform(tmp_path, broken):
    values, volume = read(tmp_path, nifti(**rows(broken)))
    np.testing.assert_array_equal(values, body_hu())
    np.testing.assert_array_equal(volume.affine, AFFINE)


@pytest.mark.parametrize("broken", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([7.0, 8.0, 0.0, 1.0])])
def test_an_sform_that_says_nothing_and_no_qform_are_refused(tmp_path, broken):
    message = refused(tmp_path, nifti(forms="sform", **rows(broken)))
    assert "must say how it lies in the patient by an sform or qform that is finite" in message


@pytest.mark.parametrize("b", [np.nan, np.inf, 1.5])
def test_a_quaternion_that_is_no_rotation_leaves_it_to_the_sform(tmp_path, b):
    _, volume = read(tmp_path, nifti(quatern_b=b))
    np.testing.assert_array_equal(volume.affine, AFFINE)


@pytest.mark.parametrize("fields", [{"quatern_b": np.nan}, {"quatern_c": 1.5}, pixdim(*SPACING, qfac=0.5)])
def test_a_qform_that_is_no_rotation_and_no_sform_are_refused(tmp_path, fields):
    message = refused(tmp_path, nifti(forms="qform", **fields))
    assert "must say how it lies in the patient by an sform or qform that is finite" in message


def test_a_quaternion_of_zeros_is_no_rotation_at_all(tmp_path):
    _, volume = read(tmp_path, nifti(forms="qform", quatern_b=0, quatern_c=0, quatern_d=0))
    np.testing.assert_array_equal(volume.affine, AFFINE)


@pytest.mark.parametrize("stretched", [1e16, -1e38])
def test_an_sform_with_an_absurd_number_is_no_sform_that_says_nothing(tmp_path, stretched):
    for axis in range(3):
        sform = AFFINE.copy()
        sform[axis, axis] = stretched
        assert "FILE must " in refused(tmp_path, nifti(**rows(sform)))


@pytest.mark.parametrize("far", [1.1e6, -1e12, 1e30])
def test_an_origin_a_kilometre_away_is_refused(tmp_path, far):
    sform = AFFINE.copy()
    sform[1, 3] = far
    assert "3 axes longer than 0 and an origin within a kilometre, got" in refused(tmp_path, nifti(**rows(sform)))


def test_a_handedness_of_0_is_1(tmp_path):
    _, volume = read(tmp_path, nifti(forms="qform", **pixdim(*SPACING, qfac=0)))
    np.testing.assert_array_equal(volume.affine, AFFINE)


def test_neither_sform_nor_qform_is_refused(tmp_path):
    assert "(sform or qform), got neither: left is unknown" in refused(tmp_path, nifti(sform_code=0, qform_code=-1))


def test_a_form_of_no_known_kind_is_refused(tmp_path):
    assert "must be 0 to 5, got 257, 1" in refused(tmp_path, nifti(sform_code=257))


@pytest.mark.parametrize(("unit", "per_mm"), [(1, 0.001), (3, 1000.0), (1 | 8, 0.001), (3 | 16, 1000.0)])
def test_metres_and_micrometres_become_mm_and_go_back_into_the_header(tmp_path, unit, per_mm):
    scaled = np.diag([per_mm, per_mm, per_mm, 1.0]) @ AFFINE
    for forms in ("both", "sform", "qform"):
        values, volume = read(tmp_path, nifti(affine=scaled, xyzt_units=unit, forms=forms))
        np.testing.assert_array_equal(values, body_hu())
        np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-6)
        np.testing.assert_allclose(volume.spacing_zyx_mm, SPACING[::-1], rtol=1e-6)
        save_label_map(tmp_path / "labels.nii", np.ones(volume.shape_zyx, np.uint8), volume)
        saved, source = nib.load(tmp_path / "labels.nii"), nib.load(tmp_path / "case.nii")
        assert saved.header["xyzt_units"] == unit
        np.testing.assert_array_equal(saved.affine, source.affine)
        np.testing.assert_array_equal(load_label_map(tmp_path / "labels.nii").affine, volume.affine)


@pytest.mark.parametrize("unit", [0, 2, 4, 7])
def test_a_unit_that_is_not_known_is_mm(tmp_path, unit):
    _, volume = read(tmp_path, nifti(xyzt_units=unit))
    np.testing.assert_array_equal(volume.affine, AFFINE)


def test_millimetres_called_metres_are_refused(tmp_path):
    message = refused(tmp_path, nifti(xyzt_units=1))
    assert message.endswith("must be 0.01 to 100 mm along each axis (x, y, z), got (7000, 8000, 9000)")


def test_an_oblique_grid_in_micrometres_is_saved_where_it_was(tmp_path):
    scaled = np.diag([1000.0, 1000.0, 1000.0, 1.0]) @ np.diag([1.0, -1.0, 1.0, 1.0]) @ tilted(30)
    volume = load_ct(put(tmp_path / "case.nii", nifti(affine=scaled, xyzt_units=3)))
    save_ct(tmp_path / "again.nii", volume)
    again = nib.load(tmp_path / "again.nii")
    np.testing.assert_array_equal(again.affine, nib.load(tmp_path / "case.nii").affine)
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), body_hu())


# Label maps


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [(1.0000001, np.float64, "1.0000001"), (0.9999, np.float64, "0.9999"), (1 + 1e-12, np.float64, "1.000000000001")],
)
def test_labels_that_are_almost_whole_are_refused_by_value_and_voxel(tmp_path, value, dtype, said):
    labels = LABELS.astype(dtype)
    labels[3, 4, 5] = value
    assert refused(tmp_path, nifti(labels), load_label_map) == (
        f"FILE must be a label map, whole numbers from 0 to 255; got {said} at voxel (3, 4, 5) (x, y, z): "
        "was it interpolated, or scaled?"
    )


def test_a_label_that_no_byte_holds_is_refused_by_value_and_voxel(tmp_path):
    labels = LABELS.astype(np.int16)
    labels[3, 4, 5] = 4096
    message = refused(tmp_path, nifti(labels), load_label_map)
    assert message.endswith("whole numbers from 0 to 255; got 4096 at voxel (3, 4, 5) (x, y, z)")


def test_a_label_14_in_one_voxel_is_not_scored(tmp_path):
    labels = LABELS.copy()
    labels[3, 4, 5] = 14
    sound, wrong = put(tmp_path / "sound.nii", nifti(LABELS)), put(tmp_path / "wrong.nii", nifti(labels))
    assert load_label_map(wrong).array_zyx[5, 4, 3] == 14  # other data sets have as many as 117
    with pytest.raises(ValueError, match="the labels of prediction must be 0 to 13, got 0 to 14"):
        score_pair(Pair("case", wrong, sound))


# Names and places


def test_a_name_says_nothing_of_the_compression(tmp_path):
    for name, data in (("case.nii", gzipped(nifti())), ("case.nii.gz", nifti())):
        np.testing.assert_array_equal(load_ct(put(tmp_path / name, data)).array_zyx.T, body_hu())


def test_a_folder_under_a_files_name_is_refused(tmp_path):
    (tmp_path / "case.nii.gz").mkdir()
    for load in (load_ct, load_label_map):
        message = refusal(tmp_path / "case.nii.gz", load)
        assert message == "an image whose name ends in .nii or .nii.gz must be a file, got the folder FILE"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes here")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "case.nii")
    assert refusal(tmp_path / "case.nii") == "an image must exist to be loaded, got FILE"


def test_a_link_to_nothing_is_refused(tmp_path):
    (tmp_path / "case.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    assert refusal(tmp_path / "case.nii.gz") == "an image must exist to be loaded, got FILE"
    assert list(find_images(tmp_path)) == ["case"]  # a case all the same, not one less


def test_capital_suffixes_are_read_and_are_no_part_of_a_name(tmp_path):
    path = put(tmp_path / "CASE_0000.NII.GZ", gzipped(nifti()))
    np.testing.assert_array_equal(load_ct(path).array_zyx.T, body_hu())
    assert find_cts(tmp_path) == {"CASE": path}
    check_writable(path)
    save_ct(path, load_ct(path))
    np.testing.assert_array_equal(load_ct(path).array_zyx.T, body_hu())


@pytest.mark.parametrize(
    "name", ["Müller, Łukasz 影像.nii.gz", unicodedata.normalize("NFD", "Füße é.nii"), "a b\tc'\".nii"]
)
def test_names_beyond_ascii_are_read_and_written(tmp_path, name):
    volume = load_ct(put(tmp_path / name, nifti()))
    (tmp_path / "Größe").mkdir()
    save_ct(tmp_path / "Größe" / name, volume)
    np.testing.assert_array_equal(load_ct(tmp_path / "Größe" / name).array_zyx.T, body_hu())
    assert [path.name for path in (tmp_path / "Größe").iterdir()] == [name]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("length", [247, 255])
def test_a_name_as_long_as_a_file_system_takes_is_written(tmp_path, suffix, length):
    path = tmp_path / ("n" * (length - len(suffix)) + suffix)
    volume = Volume.from_array(np.ones((2, 3, 4), np.uint8), SPACING[::-1])
    check_writable(path)
    save_label_map(path, volume.array_zyx, volume)
    np.testing.assert_array_equal(load_label_map(path).array_zyx, volume.array_zyx)
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_longer_than_a_file_system_takes_is_refused(tmp_path):
    path = tmp_path / ("n" * 300 + ".nii")
    assert refusal(path) == "an image must exist to be loaded, got FILE"
    with pytest.raises(ValueError, match=r"must be a file that may be replaced, got .*File name too long"):
        check_writable(path)


def test_a_mistake_in_the_header_is_not_handed_on(tmp_path):
    volume = load_ct(put(tmp_path / "case.nii", nifti(**pixdim(-7.0, 8.0, 9.0, qfac=0))))
    save_ct(tmp_path / "again.nii", volume)
    again = header((20, 18, 12)).__class__((tmp_path / "again.nii").read_bytes()[:348], check=False)
    assert again["pixdim"][:4].tolist() == [1.0, *SPACING]
    assert again["vox_offset"] == 352
