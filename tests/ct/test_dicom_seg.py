"""Labels as DICOM-SEG: read back by dcmqi and from the bare bits, equal voxel by voxel, and what the file says."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicoms import HU, PATIENT, SERIES, a_slice, enhanced, every, other_series, store, write, write_series, zipped
from pydicom import dcmread, uid
from pydicom.sr.codedict import codes

from flare_lib import __version__
from flare_lib.ct.dicom_seg import _SNOMED, check_dicom_seg
from flare_lib.ct.files import check_labels_fit, load_ct, save_label_map
from flare_lib.ct.labels import ORGANS
from flare_lib.ct.volume import Volume, to_file_axes
from flare_lib.machine.extras import MissingExtra

STUDY = f"{SERIES}.500"


def in_study(ds, k):
    ds.StudyInstanceUID = STUDY


def labels_of(volume, *, seed=0):
    """Return labels 0..13 in every voxel but those of the esophagus, which was not found."""
    labels = np.random.default_rng(seed).integers(0, 14, volume.shape_zyx).astype(np.uint8)
    labels[labels == 10] = 0
    return labels


def as_the_ct_lies(volume, labels):
    return to_file_axes(labels, volume.grid).T  # slices, rows, columns


def by_dcmqi(path):
    """Read a DICOM-SEG by dcmqi: the labels and their place as one SimpleITK image."""
    tool = Path(sys.executable).with_name("segimage2itkimage")
    folder = path.parent / "by_dcmqi"
    folder.mkdir()
    how = ["--inputDICOM", path, "--outputDirectory", folder, "--mergeSegments", "-t", "nrrd"]
    subprocess.run([tool, *how], check=True, capture_output=True)
    return sitk.ReadImage(str(folder / "1.nrrd"))


def from_bits(path, places):
    """Read a DICOM-SEG's bits without any library for it: labels at each place (z of ImagePositionPatient)."""
    ds = dcmread(path)
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    n, rows, columns = ds.NumberOfFrames, ds.Rows, ds.Columns
    frames = bits[: n * rows * columns].reshape(n, rows, columns)
    labels = np.zeros((len(places), rows, columns), np.uint8)
    for frame, groups in zip(frames, ds.PerFrameFunctionalGroupsSequence, strict=True):
        at = [float(n) for n in groups.PlanePositionSequence[0].ImagePositionPatient]
        organ = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        labels[places.index(at)][frame == 1] = organ
    return labels


PLACES = [[-31.0, 42.0, 7.5 + 3.0 * k] for k in range(5)]


@pytest.fixture
def saved(tmp_path):
    """A series, labels of it and their DICOM-SEG."""
    volume = load_ct(write_series(tmp_path / "ct", in_study))
    labels = labels_of(volume)
    save_label_map(tmp_path / "labels.dcm", labels, volume)
    return volume, labels, tmp_path / "labels.dcm"


def test_dcmqi_reads_the_same_labels_at_the_same_place(saved):
    volume, labels, path = saved
    image = by_dcmqi(path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), as_the_ct_lies(volume, labels))
    np.testing.assert_allclose(image.GetOrigin(), (-31, 42, 7.5), atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), (0.75, 1.25, 3.0), atol=1e-6)


def test_the_bits_hold_the_same_labels(saved):
    volume, labels, path = saved
    np.testing.assert_array_equal(from_bits(path, PLACES), as_the_ct_lies(volume, labels))


def test_every_frame_refers_to_the_slice_that_it_lies_on(saved):
    slices = {ds.SOPInstanceUID: ds for ds in map(dcmread, sorted((saved[2].parent / "ct").iterdir()))}
    ds = dcmread(saved[2])
    for groups in ds.PerFrameFunctionalGroupsSequence:
        [source] = groups.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPClassUID == uid.CTImageStorage
        referred = slices[source.ReferencedSOPInstanceUID]
        assert list(groups.PlanePositionSequence[0].ImagePositionPatient) == list(referred.ImagePositionPatient)
    [series] = ds.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SERIES
    assert {image.ReferencedSOPInstanceUID for image in series.ReferencedInstanceSequence} == set(slices)
    assert (ds.StudyInstanceUID, ds.FrameOfReferenceUID) == (STUDY, f"{SERIES}.99")
    assert (ds.PatientName, ds.PatientID) == (PATIENT, "4711")
    assert ds.SeriesInstanceUID != SERIES


