"""A NIfTI file read slice by slice: in the first type that loses nothing, in the library's axes."""

import nibabel as nib
import numpy as np
import pytest
from grids import ORDERS, grid_affine, random_hu, write_nifti

from flare_lib.ct import nifti_file
from flare_lib.ct.nifti_file import load_nifti


@pytest.mark.parametrize(("dtypes", "expected"), [((np.int16, np.float32), np.int16), ((np.uint8, np.float32), "<f4")])
def test_the_first_type_that_loses_nothing_is_taken(tmp_path, dtypes, expected):
    array = np.zeros((5, 7, 9), np.int32)
    array[4, 6, 8] = -300  # known at the last voxel alone
    volume = load_nifti(write_nifti(tmp_path / "ct.nii", array), dtypes)
    assert volume.array_zyx.dtype == expected
    np.testing.assert_array_equal(volume.array_zyx.T, array)


def test_without_another_type_a_value_is_refused(tmp_path):
    with pytest.raises(ValueError, match="whole numbers from 0 to 255; got -300"):
        load_nifti(write_nifti(tmp_path / "ct.nii", np.full((5, 7, 9), -300, np.int16)), (np.uint8,))


@pytest.mark.parametrize(("order", "signs"), ORDERS[::5])
def test_slices_go_straight_to_where_they_stay(tmp_path, order, signs):
    volume = load_nifti(write_nifti(tmp_path / "ct.nii", random_hu(), grid_affine(order, signs)), (np.int16,))
    assert volume.array_zyx.flags.c_contiguous
    owner = volume.array_zyx
    while owner.base is not None:
        owner = owner.base
    assert owner.nbytes == volume.array_zyx.nbytes
    canonical = nib.as_closest_canonical(nib.load(tmp_path / "ct.nii"))
    np.testing.assert_array_equal(volume.array_zyx.T, np.asanyarray(canonical.dataobj))


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    path = tmp_path / "ct.nii.gz"
    path.touch()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(nifti_file, "open", refuse, raising=False)
    with pytest.raises(ValueError, match=r"ct\.nii\.gz must be a file that can be read, got: Permission denied$"):
        load_nifti(path, (np.uint8,))


@pytest.mark.parametrize("name", ["ct.nii.gz", "series", "scan.mha"])
def test_what_is_not_there_is_missing_whatever_its_name(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="must exist"):
        load_nifti(tmp_path / name, (np.uint8,))


@pytest.mark.parametrize(
    "corrected", ["a_0000_Tilt_1.nii.gz", "a_0000_Eq_1.nii", "a_0000_Tilt_Eq_1.nii.gz", "a_0000_Eq.nii"]
)
def test_a_ct_beside_which_dcm2niix_wrote_a_corrected_one_is_noted(tmp_path, corrected):
    path = write_nifti(tmp_path / "a_0000.nii.gz", random_hu())
    other = write_nifti(tmp_path / corrected, random_hu())
    write_nifti(tmp_path / "b_Eq_1.nii", random_hu())
    said = f"its slices may be tilted or unevenly spaced: {corrected}, beside it, is corrected for that"
    assert load_nifti(path, (np.int16,)).notes == (said,)
    assert load_nifti(other, (np.int16,)).notes == ()
    assert load_nifti(tmp_path / "b_Eq_1.nii", (np.int16,)).notes == ()
