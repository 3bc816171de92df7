"""What goes wrong with a DICOM series: every file of the folder is in the volume, or named as why not."""

import os
import re
import shutil
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
from dicoms import (
    COLUMNS,
    HU,
    PATIENT,
    ROWS,
    SERIES,
    SPACING_ZYX_MM,
    N,
    a_slice,
    every,
    only,
    other_series,
    set_elements,
    store,
    write,
    write_series,
    written_as,
)
from pydicom import Dataset, dcmread, dcmwrite, uid
from pydicom.encaps import encapsulate, get_frame

from flare_lib.ct.dicom import load_dicom
from flare_lib.ct.files import load_ct
from flare_lib.ct.volume import to_file_axes

END = N - 1


def refusal_of(folder, load=load_ct):
    with pytest.raises(ValueError) as refusal:
        load(folder)
    message = str(refusal.value)
    assert "\n" not in message
    assert str(folder) in message
    assert not any(word in message for word in (PATIENT, "Mustermann", "4711", "20200229"))
    return message.replace(str(folder), "FOLDER")


def assert_is_the_series(folder, hu=HU, spacing_zyx_mm=SPACING_ZYX_MM):
    volume = load_ct(folder)
    np.testing.assert_array_equal(to_file_axes(volume.array_zyx, volume.grid).T, hu)
    np.testing.assert_allclose(volume.spacing_zyx_mm, spacing_zyx_mm, rtol=1e-6)
    return volume


# Files


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def cut_in_the_header(path):
    path.write_bytes(path.read_bytes()[:400])


def empty(path):
    path.write_bytes(b"")


def overwrite(path):
    path.write_bytes(bytes(range(256)) * 3)


def error_page(path):
    path.write_text("<html>404</html>")


@pytest.mark.parametrize("k", [0, 2, END])
@pytest.mark.parametrize("damage", [cut, cut_in_the_header, empty, overwrite, error_page])
def test_a_damaged_file_is_refused_by_name_wherever_it_lies(tmp_path, damage, k):
    damage(write_series(tmp_path) / f"{k:03}.dcm")
    assert f"{k:03}.dcm" in refusal_of(tmp_path)


def test_a_damaged_file_is_refused_by_name_where_names_have_no_suffix(tmp_path):
    write_series(tmp_path)
    for path in tmp_path.glob("*.dcm"):
        path.rename(path.with_suffix(""))
    assert_is_the_series(tmp_path)
    for damage in (cut, empty, overwrite):
        damage(tmp_path / "004")
        assert "FOLDER/004 must" in refusal_of(tmp_path)


@pytest.mark.parametrize("name", ["004.dcm.part", "004.DCM.gz", "004.dcm.download", ".004.dcm.icloud"])
def test_a_slice_that_is_packed_or_not_yet_there_is_refused_by_name(tmp_path, name):
    write_series(tmp_path, slices=range(END))
    (tmp_path / name).write_bytes(b"some of it, or none")
    assert f"FOLDER/{name} must be a complete DICOM file, as its name says" in refusal_of(tmp_path)


def test_a_link_that_leads_nowhere_is_refused_by_name(tmp_path):
    write_series(tmp_path, slices=range(END))
    (tmp_path / "004.dcm").symlink_to(tmp_path / "gone")
    assert "FOLDER/004.dcm must be a complete DICOM file, as its name says, got a link" in refusal_of(tmp_path)


def test_a_file_that_cannot_be_opened_is_refused_by_name(tmp_path, monkeypatch):
    write_series(tmp_path)
    path_open = type(tmp_path).open

    def open_all_but_one(path, *arguments, **options):
        if path.name == "004.dcm":
            raise PermissionError(13, "Permission denied")
        return path_open(path, *arguments, **options)

    monkeypatch.setattr(type(tmp_path), "open", open_all_but_one)
    assert refusal_of(tmp_path) == "FOLDER/004.dcm must be a file that can be read, got: Permission denied"


