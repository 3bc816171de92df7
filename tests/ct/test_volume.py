"""A CT in memory: file axes and ZYX are two views of the same voxels, and measures are in mm."""

import re

import nibabel as nib
import numpy as np
import pytest
import torch
from grids import ORDERS, grid_affine, random_hu, write_nifti

from flare_lib.ct.files import load_ct
from flare_lib.ct.volume import FileGrid, Volume, from_file_axes, grid_difference, to_file_axes


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_file_axes_and_zyx_are_inverse_views_of_each_other(tmp_path, order, signs):
    grid = load_ct(write_nifti(tmp_path / "ct.nii", random_hu(), grid_affine(order, signs))).file_grid
    array = np.arange(5 * 7 * 9).reshape(5, 7, 9)
    there = from_file_axes(array, grid)
    back = to_file_axes(there, grid)
    np.testing.assert_array_equal(back, array)
    assert np.shares_memory(back, there)


def test_a_canonical_file_is_not_copied_on_the_way_to_zyx(tmp_path):
    volume = load_ct(write_nifti(tmp_path / "ct.nii", random_hu()))
    array_xyz = np.asfortranarray(random_hu())
    assert np.shares_memory(from_file_axes(array_xyz, volume.file_grid), array_xyz)
    assert volume.shape_zyx == (9, 7, 5)
    assert volume.array_zyx[8, 6, 4] == random_hu()[4, 6, 8]


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_a_grid_says_where_its_third_axis_leads(order, signs):
    grid = FileGrid((5, 7, 9), grid_affine(order, signs))
    assert grid.third_axis_zyx == (2 - order[2], signs[2])


def test_a_volume_made_in_memory_knows_its_measures():
    volume = Volume.from_array(np.zeros((2, 3, 4), np.int16), (5.0, 2.0, 0.5))
    assert volume.shape_zyx == (2, 3, 4)
    assert volume.size_mm_zyx == (10.0, 6.0, 2.0)
    assert volume.voxel_ml == 0.005
    np.testing.assert_array_equal(volume.affine @ (3, 2, 1, 1), [1.5, 4.0, 5.0, 1.0])
    assert volume.file_grid is None


