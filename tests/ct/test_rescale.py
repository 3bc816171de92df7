"""Stored numbers become values of the smallest type that loses nothing, or one line says which voxel cannot."""

import re

import numpy as np
import pytest

from flare_lib.ct.rescale import stack_slices

STORED = np.array([[0, 1, 2], [253, 254, 255]], np.uint8)


def stacked(slices, slope=1.0, intercept=0.0, dtypes=(np.int16, np.float32)):
    shape = (*STORED.shape, len(slices))
    return stack_slices(slices, lambda dtype: np.empty(shape, dtype), (slope, intercept), dtypes, "a.nii")


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (2.0, -1024.0), (0.5, 0.5)])
def test_values_are_stored_numbers_times_slope_plus_intercept(slope, intercept):
    values = stacked([STORED, STORED[::-1]], slope, intercept)
    expected = np.stack([STORED, STORED[::-1]], axis=-1) * slope + intercept
    np.testing.assert_array_equal(values, expected)
    assert values.dtype == (np.float32 if (expected % 1).any() else np.int16)


@pytest.mark.parametrize("lossy", [0.25, 32768.0, -32769.0])
def test_one_value_that_does_not_fit_makes_all_of_them_float32(lossy):
    odd = STORED.astype(np.float64)
    odd[1, 2] = lossy
    values = stacked([STORED, odd, STORED])
    np.testing.assert_array_equal(values, np.stack([STORED, odd, STORED], axis=-1))
    assert values.dtype == np.float32


@pytest.mark.parametrize(
    ("value", "said"),
    [(7.5, "got 7.5 at voxel (1, 2, 1) (x, y, z): was it interpolated, or scaled?"), (256.0, "got 256 at voxel")],
)
def test_a_label_that_is_none_is_named_with_its_voxel(value, said):
    odd = STORED.astype(np.float32)
    odd[1, 2] = value
    with pytest.raises(ValueError, match=re.escape(f"a.nii must be a label map, whole numbers from 0 to 255; {said}")):
        stacked([STORED, odd], dtypes=(np.uint8,))


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e39])
def test_what_is_not_finite_is_refused(value):
    odd = STORED.astype(np.float64)
    odd[0, 1] = value
    with pytest.raises(
        ValueError, match=r"^a\.nii must hold finite numbers only, got NaN or Inf in slice 1 of its third"
    ):
        stacked([STORED, odd])
