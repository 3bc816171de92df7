"""The series in a folder: what is listed of each, which volumes it holds, what rules it out."""

import re

import numpy as np
import pytest
from dicoms import (
    HU,
    SERIES,
    N,
    a_slice,
    disc,
    enhanced,
    every,
    headers_in,
    only,
    other_series,
    set_elements,
    store,
    write,
    write_series,
)
from series import CONTOURS, REPORT, SCOUT, hu_of, refusal_of

from flare_lib.ct.dicom_series import find_series
from flare_lib.ct.files import load_ct


def test_a_series_is_listed_with_all_that_one_needs_to_choose(tmp_path):
    write_series(tmp_path / "a" / "b", every(ConvolutionKernel=["B30f", "3"]))
    other_series(tmp_path, 7, every(**REPORT))
    ct, report = find_series(tmp_path)
    assert (ct.name, ct.description, ct.kind, ct.kernel) == (SERIES, "Abdomen 3.0", "CT (CT Image)", "B30f 3")
    assert (ct.size, ct.against, ct.doubt) == ("5 slices of 3 x 1.25 x 0.75 mm (z, y, x)", None, None)
    assert (report.name, report.description, report.size) == (f"{SERIES}.7", "Dose report", "1 file (7_000.dcm)")
    assert report.against == f"{tmp_path / '7_000.dcm'} must be a CT, got SR (X-Ray Radiation Dose SR)"


def test_an_empty_folder_has_no_series(tmp_path):
    assert find_series(tmp_path) == []


@pytest.mark.parametrize(
    ("elements", "what"),
    [
        (SCOUT, "a localizer (scout)"),
        (SCOUT | {"ImageType": ["original", "primary", "localizer"]}, "a localizer (scout)"),
        (CONTOURS, "RTSTRUCT (RT Structure Set)"),
    ],
)
def test_what_lies_among_the_slices_of_a_series_is_passed_over_by_name(tmp_path, elements, what):
    other_series(write_series(tmp_path), 7, every(SeriesInstanceUID=SERIES, **elements))
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    assert load_ct(tmp_path).notes == (f"passed over among the slices: 7_000.dcm, {what}",)


@pytest.mark.parametrize("name", ["all.tar", "all.TGZ", "all.tar.xz", "all.7z", "all.rar", "005.gz", "disc.iso"])
def test_an_archive_that_is_not_read_is_passed_over_by_name(tmp_path, name):
    for beside in (name, f".{name}", "labels.nii.gz"):
        (write_series(tmp_path) / beside).write_bytes(bytes(range(256)))
    assert load_ct(tmp_path).notes == (f"passed over beside the slices: {name} (of archives, only .zip is read)",)


def test_a_slice_that_calls_itself_a_scout_is_not_passed_over(tmp_path):
    write_series(tmp_path, only(2, ImageType=SCOUT["ImageType"]))  # it lies as the others do: without it there is a gap
    assert "FOLDER/002.dcm must be a slice of a CT, got a localizer (scout)" in refusal_of(tmp_path)


def test_slices_whose_class_alone_says_that_they_are_ct_are_a_ct(tmp_path):
    np.testing.assert_array_equal(hu_of(write_series(tmp_path, every(Modality=None))), HU)


def test_a_damaged_file_speaks_against_the_series_beside_it_alone(tmp_path):
    write_series(tmp_path / "a")
    other_series(tmp_path / "b", 7, slices=range(N))
    (tmp_path / "b" / "5.dcm").write_bytes(b"")
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    assert "FOLDER/b/5.dcm must be a complete DICOM file" in refusal_of(tmp_path, f"{SERIES}.7")
    (tmp_path / "c").mkdir()
    (tmp_path / "b" / "5.dcm").rename(tmp_path / "c" / "5.dcm")  # now it may belong to any
    assert "got 0 of 2" in refusal_of(tmp_path)
    assert "FOLDER/c/5.dcm must be a complete DICOM file" in refusal_of(tmp_path, SERIES)


# Several volumes in one series


@pytest.mark.parametrize(
    ("keyword", "values", "words"),
    [
        ("TemporalPositionIdentifier", (1, 2), "phase"),
        ("NominalPercentageOfCardiacPhase", (30, 75), "percent of the heart cycle"),
        ("AcquisitionNumber", (9, 10), "acquisition"),
        ("ConvolutionKernel", ("B30f", "B70f"), "kernel"),
        ("KVP", (80, 140), "kV"),
    ],
)
@pytest.mark.parametrize("higher_mm", [0.0, 1.5], ids=["in the same places", "half a slice further"])
def test_volumes_of_one_series_are_told_apart(tmp_path, keyword, values, words, higher_mm):
    write_series(tmp_path, every(**{keyword: values[0]}))

    def late(ds, k):
        set_elements(ds, **{keyword: values[1]}, SeriesInstanceUID=SERIES)
        ds.ImagePositionPatient[2] += higher_mm
        store(ds, HU[k] + 1020)

    other_series(tmp_path, 7, late, range(1, N))
    first, second = find_series(tmp_path)
    assert (first.name, first.part) == (f"{SERIES}#1", f"{words} {values[0]}")
    assert (second.name, second.description) == (f"{SERIES}#2", f"Abdomen 3.0, {words} {values[1]}")
    np.testing.assert_array_equal(hu_of(tmp_path, f"{SERIES}#1"), HU)
    np.testing.assert_array_equal(hu_of(tmp_path, f"{SERIES}#2"), HU[1:] - 4)
    for series in (None, SERIES):
        assert "got " + ("2 of 2" if series is None else SERIES) in refusal_of(tmp_path, series)