def test_a_segment_says_which_organ_it_is_what_found_it_and_its_colour(saved):
    segments = dcmread(saved[2]).SegmentSequence
    assert [(s.SegmentNumber, s.SegmentLabel) for s in segments] == [(o.id, o.name) for o in ORGANS]
    for segment, organ in zip(segments, ORGANS, strict=True):
        assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == codes.cid7150.AnatomicalStructure.value
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodingSchemeDesignator, kind.CodeValue, kind.CodeMeaning) == ("SCT", *_SNOMED[organ.name])
        side = organ.name.split()[0]
        sided = kind.get("SegmentedPropertyTypeModifierCodeSequence", [])
        assert [m.CodeMeaning.lower() for m in sided] == [side] * (side in ("left", "right"))
        color = highdicom.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue)
        assert color.to_rgb() == tuple(bytes.fromhex(organ.color[1:]))
        [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("flare-lib, coarse to fine", __version__)
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"


def test_the_file_says_what_made_it_and_what_it_is_for(saved):
    ds = dcmread(saved[2])
    assert (ds.Manufacturer, ds.ManufacturerModelName, ds.DeviceSerialNumber) == ("flare-lib", "flare-lib", "0")
    assert (ds.SoftwareVersions, ds.ContentCreatorName, ds.InstanceNumber) == (__version__, "", 1)
    assert (ds.ContentLabel, ds.SeriesDescription) == ("ORGANS", "13 abdominal organs (flare-lib)")
    assert ds.ContentDescription == "13 abdominal organs, found by a net; not for clinical use"


def test_the_codes_are_those_of_the_standards_list_of_organs():
    known = {getattr(codes.cid7151, name).value: getattr(codes.cid7151, name).meaning for name in codes.cid7151.dir()}
    assert _SNOMED.keys() == {organ.name for organ in ORGANS}
    assert all(known[code] == meaning for code, meaning in _SNOMED.values())


def test_the_file_is_deflated_and_small(saved):
    ds = dcmread(saved[2])
    assert ds.file_meta.TransferSyntaxUID == uid.DeflatedExplicitVRLittleEndian
    assert ds.SegmentationType == "BINARY"
    assert ds.BitsAllocated == 1


def test_a_multi_frame_ct_gets_labels_that_refer_to_its_frames(tmp_path):
    path = enhanced(tmp_path / "ct" / "ct.dcm")
    ds = dcmread(path)
    in_study(ds, 0)
    ds.save_as(path)
    volume = load_ct(zipped(tmp_path / "ct", tmp_path / "ct.zip"))
    labels = labels_of(volume, seed=2)
    save_label_map(tmp_path / "labels.dcm", labels, volume)
    np.testing.assert_array_equal(from_bits(tmp_path / "labels.dcm", PLACES), as_the_ct_lies(volume, labels))
    image = by_dcmqi(tmp_path / "labels.dcm")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), as_the_ct_lies(volume, labels))
    for groups in dcmread(tmp_path / "labels.dcm").PerFrameFunctionalGroupsSequence:
        [source] = groups.DerivationImageSequence[0].SourceImageSequence
        place = [float(n) for n in groups.PlanePositionSequence[0].ImagePositionPatient]
        assert source.ReferencedFrameNumber == 5 - PLACES.index(place)  # its frames run from head to feet


def test_labels_of_a_tilted_gantry_lie_on_the_slices_as_they_were(tmp_path):
    def tilted(ds, k):
        in_study(ds, k)
        ds.ImagePositionPatient = [-31, 42 + 1.25 * k, 7.5 + 3 * k]  # one row further each
        store(ds, np.full((6, 7), 1064 + k))

    volume = load_ct(write_series(tmp_path / "ct", tilted))
    straight = as_the_ct_lies(volume, volume.array_zyx)
    labels = np.where(volume.array_zyx == -1024, 0, volume.array_zyx - 39).astype(np.uint8)  # slice k is organ k + 1
    assert straight.shape == (5, 10, 7)
    save_label_map(tmp_path / "labels.dcm", labels, volume)
    places = [[-31.0, 42.0 + 1.25 * k, 7.5 + 3.0 * k] for k in range(5)]
    read = from_bits(tmp_path / "labels.dcm", places)
    np.testing.assert_array_equal(read, np.broadcast_to(np.arange(1, 6)[:, None, None], (5, 6, 7)))


def test_labels_of_a_part_of_a_series_refer_to_that_part(tmp_path):
    write_series(tmp_path / "ct", lambda ds, k: (in_study(ds, k), every(AcquisitionNumber=1)(ds, k)))
    late = every(AcquisitionNumber=2, SeriesInstanceUID=SERIES, StudyInstanceUID=STUDY)
    other_series(tmp_path / "ct", 7, lambda ds, k: (late(ds, k), store(ds, HU[k] + 1020)), range(5))
    volume = load_ct(tmp_path / "ct", series=f"{SERIES}#2")
    save_label_map(tmp_path / "labels.dcm", labels_of(volume), volume)
    [series] = dcmread(tmp_path / "labels.dcm").ReferencedSeriesSequence
    referred = {image.ReferencedSOPInstanceUID for image in series.ReferencedInstanceSequence}
    assert referred == {f"{SERIES}.7.{k + 1}" for k in range(5)}


