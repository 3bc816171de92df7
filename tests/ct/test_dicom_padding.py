"""Padding that a header declares, as HU: dark where it lies round the field, and nowhere else."""

import numpy as np
import pytest
from dicoms import COLUMNS, ROWS, enhanced, headers_in, set_elements, store, write, write_series
from pydicom import dcmread, uid

from flare_lib.ct.dicom_frames import frames_of
from flare_lib.ct.dicom_pixels import hu_of, read_frames

# a round field that the first row cuts; within it, one pixel has the value of the padding
PADDING = np.array([[1, 0, 0, 0, 0, 1, 1], *[[0] * 7] * 4, [1, 1, 0, 0, 0, 0, 1]], bool)
INSIDE = (2, 3)


def padded_slice(value, *, signed, intercept, syntax=uid.ExplicitVRLittleEndian, **elements):
    """Return a change that stores soft tissue of 50 HU with padding of a value."""

    def change(ds, k):
        stored = np.full((ROWS, COLUMNS), 50 - intercept)
        stored[PADDING], stored[INSIDE] = value, value
        set_elements(ds, PixelRepresentation=signed, RescaleIntercept=intercept, **elements)
        store(ds, stored, "<i2" if signed else "<u2")
        ds.file_meta.TransferSyntaxUID = syntax
        for name in elements:
            ds[name].VR = "SS" if elements[name] < 0 else "US"

    return change


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("value", "signed", "intercept", "declared", "padding_hu"),
    [
        (4095, 0, -1024, (4095,), -3024),
        (65535, 0, -1024, (65535,), -3024),
        (2000, 1, 0, (2000,), -3024),
        (2000, 1, 0, (1990, 2005), -3024),
        (2000, 1, 0, (2005, 1990), -3024),
        (0, 1, 0, (0,), -3024),
        (-2000, 1, 3000, (63536,), -3024),  # its type lacks the sign
        (0, 0, -1024, (0,), -1024),  # dark already
        (-2000, 1, 0, (-2000,), -2000),
        (-2000, 1, 0, (-3024, -1500), -2000),
        (2000, 1, 0, (2001,), 2000),  # another value than the one declared
        (2000, 1, 0, (-2000, 3000), 2000),  # a range that holds the body
    ],
)
def test_declared_padding_is_dark_round_the_field_and_nowhere_else(
    tmp_path, syntax, value, signed, intercept, declared, padding_hu
):
    elements = dict(zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), declared, strict=False))
    change = padded_slice(value, signed=signed, intercept=intercept, syntax=syntax, **elements)
    (header,) = headers_in(write_series(tmp_path, change, slices=[0]))
    hu = hu_of(header, *read_frames(header))
    expected = np.where(PADDING, padding_hu, 50)
    expected[INSIDE] = value + intercept
    np.testing.assert_array_equal(hu, expected)


def test_padding_of_a_multi_frame_ct_is_dark_in_every_frame(tmp_path):
    hu = np.full((3, ROWS, COLUMNS), 50)
    hu[:, PADDING] = 3071
    ds = dcmread(enhanced(tmp_path / "ct.dcm", hu))
    ds.add_new("PixelPaddingValue", "US", 4095)
    write(ds, tmp_path / "ct.dcm")
    read = [hu_of(header, read_frames(header)[header.frame]) for header in frames_of(*headers_in(tmp_path))]
    np.testing.assert_array_equal(read, np.where(PADDING, -3024, hu))
    assert read[0].dtype == np.int16