def test_a_series_that_goes_on_with_another_kernel_is_one_ct(tmp_path):
    write_series(tmp_path, lambda ds, k: set_elements(ds, ConvolutionKernel="AABBB"[k]))
    np.testing.assert_array_equal(hu_of(tmp_path), HU)


@pytest.mark.parametrize(
    "other",
    [{"PatientID": "0815"}, {"PatientName": "Anon^2"}, {"StudyInstanceUID": "1.2.3.4"}],
    ids=["ID", "name", "study"],
)
@pytest.mark.parametrize("beside_mm", [0.0, 3.0 * N], ids=["in one place", "one above the other"])
def test_two_people_under_one_uid_are_two_cts(tmp_path, other, beside_mm):
    write_series(tmp_path, every(StudyInstanceUID="1.2.3.3"))

    def of_another(ds, k):
        set_elements(ds, StudyInstanceUID="1.2.3.3", SeriesInstanceUID=SERIES)
        set_elements(ds, ImagePositionPatient=[-31.0, 42.0, 7.5 + 3.0 * k + beside_mm], **other)
        store(ds, HU[k] + 1020)

    other_series(tmp_path, 7, of_another, range(N))
    said = refusal_of(tmp_path)
    assert "must hold exactly one CT series" in said
    assert "Abdomen 3.0, patient or study 1 of 2" in said
    assert "Abdomen 3.0, patient or study 2 of 2" in said
    np.testing.assert_array_equal(hu_of(tmp_path, f"{SERIES}#1"), HU)
    np.testing.assert_array_equal(hu_of(tmp_path, f"{SERIES}#2"), HU - 4)
    told = " ".join(f"{s} {s.doubt}" for s in find_series(tmp_path))
    assert "one series UID for several patients or studies" in told
    assert not any(word in told + said for word in ("Mustermann", "4711", "0815", "Anon", "1.2.3."))


def test_slices_whose_names_change_in_blocks_are_a_ct_that_tells_so(tmp_path):
    blocks = "AABBAA"  # file by file, in an order that is not that of the slices
    write_series(tmp_path, lambda ds, k: set_elements(ds, PatientID=blocks[k % len(blocks)]))
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    [series] = find_series(tmp_path)
    assert series.name == SERIES
    assert series.beside == ("the slices name 2 patients or studies, and lie as those of one CT",)


def test_people_who_continue_one_another_are_one_ct_only_if_the_user_says_so(tmp_path):
    write_series(tmp_path, lambda ds, k: set_elements(ds, PatientID="AAABB"[k]))
    assert "got 3 of 3: Abdomen 3.0, patient or study 1 of 2" in refusal_of(tmp_path)
    np.testing.assert_array_equal(hu_of(tmp_path, f"{SERIES}#2"), HU[3:])
    assert load_ct(tmp_path, series=f"{SERIES}#2").notes == ()
    np.testing.assert_array_equal(hu_of(tmp_path, SERIES), HU)
    assert load_ct(tmp_path, series=SERIES).notes == (
        "the slices name 2 patients or studies, and lie as those of one CT",
    )


@pytest.mark.parametrize("k", [0, 2, N - 1])
def test_a_slice_that_names_another_patient_is_never_left_out(tmp_path, k):
    write_series(tmp_path, only(k, PatientID="4712"))
    assert re.search("patients? or stud", refusal_of(tmp_path))


def test_a_slice_that_does_not_name_its_patient_is_one_of_them(tmp_path):
    write_series(tmp_path, only(2, PatientID="", PatientName=None))
    np.testing.assert_array_equal(hu_of(tmp_path), HU)


def test_slices_of_which_each_names_a_study_of_its_own_are_a_ct(tmp_path):
    write_series(tmp_path, lambda ds, k: set_elements(ds, StudyInstanceUID=f"1.2.3.{k}"))  # as SimpleITK writes them
    np.testing.assert_array_equal(hu_of(tmp_path), HU)