def test_what_lies_beside_a_series_is_passed_over(tmp_path, capfd):
    write_series(tmp_path)
    for name in ("README", "notes.txt", "Thumbs.db", ".DS_Store", "._000.dcm", "viewer.exe", "DICOMDIR"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7 not a slice" if name != "README" else b"24 slices, read by nobody")
    (tmp_path / "empty folder").mkdir()
    assert_is_the_series(tmp_path)
    for path in tmp_path.glob("00*.dcm"):
        path.rename(path.with_suffix(""))
    assert_is_the_series(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_an_index_of_the_folder_is_passed_over_by_what_it_is(tmp_path):
    write_series(tmp_path)
    index = a_slice(0)
    index.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    write(index, tmp_path / "index.dcm")
    assert_is_the_series(tmp_path)


def test_names_and_their_order_do_not_matter(tmp_path):
    folder = write_series(tmp_path / "Älteres CT – Größe 2")
    for k, name in enumerate(["é.dcm", "a.IMA", "1.2.840.7", "IM.0001", "Z.bin"]):
        (folder / f"{k:03}.dcm").rename(folder / name)
    assert_is_the_series(folder)


def test_a_file_without_preamble_is_read(tmp_path):
    write_series(tmp_path, written_as(uid.ImplicitVRLittleEndian))
    ds = dcmread(tmp_path / "004.dcm")
    ds.file_meta.clear()
    ds.preamble = None
    dcmwrite(tmp_path / "004", ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    (tmp_path / "004.dcm").unlink()
    assert (tmp_path / "004").read_bytes()[128:132] != b"DICM"
    assert_is_the_series(tmp_path)


# What a file is


@pytest.mark.parametrize(
    ("modality", "sop_class", "said"),
    [
        ("MR", uid.MRImageStorage, r"MR \(MR Image\)"),
        ("PT", uid.PositronEmissionTomographyImageStorage, r"PT \(Positron Emission Tomography Image\)"),
        ("SR", uid.XRayRadiationDoseSRStorage, r"SR \(X-Ray Radiation Dose SR\)"),
        ("SEG", uid.SegmentationStorage, r"SEG \(Segmentation\)"),
        ("RTSTRUCT", uid.RTStructureSetStorage, r"RTSTRUCT \(RT Structure Set\)"),
        ("CT", uid.SegmentationStorage, r"CT \(Segmentation\)"),
        ("OT", uid.SecondaryCaptureImageStorage, r"OT \(Secondary Capture Image\)"),
        (None, uid.SecondaryCaptureImageStorage, r"no modality \(Secondary Capture Image\)"),
    ],
)
def test_what_is_no_ct_is_refused_by_what_it_is(tmp_path, modality, sop_class, said):
    write_series(tmp_path, every(Modality=modality, SOPClassUID=sop_class))
    assert re.fullmatch(rf"FOLDER/000.dcm must be a CT, got {said}", refusal_of(tmp_path))


def test_a_screen_shot_is_refused_as_one(tmp_path):
    write_series(tmp_path, every(SOPClassUID=uid.SecondaryCaptureImageStorage, ImagePositionPatient=None))
    assert refusal_of(tmp_path) == (
        "FOLDER/000.dcm must hold 3 finite numbers as ImagePositionPatient, got none "
        "(it is CT (Secondary Capture Image))"
    )


def test_a_ct_without_names_of_its_series_and_class_is_read(tmp_path):
    write_series(tmp_path, every(SOPClassUID="", SeriesInstanceUID="", SeriesDescription=None))
    assert_is_the_series(tmp_path)


def test_a_localizer_among_the_slices_is_refused(tmp_path):
    write_series(tmp_path, only(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    assert refusal_of(tmp_path) == "FOLDER/000.dcm must be a slice of a CT, got a localizer (scout)"


def test_a_multi_frame_file_of_a_class_without_frames_is_refused_by_name(tmp_path):
    write_series(tmp_path, every(NumberOfFrames=2), slices=[0])
    assert refusal_of(tmp_path) == "FOLDER/000.dcm must hold one slice, got 2 frames: CT (CT Image)"


def test_a_multi_frame_file_that_does_not_describe_its_frames_is_refused_by_name(tmp_path):
    change = every(NumberOfFrames=2, SOPClassUID=uid.EnhancedCTImageStorage, ImagePositionPatient=None)
    write_series(tmp_path, change, slices=[0])
    assert refusal_of(tmp_path) == "FOLDER/000.dcm must describe each of its frames, got 0 of 2"


@pytest.mark.parametrize("colour", ["RGB", "PALETTE COLOR", None])
def test_colours_are_refused(tmp_path, colour):
    write_series(tmp_path, only(1, PhotometricInterpretation=colour))
    assert f"FOLDER/001.dcm must hold grey values, got {colour or 'none'}" in refusal_of(tmp_path)


def test_several_series_that_qualify_are_listed_by_what_they_are(tmp_path):
    other_series(write_series(tmp_path), 7, every(SeriesDescription="Abdomen\n5.0"), range(1, N))
    assert refusal_of(tmp_path) == (
        "FOLDER must hold exactly one CT series, or --series must name one (flare info tells more), got 2 of 2: "
        f"Abdomen 3.0: CT (CT Image), 5 slices of 3 x 1.25 x 0.75 mm (z, y, x), {SERIES}; "
        f"Abdomen 5.0: CT (CT Image), 4 slices of 3 x 1.25 x 0.75 mm (z, y, x), {SERIES}.7"
    )


# Geometry


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"PixelSpacing": None}, "2 finite numbers as PixelSpacing, got none"),
        ({"PixelSpacing": [1.25]}, "2 finite numbers as PixelSpacing, got 1.25"),
        ({"ImagePositionPatient": None}, "3 finite numbers as ImagePositionPatient, got none"),
        ({"ImagePositionPatient": ["NaN", 42, 7.5]}, r"3 finite numbers as ImagePositionPatient, got \[NaN"),
        ({"ImageOrientationPatient": None}, "6 finite numbers as ImageOrientationPatient, got none"),
        ({"Rows": None}, "1 finite number as Rows, got none"),
    ],
)
@pytest.mark.parametrize("k", [0, END])
def test_geometry_that_is_missing_or_no_number_is_refused_by_name(tmp_path, elements, said, k):
    write_series(tmp_path, only(k, **elements))
    assert re.search(f"FOLDER/{k:03}.dcm must hold (a readable )?{said}", refusal_of(tmp_path))


def test_decimal_commas_are_refused_by_name(tmp_path):
    path = write_series(tmp_path) / "003.dcm"
    path.write_bytes(path.read_bytes().replace(b"1.25\\0.75", b"1,25\\0,75"))
    assert refusal_of(tmp_path) == "FOLDER/003.dcm must hold 2 finite numbers as PixelSpacing, got ['1,25', '0,75']"


@pytest.mark.parametrize("spacing", [[0, 0.75], [-1.25, 0.75]])
def test_a_spacing_that_is_not_positive_is_refused(tmp_path, spacing):
    write_series(tmp_path, every(PixelSpacing=spacing))
    assert "a PixelSpacing above 0" in refusal_of(tmp_path)


@pytest.mark.parametrize("orientation", [[2, 0, 0, 0, 1, 0], [1, 0, 0, 0.6, 0.8, 0], [0, 0, 0, 0, 0, 0]])
def test_an_orientation_without_right_angles_is_refused(tmp_path, orientation):
    write_series(tmp_path, every(ImageOrientationPatient=orientation))
    assert "two axes of length 1 at right angles" in refusal_of(tmp_path)


@pytest.mark.parametrize(
    ("elements", "name"),
    [
        ({"PixelSpacing": [1.5, 0.9]}, "PixelSpacing"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "ImageOrientationPatient"),
        ({"FrameOfReferenceUID": "1.2.3"}, "FrameOfReferenceUID"),
        ({"Rows": ROWS - 1, "PixelData": bytes(2 * COLUMNS * (ROWS - 1))}, "rows and columns"),
        ({"Rows": COLUMNS, "Columns": ROWS}, "rows and columns"),
    ],
)
@pytest.mark.parametrize("k", [0, END])
def test_a_slice_unlike_the_others_is_refused_by_name(tmp_path, elements, name, k):
    write_series(tmp_path, only(k, **elements))
    said = refusal_of(tmp_path)
    assert said.startswith(f"all slices of a series must have the same {name}, got ")
    assert f"in FOLDER/{k:03}.dcm, not" in said


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_gap_is_refused(tmp_path, missing):
    write_series(tmp_path, slices=sorted(set(range(N)) - {missing}))
    assert re.search(r"evenly spaced .* got one [12]\.0 mm off its place: 00\d\.dcm", refusal_of(tmp_path))


def tilted(ds, k):
    ds.ImagePositionPatient = [-31, 42 + 1.6 * k, 7.5 + 3 * k]


@pytest.mark.parametrize(
    ("change", "off_mm"),
    [
        (lambda ds, k: every(ImagePositionPatient=[-31, 42 + 1.9 * k, 7.5 + 3 * k])(ds, k), 7.6),  # 32 degrees
        (lambda ds, k: every(ImagePositionPatient=[-31 + 0.8 * k, 42, 7.5 + 3 * k])(ds, k), 3.2),  # sideways
        (lambda ds, k: every(ImagePositionPatient=[-31, 42 + 0.4 * k * k, 7.5 + 3 * k])(ds, k), 6.4),  # bent
        (lambda ds, k: (tilted(ds, k), every(GantryDetectorTilt=12)(ds, k)), 6.4),  # 28 degrees, not 12
    ],
)
def test_what_is_no_clean_shear_is_refused(tmp_path, change, off_mm):
    write_series(tmp_path, change)
    said = refusal_of(tmp_path)
    assert f"straight above one another, or tilted as a gantry tilts them, got one {off_mm} mm" in said


def test_a_slice_missing_from_a_tilted_series_is_refused(tmp_path):
    write_series(tmp_path, tilted, slices=[0, 1, 3, 4])
    assert "are some missing?" in refusal_of(tmp_path)


def test_copies_of_a_slice_are_one_slice(tmp_path):
    write_series(tmp_path)
    for k, name in ((0, "copy.dcm"), (0, "000 (1).dcm"), (END, "again.dcm")):
        shutil.copy(tmp_path / f"{k:03}.dcm", tmp_path / name)
    assert_is_the_series(tmp_path)


def test_two_phases_at_one_place_are_refused_by_name(tmp_path):
    write_series(tmp_path)
    ds = a_slice(2)
    store(ds, HU[2][::-1] + 1024)
    write(ds, tmp_path / "late.dcm")
    assert re.search(
        r"every place must have one slice, got FOLDER/\w+.dcm and \w+.dcm in the same place with different values "
        r"\(several phases or reconstructions in one series\?\)",
        refusal_of(tmp_path),
    )


def test_a_single_slice_is_as_thick_as_it_says(tmp_path):
    write_series(tmp_path, slices=[2])
    assert_is_the_series(tmp_path, HU[2:3], (5.0, 1.25, 0.75))


@pytest.mark.parametrize("thickness", [None, 0, "NaN"])
def test_a_single_slice_without_a_thickness_is_refused(tmp_path, thickness):
    write_series(tmp_path, every(SliceThickness=thickness), slices=[2])
    assert re.match("FOLDER/002.dcm.* must (have|hold) .*SliceThickness", refusal_of(tmp_path))


# Grey values


@pytest.mark.parametrize("keyword", ["RescaleIntercept", "RescaleSlope"])
@pytest.mark.parametrize("value", [None, "", "NaN", "Infinity"])
def test_a_slice_that_does_not_say_its_hu_is_refused(tmp_path, keyword, value):
    write_series(tmp_path, only(END, **{keyword: value}))
    assert re.search(f"FOLDER/004.dcm must hold (a readable|1 finite number as) {keyword}", refusal_of(tmp_path))


def test_a_slope_of_0_is_refused(tmp_path):
    write_series(tmp_path, only(END, RescaleSlope=0))
    assert "FOLDER/004.dcm must say how its values become HU by a slope that is not 0" in refusal_of(tmp_path)


def test_codes_in_small_letters_are_codes(tmp_path):
    write_series(tmp_path, every(Modality="ct", PhotometricInterpretation="monochrome2", RescaleType="hu"))
    np.testing.assert_array_equal(load_ct(tmp_path).array_zyx[:, ::-1, ::-1], HU)


@pytest.mark.parametrize("modality", ["CT", "ct"])
def test_a_slice_of_a_class_that_none_knows_is_missed_whatever_the_letters_of_its_modality(tmp_path, modality):
    def damage(ds, k):
        ds.Modality = modality
        if k == END:
            ds.SOPClassUID, ds.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.2.77", f"{ds.SeriesInstanceUID}.7"

    write_series(tmp_path, damage)
    assert "FOLDER/004.dcm must say what it is and where it belongs" in refusal_of(tmp_path)


@pytest.mark.parametrize("unit", ["MGML", "Z_EFF", "OD"])
def test_an_iodine_map_is_refused_by_its_unit(tmp_path, unit):
    write_series(tmp_path, every(RescaleType=unit))
    assert refusal_of(tmp_path) == f"FOLDER/000.dcm must hold HU, got values in {unit}"


@pytest.mark.parametrize("kind", ["MAT_SPECIFIC", "EFF_ATOMIC_NUM", "electron_density"])
def test_a_map_of_materials_is_refused_by_its_type_whatever_its_unit(tmp_path, kind):
    write_series(tmp_path, every(ImageType=["DERIVED", "PRIMARY", "AXIAL", kind]))
    said = f"FOLDER/000.dcm must hold HU, got a map of a material or a density ({kind.upper()})"
    assert refusal_of(tmp_path) == said


@pytest.mark.parametrize("kind", ["VMI", "MAT_REMOVED"])
def test_one_energy_or_a_material_removed_leaves_hu(tmp_path, kind):
    assert_is_the_series(write_series(tmp_path, every(ImageType=["DERIVED", "PRIMARY", "AXIAL", kind])))


def test_every_slice_has_its_own_slope_and_intercept(tmp_path):
    def change(ds, k):
        ds.RescaleSlope, ds.RescaleIntercept = (1, 2, 0.5, 1, 4)[k], (-1024, -2000, -900, 0, -1000)[k]

    write_series(tmp_path, change)
    stored = HU.astype(np.float64) + 1024
    expected = stored * np.reshape((1, 2, 0.5, 1, 4), (N, 1, 1)) + np.reshape((-1024, -2000, -900, 0, -1000), (N, 1, 1))
    volume = assert_is_the_series(tmp_path, expected)
    assert volume.array_zyx.dtype == np.float32


def test_monochrome1_changes_how_a_slice_is_shown_and_not_its_hu(tmp_path):
    write_series(tmp_path, every(PhotometricInterpretation="MONOCHROME1"))
    assert_is_the_series(tmp_path)


def in_12_bits(ds, k):
    ds.BitsStored, ds.HighBit = 12, 11


def in_12_bits_of_32(ds, k):
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 32, 12, 11
    store(ds, HU[k].astype(np.int64) + 1024, "<u4")


def in_the_upper_12_bits(ds, k):
    ds.BitsStored, ds.HighBit = 12, 15
    store(ds, (HU[k].astype(np.int64) + 1024) << 4)


def signed(ds, k):
    ds.PixelRepresentation, ds.RescaleIntercept = 1, 0
    store(ds, HU[k], "<i2")


def signed_in_12_bits(ds, k):
    in_12_bits(ds, k)
    signed(ds, k)


def signed_in_12_bits_the_others_0(ds, k):
    in_12_bits(ds, k)
    signed(ds, k)
    store(ds, HU[k] & 0xFFF)


@pytest.mark.parametrize(
    "change",
    [in_12_bits, in_12_bits_of_32, in_the_upper_12_bits, signed, signed_in_12_bits, signed_in_12_bits_the_others_0],
)
def test_values_are_right_however_their_bits_lie(tmp_path, change):
    assert_is_the_series(write_series(tmp_path, change))


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"BitsStored": 8, "HighBit": 7}, "must use only the 8 bits per value that it states, got others set"),
        ({"BitsStored": 12, "HighBit": 9}, "got 12 bits up to bit 9 of 16"),
        ({"BitsStored": 0, "HighBit": 15}, "got 0 bits up to bit 15 of 16"),
        ({"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}, "integers of 8, 16 or 32 bits"),
        ({"BitsAllocated": 32}, "got: 84 bytes where there must be 168"),
        ({"SamplesPerPixel": 3}, "one grey value per pixel, got 3"),
        ({"PixelRepresentation": 7}, "integers of 8, 16 or 32 bits"),
    ],
)
def test_bits_that_cannot_be_are_refused(tmp_path, elements, said):
    write_series(tmp_path, only(END, **elements))
    assert f"FOLDER/{END:03}.dcm must" in (message := refusal_of(tmp_path))
    assert said in message