def test_other_values_on_the_same_grid_keep_the_files_grid(tmp_path):
    volume = load_ct(write_nifti(tmp_path / "ct.nii", random_hu()))
    other = volume.with_array(np.zeros(volume.shape_zyx, np.uint8))
    assert other.file_grid is volume.file_grid
    with pytest.raises(ValueError, match=r"volume's shape \(9, 7, 5\), got \(5, 7, 9\)"):
        volume.with_array(np.zeros((5, 7, 9)))


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -2.0, 1.0), (1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_a_spacing_that_is_not_positive_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing_zyx_mm must be 3 positive numbers, got"):
        Volume.from_array(np.zeros((2, 3, 4)), spacing)


def test_a_volume_needs_3_axes_a_voxel_and_a_whole_affine():
    for shape in ((2, 3), (2, 3, 4, 1), (0, 3, 4)):
        with pytest.raises(ValueError, match=f"3 axes and at least one voxel, got shape {re.escape(str(shape))}"):
            Volume.from_array(np.zeros(shape), (1.0, 2.0, 3.0))
    for affine in (np.eye(3), np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match=r"affine must be \(4, 4\) finite numbers"):
            Volume(np.zeros((2, 3, 4)), (1.0, 2.0, 3.0), affine)


@pytest.mark.parametrize(
    ("affine", "got"),
    [
        (np.diag([-3.0, -2.0, 1.0, 1.0]), r"RAS\), got LPS$"),
        (np.eye(4)[[2, 1, 0, 3]] * [1.0, 2.0, 3.0, 1.0], r"RAS\), got SAR$"),
        (np.diag([1.0, 2.0, 3.0, 1.0]), r"the spacing \(1.0, 2.0, 3.0\) mm \(z, y, x\), got \(3, 2, 1\)$"),
    ],
    ids=["mirrored", "axes exchanged", "another spacing"],
)
def test_an_affine_that_contradicts_the_array_or_the_spacing_is_refused(affine, got):
    with pytest.raises(ValueError, match=got):
        Volume(np.zeros((4, 5, 6)), (1.0, 2.0, 3.0), affine)


def test_spacing_and_affine_may_come_in_any_form():
    affine = np.array([[2.999, 0, 0, 7], [0, 2, 0, 8], [0, 0, 1, 9], [0, 0, 0, 1]])
    volume = Volume(np.zeros((4, 5, 6)), np.array([1.0, 2.0, 3.0]), affine.tolist())
    assert volume.spacing_zyx_mm == (1.0, 2.0, 3.0)
    assert {type(s) for s in volume.spacing_zyx_mm} == {float}
    np.testing.assert_array_equal(volume.affine, affine)


def test_grids_differ_by_their_shape_or_by_a_tenth_of_a_voxel_at_a_corner():
    volume = Volume.from_array(np.zeros((3, 4, 6), np.int16), (2.5, 1.5, 0.8))
    assert grid_difference(volume, volume) is None
    shorter = Volume.from_array(np.zeros((3, 4, 5), np.int16), (2.5, 1.5, 0.8))
    assert grid_difference(volume, shorter) == "(3, 4, 6) voxels (z, y, x), not (3, 4, 5)"
    for moved_mm, said in ((0.07, None), (0.09, "a corner 0.1 mm away")):  # a tenth of 0.8 mm lies between
        affine = volume.affine.copy()
        affine[2, 3] += moved_mm
        assert grid_difference(Volume(volume.array_zyx, volume.spacing_zyx_mm, affine), volume) == said
    wider = Volume.from_array(volume.array_zyx, (2.5, 1.5, 0.9))
    assert grid_difference(volume, wider) == "a corner 0.5 mm away"  # 5 steps of 0.1 mm


@pytest.mark.parametrize(
    ("array", "error", "said"),
    [
        (np.zeros((2, 3, 4), complex), TypeError, "must be a NumPy array of real numbers, got complex128"),
        (np.zeros((2, 3, 4), object), TypeError, "must be a NumPy array of real numbers, got object"),
        (np.zeros((2, 3, 4), "m8[s]"), TypeError, "must be a NumPy array of real numbers, got timedelta64"),
        ("ct.nii.gz", TypeError, "must be a NumPy array of real numbers, got <U9"),
        (np.ma.masked_less(np.arange(24).reshape(2, 3, 4), 5), ValueError, "must have a value in every voxel, got 5"),
    ],
)
def test_what_is_no_array_of_real_numbers_is_no_volume(array, error, said):
    with pytest.raises(error, match=said):
        Volume.from_array(array, (3.0, 2.0, 1.5))


def test_grey_values_in_any_array_are_the_same_grey_values(tmp_path):
    hu = np.arange(-12, 12, dtype=np.int16).reshape(2, 3, 4) * 50
    nib.Nifti1Image(hu, np.eye(4)).to_filename(tmp_path / "ct.nii")
    fixed, mapped = hu.copy(), np.memmap(tmp_path / "hu", np.int16, "w+", shape=hu.shape)
    fixed.flags.writeable, mapped[:] = False, hu
    forms = [hu.astype(dtype) for dtype in (">i2", "i4", "f2", ">f4", "f8")]
    forms += [hu[::-1, :, ::-1].copy()[::-1, :, ::-1], np.asfortranarray(hu), fixed, mapped]
    forms += [torch.from_numpy(hu), torch.from_numpy(hu).float(), nib.load(tmp_path / "ct.nii").dataobj]
    for form in forms:
        np.testing.assert_array_equal(Volume.from_array(form, (3.0, 2.0, 1.5)).array_zyx, hu)


def test_a_spacing_or_an_affine_that_is_none_is_refused():
    array = np.zeros((2, 3, 4))
    for spacing, got in (
        (None, "None"),
        (np.array(3.0), "3.0"),
        ("abc", "abc"),
        ((1.0, None, 2.0), "(1.0, None, 2.0)"),
    ):
        with pytest.raises(TypeError) as refusal:
            Volume.from_array(array, spacing)
        assert str(refusal.value) == f"spacing_zyx_mm must be 3 positive numbers, got {got}"
    for matrix in (np.eye(3), torch.eye(3)):
        with pytest.raises(TypeError, match=r"^spacing_zyx_mm must be 3 positive numbers, got [^\n]*$"):
            Volume.from_array(array, matrix)
    with pytest.raises(ValueError, match=r"^affine must be \(4, 4\) finite numbers, got None$"):
        Volume(array, (3.0, 2.0, 1.5), None)
    assert Volume.from_array(array, torch.tensor([3.0, 2.0, 1.5])).spacing_zyx_mm == (3.0, 2.0, 1.5)
