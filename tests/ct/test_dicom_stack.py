"""Slices as a stack: in order, with a place in the world, and how far a gantry was tilted."""

import numpy as np
import pytest
from dicoms import N, every, headers_in, set_elements, write_series

from flare_lib.ct.dicom_stack import check_is_ct_slice, first_row, place_slices


def stack_of(folder):
    return place_slices(headers_in(folder), folder)


def test_slices_are_put_in_order_at_their_place(tmp_path):
    write_series(tmp_path)
    for k in range(N):
        (tmp_path / f"{k:03}.dcm").rename(tmp_path / f"{(3 * k) % N}.dcm")
    stack = stack_of(tmp_path)
    assert [s.numbers("ImagePositionPatient", 3)[2] for s in stack.slices] == [7.5, 10.5, 13.5, 16.5, 19.5]
    np.testing.assert_allclose(stack.affine, [[0.75, 0, 0, -31], [0, 1.25, 0, 42], [0, 0, 3, 7.5], [0, 0, 0, 1]])
    assert stack.spacing_zyx_mm == (3.0, 1.25, 0.75)
    assert (stack.tilt_rows, stack.tilt_degrees, stack.is_axial) == (0.0, 0.0, True)


def test_a_frame_of_reference_for_every_slice_tells_nothing_and_one_for_some_does(tmp_path):
    def change(ds, k):
        ds.FrameOfReferenceUID = f"1.2.3.{k}"

    write_series(tmp_path / "copy", change, [2])
    assert len(stack_of(write_series(tmp_path, change)).slices) == N
    write_series(tmp_path, every(FrameOfReferenceUID="1.2.3.0"), [1])
    with pytest.raises(ValueError, match="must have the same FrameOfReferenceUID"):
        stack_of(tmp_path)


def test_sagittal_slices_are_not_axial(tmp_path):
    def change(ds, k):
        set_elements(ds, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[-3.0 * k, 42, 7])

    stack = stack_of(write_series(tmp_path, change))
    assert not stack.is_axial
    np.testing.assert_allclose(stack.affine[:3, 2], (-3, 0, 0), atol=1e-12)


@pytest.mark.parametrize("degrees", [-20.0, 12.0])
def test_a_gantry_tilted_about_the_bodys_left_is_a_shear_along_the_columns(tmp_path, degrees):
    """The table moves along z; the slices are turned, so that each lies further along its own columns."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))

    def change(ds, k):
        ds.ImageOrientationPatient = [1, 0, 0, 0, round(cosine, 6), round(sine, 6)]
        ds.ImagePositionPatient = [-31, 42, 7.5 + 3 * k]
        ds.GantryDetectorTilt = abs(degrees)

    stack = stack_of(write_series(tmp_path, change))
    assert stack.tilt_degrees == pytest.approx(abs(degrees), abs=1e-3)
    assert stack.tilt_rows == pytest.approx(3 * sine / 1.25, abs=1e-4)
    assert stack.spacing_zyx_mm == pytest.approx((3 * cosine, 1.25, 0.75), abs=1e-5)
    axes = stack.affine[:3, :3] / np.linalg.norm(stack.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    lowest = first_row(stack.tilt_rows, N)
    np.testing.assert_allclose(
        stack.affine[:3, 3], np.array([-31, 42, 7.5]) + lowest * 1.25 * np.array([0, cosine, sine]), atol=1e-5
    )


@pytest.mark.parametrize(
    ("tilt_rows", "n", "row"), [(0.0, 9, 0), (1.6, 9, 0), (-0.5, 5, -2), (-0.51, 5, -3), (-7.0, 1, 0)]
)
def test_the_first_row_is_that_of_the_slice_that_lies_lowest(tilt_rows, n, row):
    assert first_row(tilt_rows, n) == row


def test_a_single_slice_is_as_thick_as_it_says(tmp_path):
    assert stack_of(write_series(tmp_path, every(SliceThickness=4), slices=[1])).spacing_zyx_mm == (4.0, 1.25, 0.75)


@pytest.mark.parametrize("how_it_is_shown", ["MONOCHROME1", "MONOCHROME2"])
def test_a_ct_may_be_shown_light_on_dark_or_dark_on_light(tmp_path, how_it_is_shown):
    header, *_ = headers_in(write_series(tmp_path, every(PhotometricInterpretation=how_it_is_shown), slices=[0]))
    assert check_is_ct_slice(header) is None


@pytest.mark.parametrize(
    ("elements", "got"),
    [
        ({"PhotometricInterpretation": "RGB"}, "must hold grey values, got RGB"),
        ({"NumberOfFrames": 2}, "must hold one slice, got 2 frames"),
        ({"RescaleSlope": 0}, "got a slope of 0 or a table"),
        ({"RescaleType": "OD"}, "must hold HU, got values in OD"),
        ({"Modality": "MR"}, "must be a CT, got MR"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "got a localizer"),
        ({"ImageType": "localizer"}, "got a localizer"),
    ],
)
def test_what_is_no_ct_slice_is_refused_by_what_it_is(tmp_path, elements, got):
    header, *_ = headers_in(write_series(tmp_path, every(**elements), slices=[0]))
    with pytest.raises(ValueError, match=got):
        check_is_ct_slice(header)