@pytest.mark.parametrize("n_bytes", [0, 1, 42, 82, 86, 168])
def test_too_few_or_too_many_pixels_are_refused(tmp_path, n_bytes):
    write_series(tmp_path, lambda ds, k: only(END, PixelData=(ds.PixelData * 2)[:n_bytes])(ds, k))
    assert re.search(
        r"FOLDER/004.dcm must hold complete pixel data, got: \d+ bytes where there must be 84", refusal_of(tmp_path)
    )


def test_no_pixels_at_all_are_refused(tmp_path):
    write_series(tmp_path, only(END, PixelData=None))
    assert refusal_of(tmp_path) == "FOLDER/004.dcm must hold complete pixel data, got: none"


# Transfer syntaxes

COMPRESSED = (uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless)
PLAIN = (uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian)


@pytest.mark.parametrize("syntax", [*PLAIN, *COMPRESSED], ids=lambda syntax: syntax.name)
def test_the_same_series_is_read_in_every_transfer_syntax(tmp_path, syntax):
    assert_is_the_series(write_series(tmp_path, written_as(syntax)))


def test_a_series_may_mix_transfer_syntaxes(tmp_path):
    syntaxes = [uid.ExplicitVRLittleEndian, *COMPRESSED[1:]]
    assert_is_the_series(write_series(tmp_path, lambda ds, k: written_as(syntaxes[k])(ds, k)))


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name)
def test_signed_values_are_right_when_compressed(tmp_path, syntax):
    def change(ds, k):
        signed_in_12_bits_the_others_0(ds, k)
        written_as(syntax)(ds, k)

    assert_is_the_series(write_series(tmp_path, change))