def test_labels_without_any_organ_are_saved(tmp_path):
    volume = load_ct(write_series(tmp_path / "ct", in_study))
    save_label_map(tmp_path / "labels.dcm", np.zeros(volume.shape_zyx, np.uint8), volume)
    np.testing.assert_array_equal(from_bits(tmp_path / "labels.dcm", PLACES), np.zeros((5, 6, 7)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (every(), "must have a StudyInstanceUID for DICOM to refer to it, got none"),
        (every(StudyInstanceUID=STUDY, FrameOfReferenceUID=""), "must have a FrameOfReferenceUID"),
        (every(StudyInstanceUID=STUDY, PatientSex="4711"), r"one that highdicom refuses \(ValueError\)"),
        (lambda ds, k: setattr(ds, "StudyInstanceUID", f"{STUDY}.{k}"), r"one that highdicom refuses \(ValueError\)"),
        (lambda ds, k: setattr(ds, "StudyInstanceUID", f"{STUDY}.{'12211'[k]}"), "one that highdicom refuses"),
    ],
)
def test_a_ct_that_cannot_be_referred_to_is_refused_before_the_work(tmp_path, change, said, capfd):
    volume = load_ct(write_series(tmp_path / "ct", change))
    with pytest.raises(ValueError, match=said) as refusal:
        check_dicom_seg(volume)
    assert not any(word in str(refusal.value) for word in ("Mustermann", "4711"))
    assert refusal.value.__cause__ is None
    with pytest.raises(ValueError, match=said):
        save_label_map(tmp_path / "labels.dcm", labels_of(volume), volume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct"]
    assert capfd.readouterr() == ("", "")


def test_what_anonymisers_take_away_is_left_empty(tmp_path):
    def change(ds, k):
        in_study(ds, k)
        for keyword in ("PatientName", "PatientID", "StudyDate"):
            delattr(ds, keyword)

    volume = load_ct(write_series(tmp_path / "ct", change))
    save_label_map(tmp_path / "labels.dcm", labels_of(volume), volume)
    assert dcmread(tmp_path / "labels.dcm").PatientName == ""


def test_only_a_dicom_ct_has_a_dicom_seg(tmp_path):
    nib.Nifti1Image(HU.T.astype(np.int16), np.diag([1.0, 2, 3, 1])).to_filename(tmp_path / "ct.nii.gz")
    for volume in (load_ct(tmp_path / "ct.nii.gz"), Volume.from_array(HU, (3.0, 1.25, 0.75))):
        with pytest.raises(ValueError, match="got a CT from another format"):
            save_label_map(tmp_path / "labels.dcm", np.zeros(volume.shape_zyx, np.uint8), volume)


def test_labels_beyond_the_13_organs_are_refused(saved):
    volume, labels, path = saved
    before = path.read_bytes()
    with pytest.raises(ValueError, match="must be 0 to 13, got 0 to 14"):
        save_label_map(path, np.where(labels == 3, 14, labels), volume)
    assert path.read_bytes() == before


def test_two_multi_frame_files_are_refused(tmp_path):
    for name, first in (("a", 0), ("b", 5)):
        path = enhanced(tmp_path / name / "ct.dcm")
        ds = dcmread(path)
        ds.SOPInstanceUID = f"{SERIES}.{first + 70}"
        for frame in ds.PerFrameFunctionalGroupsSequence:
            frame.PlanePositionSequence[0].ImagePositionPatient[2] += 3.0 * first
        ds.save_as(path)
    volume = load_ct(tmp_path)
    assert volume.shape_zyx == (10, 6, 7)
    with pytest.raises(ValueError, match="labels can refer to one multi-frame file"):
        check_dicom_seg(volume)


def test_without_highdicom_the_extra_is_named(tmp_path, monkeypatch):
    volume = load_ct(write_series(tmp_path / "ct", in_study))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "flare_lib.machine.extras.find_spec", lambda name: None if name == "highdicom" else find_spec(name)
    )
    with pytest.raises(MissingExtra, match=r"highdicom must be installed \(pip install 'flare-lib\[dicom\]'\)"):
        check_dicom_seg(volume)


def test_a_file_among_others_is_not_taken_for_a_slice(saved):
    path = saved[2]
    path.rename(path.parent / "ct" / "labels.dcm")
    assert (
        load_ct(path.parent / "ct")
        .notes[0]
        .startswith(
            "passed over beside this series: 13 abdominal organs (flare-lib): SEG (Segmentation), 1 file (labels.dcm), "
        )
    )
    write(a_slice(4), path.parent / "ct" / "again.dcm")
    np.testing.assert_array_equal(as_the_ct_lies(saved[0], load_ct(path.parent / "ct").array_zyx), HU)


def test_a_slice_is_never_overwritten_by_its_labels(tmp_path):
    folder = write_series(tmp_path / "ct", in_study)
    before = (folder / "002.dcm").read_bytes()
    ct = load_ct(folder)
    for refused in (
        lambda: check_labels_fit(folder / "002.dcm", ct),  # before the work
        lambda: save_label_map(folder / "002.dcm", labels_of(ct), ct),
    ):
        with pytest.raises(
            ValueError,
            match=r"must not replace a file that flare-lib did not make, got .*002\.dcm \(CT \(CT Image\)\)$",
        ):
            refused()
    assert (folder / "002.dcm").read_bytes() == before
