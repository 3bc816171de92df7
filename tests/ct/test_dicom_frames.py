"""Enhanced multi-frame CT: every frame is a slice like any other."""

import numpy as np
import pytest
from dicoms import HU, SERIES, SPACING_ZYX_MM, N, enhanced, headers_in, set_elements, write
from pydicom import Dataset, dcmread, uid

from flare_lib.ct.dicom_frames import frames_of
from flare_lib.ct.dicom_series import find_series
from flare_lib.ct.files import load_ct
from flare_lib.ct.volume import to_file_axes


def hu_of(path, series=None):
    volume = load_ct(path, series=series)
    return to_file_axes(volume.array_zyx, volume.grid).T


@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_multi_frame_ct_is_a_series(tmp_path, given):
    path = enhanced(tmp_path / "ct.dcm")
    volume = load_ct(path if given == "file" else tmp_path)
    np.testing.assert_array_equal(to_file_axes(volume.array_zyx, volume.grid).T, HU)
    np.testing.assert_allclose(volume.spacing_zyx_mm, SPACING_ZYX_MM)
    np.testing.assert_allclose(volume.grid.affine[:3, 3], (31, -42, 7.5))
    assert find_series(tmp_path)[0].size == "5 slices of 3 x 1.25 x 0.75 mm (z, y, x) (ct.dcm)"


@pytest.mark.parametrize(
    "syntax", [uid.RLELossless, uid.JPEG2000Lossless, uid.DeflatedExplicitVRLittleEndian], ids=lambda s: s.name
)
def test_compressed_frames_are_read(tmp_path, syntax):
    path = enhanced(tmp_path / "ct.dcm")
    ds = dcmread(path)
    if syntax == uid.RLELossless:
        ds.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax == uid.JPEG2000Lossless:
        import imagecodecs
        from pydicom.encaps import encapsulate

        how = {"codecformat": "j2k", "level": 0, "reversible": True}
        ds.PixelData = encapsulate([bytes(imagecodecs.jpeg2k_encode(frame, **how)) for frame in ds.pixel_array])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(hu_of(tmp_path), HU)


def test_what_a_frame_states_goes_before_what_all_share(tmp_path):
    def change(frame, k):
        own = Dataset()
        own.RescaleSlope, own.RescaleIntercept, own.RescaleType = 2, -1000 - k, "HU"
        frame.PixelValueTransformationSequence = [own]

    (header,) = headers_in(enhanced(tmp_path / "ct.dcm", change=change).parent)
    first, *_, last = frames_of(header)
    assert (first.number("RescaleIntercept"), last.number("RescaleIntercept")) == (-1004, -1000)
    assert (first.numbers("PixelSpacing", 2), str(last)) == ((1.25, 0.75), f"{tmp_path / 'ct.dcm'}, frame 5")
    expected = 2.0 * (HU + 1024) - 1000 - np.arange(N)[:, None, None]
    np.testing.assert_array_equal(hu_of(tmp_path), expected)


def test_phases_in_one_file_are_told_apart(tmp_path):
    def change(frame, k):
        content = Dataset()
        content.TemporalPositionIndex = k // N + 1
        frame.FrameContentSequence = [content]
        frame.PlanePositionSequence[0].ImagePositionPatient = [-31.0, 42.0, 7.5 + 3.0 * (k % N)]

    enhanced(tmp_path / "ct.dcm", np.concatenate([HU, HU - 4]), change)
    np.testing.assert_array_equal(hu_of(tmp_path, f"{SERIES}#1"), HU)
    np.testing.assert_array_equal(hu_of(tmp_path, f"{SERIES}#2"), HU - 4)
    with pytest.raises(ValueError, match=r"got 2 of 2: Abdomen 3\.0, phase 1"):
        load_ct(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ds: ds.PerFrameFunctionalGroupsSequence.pop(), "describe each of its frames, got 4 of 5"),
        (lambda ds: delattr(ds, "SharedFunctionalGroupsSequence"), "frame 1 must hold 1 finite number as RescaleSlope"),
        (lambda ds: delattr(ds.PerFrameFunctionalGroupsSequence[2], "PlanePositionSequence"), "frame 3 must hold 3"),
        (lambda ds: setattr(ds, "PixelData", ds.PixelData[:-84]), "336 bytes where there must be 420"),
    ],
)
def test_frames_that_are_not_whole_are_refused_by_name(tmp_path, change, said):
    path = enhanced(tmp_path / "ct.dcm")
    ds = dcmread(path)
    change(ds)
    ds.save_as(path)
    with pytest.raises(ValueError) as refusal:
        load_ct(tmp_path)
    assert said in str(refusal.value)
    assert "ct.dcm" in str(refusal.value)


@pytest.mark.parametrize("last", [{"InConcatenationTotalNumber": 2}, {}], ids=["says how many", "does not"])
def test_a_multi_frame_ct_in_several_files_is_whole_or_refused(tmp_path, last):
    whole = dcmread(enhanced(tmp_path / "ct.dcm"))
    frames, pixels = [*whole.PerFrameFunctionalGroupsSequence], whole.PixelData
    for number, part in ((1, slice(0, 2)), (2, slice(2, N))):
        whole.PerFrameFunctionalGroupsSequence, whole.NumberOfFrames = frames[part], len(frames[part])
        whole.PixelData = pixels[part.start * 84 : part.stop * 84]
        set_elements(whole, ConcatenationUID="1.2.3", InConcatenationNumber=number, SOPInstanceUID=f"1.2.4.{number}")
        set_elements(whole, **last)
        whole.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID
        write(whole, tmp_path / f"{number}.dcm")
    (tmp_path / "ct.dcm").unlink()
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    (tmp_path / f"{2 if last else 1}.dcm").unlink()
    with pytest.raises(ValueError, match="a multi-frame image in 2 files must be whole, got 1 of them"):
        load_ct(tmp_path)


def test_a_multi_frame_ct_that_names_a_concatenation_and_no_number_is_whole(tmp_path):
    ds = dcmread(enhanced(tmp_path / "ct.dcm"))
    ds.ConcatenationUID = "1.2.3"
    write(ds, tmp_path / "ct.dcm")
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