@pytest.mark.parametrize("syntax", [uid.JPIPHTJ2KReferenced, "1.2.840.113619.5.2", uid.MPEG2MPML])
def test_a_transfer_syntax_that_is_not_read_is_refused_by_its_name(tmp_path, syntax):
    write_series(tmp_path)
    path = tmp_path / "004.dcm"
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", syntax.encode().ljust(20, b"\0")[:20]))
    if len(syntax) > 20:
        ds = a_slice(END)
        written_as(uid.JPEGLSLossless)(ds, END)
        ds.file_meta.TransferSyntaxUID = syntax
        write(ds, path)
    assert "FOLDER/004.dcm must be plain, RLE, JPEG, JPEG-LS or JPEG 2000, got " in refusal_of(tmp_path)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_a_compressed_stream_that_is_cut_is_refused(tmp_path, syntax, kept):
    write_series(tmp_path, written_as(syntax))
    path = tmp_path / "004.dcm"
    whole = path.read_bytes()
    start = whole.rindex(b"\xe0\x7f\x10\x00")
    path.write_bytes(whole[: start + int(kept * (len(whole) - start))])
    assert "FOLDER/004.dcm must hold complete pixel data, got: " in refusal_of(tmp_path)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name)
def test_a_compressed_stream_without_its_end_in_a_whole_file_is_refused(tmp_path, syntax):
    write_series(tmp_path, written_as(syntax))
    ds = dcmread(tmp_path / "004.dcm")
    ds.PixelData = encapsulate([get_frame(ds.PixelData, 0, number_of_frames=1)[:-20]])
    ds.save_as(tmp_path / "004.dcm")
    assert "FOLDER/004.dcm must hold complete pixel data, got: " in refusal_of(tmp_path)