def _own_uids(ds, k, places=range(N)):
    """Give a slice a study, a series and a frame of reference of its own, as writers without a memory do."""
    for element in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(ds, element, f"1.2.3.{N - k}")
    ds.ImagePositionPatient = [-31.0, 42.0, 7.5 + 3.0 * places[k]]


def test_slices_of_which_each_names_a_series_of_its_own_are_a_ct_if_they_lie_as_one(tmp_path):
    other_series(write_series(tmp_path, _own_uids), 7, every(**REPORT))
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    own, report = load_ct(tmp_path).notes
    assert own == "every slice names a series of its own; they lie as those of one CT"
    assert report.startswith("passed over beside this series: Dose report")
    assert [series.name for series in find_series(tmp_path)] == ["1.2.3.1", f"{SERIES}.7"]


def test_slices_of_other_places_or_too_few_are_no_ct_if_each_names_a_series_of_its_own(tmp_path):
    write_series(tmp_path / "uneven", lambda ds, k: _own_uids(ds, k, [0, 1, 2, 4, 5]))
    write_series(tmp_path / "few", _own_uids, range(4))
    assert "got 5 of 5: " in refusal_of(tmp_path / "uneven")
    assert "got 4 of 4: " in refusal_of(tmp_path / "few")


def test_a_copy_changes_nothing_where_each_slice_names_a_series_of_its_own(tmp_path):
    write_series(tmp_path / "again", _own_uids, [2])
    np.testing.assert_array_equal(hu_of(write_series(tmp_path, _own_uids)), HU)


@pytest.mark.parametrize("multi_frame", [False, True])
def test_single_slices_beside_a_ct_of_several_are_no_second_ct(tmp_path, multi_frame):
    if multi_frame:
        enhanced(tmp_path / "ct.dcm")
    else:
        write_series(tmp_path)
    for k in range(N):
        other_series(tmp_path, 20 + k, slices=[k])
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    assert len(find_series(tmp_path)) == 1 + N


@pytest.mark.parametrize("gone", [0, N])
def test_a_slice_with_a_study_and_a_series_of_its_own_that_an_index_lists_is_missed(tmp_path, gone):
    """An end of six slices: the others are enough for a CT."""
    write_series(tmp_path / "files", _own_uids)
    last = a_slice(0)
    _own_uids(last, N, range(N + 1))
    set_elements(last, SOPInstanceUID=f"{SERIES}.{N + 1}")
    write(last, tmp_path / "files" / f"{N:03}.dcm")
    copy = disc(tmp_path / "copy", tmp_path / "files")
    np.testing.assert_array_equal(hu_of(copy), [*HU, HU[0]])
    [path] = [h.path for h in headers_in(copy) if h.value("SOPInstanceUID") == f"{SERIES}.{gone + 1}"]
    path.unlink()
    said = f"all files that a DICOMDIR lists for a series must be there, got none for {path}"
    assert refusal_of(copy) == said.replace(str(copy), "FOLDER")


@pytest.mark.parametrize(
    "names", [["A", "B", "", "D", "E", "F"], ["A", "A", "C", "D", "E", "F"]], ids=["one has none", "two share one"]
)
def test_slices_of_which_nearly_each_has_a_name_of_its_own_are_a_ct(tmp_path, names):
    write_series(tmp_path, lambda ds, k: set_elements(ds, PatientID=names[k % len(names)]))
    np.testing.assert_array_equal(hu_of(tmp_path), HU)


def test_a_patients_name_written_in_two_ways_is_one(tmp_path):
    write_series(tmp_path, only(2, PatientName="MUSTERMANN^ERIKA^^ "))
    np.testing.assert_array_equal(hu_of(tmp_path), HU)


def test_images_of_one_place_followed_in_time_are_no_volume(tmp_path):
    write_series(tmp_path / "a")
    for k in range(4):  # a contrast bolus watched at one place
        other_series(tmp_path / "b", 7, every(ImagePositionPatient=[-31, 42, 9], AcquisitionNumber=k), [k])
    np.testing.assert_array_equal(hu_of(tmp_path), HU)
    assert "every place must have one slice" in find_series(tmp_path)[1].against


def test_copies_of_a_whole_series_count_once(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "b")
    np.testing.assert_array_equal(hu_of(tmp_path), HU)


def test_nothing_of_the_patient_is_said(tmp_path, capfd):
    other_series(write_series(tmp_path), 7, every(**REPORT))
    other_series(tmp_path, 8, only(0, SeriesInstanceUID=""))
    ds = a_slice(3)
    ds.SeriesInstanceUID = f"{SERIES}.9"
    write(ds, tmp_path / "9.dcm")
    told = [str(s) + s.description + (s.against or "") for s in find_series(tmp_path)] + [refusal_of(tmp_path)]
    assert not any(word in text for text in told for word in ("Mustermann", "4711", "20200229"))
    assert capfd.readouterr() == ("", "")