@pytest.mark.parametrize("syntax", COMPRESSED[1:], ids=lambda syntax: syntax.name)
def test_a_compressed_image_of_another_size_is_refused(tmp_path, syntax):
    def change(ds, k):
        written_as(syntax)(ds, k)
        ds.Rows, ds.Columns = COLUMNS, ROWS

    write_series(tmp_path, change)
    assert "a compressed image of (6, 7) pixels where there must be (7, 6)" in refusal_of(tmp_path)


@pytest.mark.parametrize("syntax", COMPRESSED[1:], ids=lambda syntax: syntax.name)
def test_plain_pixels_that_call_themselves_compressed_are_refused(tmp_path, syntax):
    write_series(tmp_path)
    path = tmp_path / "004.dcm"
    ds = dcmread(path)
    ds["PixelData"].is_undefined_length = False
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    plain = write(ds, path).read_bytes()
    assert b"1.2.840.10008.1.2.1\0" in plain
    at = plain.index(b"\x02\0\x10\0UI")
    name = syntax.encode() + b"\0" * (len(syntax) % 2)
    plain = plain[: at + 6] + len(name).to_bytes(2, "little") + name + plain[at + 8 + 20 :]
    length = plain.index(b"\x02\0\0\0UL\4\0") + 8
    plain = (
        plain[:length]
        + (int.from_bytes(plain[length : length + 4], "little") + len(name) - 20).to_bytes(4, "little")
        + plain[length + 4 :]
    )
    path.write_bytes(plain)
    assert "FOLDER/004.dcm must hold complete pixel data, got: " in refusal_of(tmp_path)


def test_a_table_instead_of_a_slope_is_refused(tmp_path):
    write_series(tmp_path, every(ModalityLUTSequence=[Dataset()]))
    assert "must say how its values become HU by a slope" in refusal_of(tmp_path)


def test_private_elements_do_not_disturb(tmp_path):
    def change(ds, k):
        block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x10, "OB", bytes(range(256)) * 8)
        ds.private_block(0x7FDF, "BEFORE THE PIXELS", create=True).add_new(0x10, "UN", b"\xe0\x7f\x10\0" * 4)

    assert_is_the_series(write_series(tmp_path, change))


def eight_bits(ds, _):
    tens = np.frombuffer(ds.PixelData, "<u2") // 10
    set_elements(ds, BitsAllocated=8, BitsStored=8, HighBit=7, RescaleSlope=10, PixelData=tens.astype("u1").tobytes())


@pytest.mark.parametrize(
    ("change", "hu"),
    [
        (lambda ds, k: set_elements(ds, ImagePositionPatient=["-3.1e+01", "4.2E1", f"{7.5 + 3 * k:.3e}"]), HU),
        (lambda ds, k: set_elements(ds, ImagePositionPatient=[-31, 42, 7.5 + 3 * k + 0.05 * (-1) ** k]), HU),
        (lambda ds, k: set_elements(ds, InstanceNumber=1, SliceThickness=-5), HU),
        (lambda ds, k: set_elements(ds, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada=山田"), HU),
        (lambda ds, k: set_elements(ds, ImageType=None, NumberOfFrames=1, SeriesDescription="a\nb\a"), HU),
        (eight_bits, (HU + 1024) // 10 * 10 - 1024),
    ],
    ids=["scientific", "rounded places", "one number for all", "Japanese", "odd texts", "8 bits"],
)
def test_odd_headers_that_leave_no_doubt_are_read(tmp_path, change, hu):
    assert_is_the_series(write_series(tmp_path, change), hu)


def test_a_jpeg_2000_file_within_the_file_is_read(tmp_path):
    def wrap(ds, k):
        values = np.frombuffer(ds.PixelData, "<u2").reshape(ROWS, COLUMNS)
        written_as(uid.JPEG2000Lossless)(ds, k)
        file = imagecodecs.jpeg2k_encode(values, codecformat="jp2", level=0, reversible=True)
        assert file[4:8] == b"jP  "
        ds.PixelData = encapsulate([bytes(file)])

    assert_is_the_series(write_series(tmp_path, wrap))


def test_an_overlay_in_the_upper_bits_is_refused(tmp_path):
    def change(ds, _):
        values = np.frombuffer(ds.PixelData, "<u2").reshape(ROWS, COLUMNS)
        set_elements(ds, BitsStored=12, HighBit=11)
        store(ds, values | np.uint16(1 << 12))

    assert "must use only the 12 bits per value that it states, got others set (an overlay" in refusal_of(
        write_series(tmp_path, change)
    )


@pytest.mark.parametrize(
    ("axes", "spacing_zyx_mm", "canonical"),
    [
        ([1, 0, 0, 0, 1, 0], (3.0, 1.25, 0.75), HU[:, ::-1, ::-1]),
        ([-1, 0, 0, 0, -1, 0], (3.0, 1.25, 0.75), HU),
        ([0, 1, 0, -1, 0, 0], (3.0, 0.75, 1.25), HU.transpose(0, 2, 1)[:, ::-1, :]),
    ],
    ids=["supine", "prone", "on a side"],
)
def test_a_person_prone_or_on_a_side_is_turned_as_the_header_says(tmp_path, axes, spacing_zyx_mm, canonical):
    folder = write_series(tmp_path, every(ImageOrientationPatient=axes, PatientPosition="FFDL"))
    volume = assert_is_the_series(folder, spacing_zyx_mm=spacing_zyx_mm)
    np.testing.assert_array_equal(volume.array_zyx, canonical)


def test_loading_nifti_and_the_command_do_not_wait_for_dicom():
    code = (
        "import sys, flare_lib.cli; print({'pydicom', 'imagecodecs'} & set(sys.modules)); "
        "import flare_lib.ct.files; print({'imagecodecs'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "set()\nset()\n"


def test_labels_lie_on_the_grid_of_the_series(tmp_path):
    volume = load_dicom(write_series(tmp_path))
    np.testing.assert_allclose(
        volume.grid.affine, [[-0.75, 0, 0, 31], [0, -1.25, 0, -42], [0, 0, 3, 7.5], [0, 0, 0, 1]], atol=1e-9
    )


def test_cosines_of_two_digits_do_not_add_up_over_a_long_series(tmp_path):
    for k in range(48):
        ds = a_slice(k % N)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"1.2.3.{k + 1}"
        ds.ImageOrientationPatient = [0.71, 0.71, 0, -0.71, 0.71, 0]  # each of length 1.004
        ds.ImagePositionPatient = [-31.0, 42.0, 7.5 + 3.0 * k]
        write(ds, tmp_path / f"{k:03}.dcm")
    ct = load_dicom(tmp_path)
    assert ct.shape_zyx[0] == 48
    assert ct.spacing_zyx_mm[0] == pytest.approx(3.0, abs=1e-6)


def test_one_row_more_than_in_other_slices_is_refused_however_many_there_are(tmp_path):
    def taller(ds, k):
        ds.Rows, ds.Columns = (1025, 2) if k == 1 else (1024, 2)
        store(ds, np.zeros((ds.Rows, ds.Columns)))

    assert "rows and columns" in refusal_of(write_series(tmp_path / "ct", taller))


def test_many_images_of_another_kind_among_the_slices_are_one_note(tmp_path):
    write_series(tmp_path)
    mr = every(Modality="MR", SOPClassUID=uid.MRImageStorage, SeriesInstanceUID=SERIES)
    other_series(tmp_path, 2, mr, range(5))
    assert load_ct(tmp_path).notes == (
        "passed over among the slices: 2_000.dcm, 2_001.dcm, 2_002.dcm and 2 more, MR (MR Image)",
    )
