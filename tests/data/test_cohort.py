"""Cohorts: every layout gives the same cases, every problem of every case is told, splits are drawn by the seed."""

import zipfile

import numpy as np
import pytest
from cohorts import SHAPE, SPACING, hu, organs, pair, write_ct, write_labels
from dicoms import HU, store, write_series, zipped

from flare_lib.ct.files import load_ct, save_label_map
from flare_lib.ct.labels import IGNORED
from flare_lib.ct.preprocess import Preprocessing
from flare_lib.ct.volume import Volume
from flare_lib.data.cohort import Case, check_case, check_cases, find_cases, load_labels, split_cases
from flare_lib.data.listing import list_cts
from flare_lib.data.prepared import prepare_cases
from flare_lib.synthetic.structures import ORGAN_STRUCTURES


def flare22(folder):
    write_ct(folder / "images" / "FLARE22_Tr_0001_0000.nii.gz")
    write_labels(folder / "labels" / "FLARE22_Tr_0001.nii.gz")
    return "FLARE22_Tr_0001"


def nnunet(folder):
    write_ct(folder / "imagesTr" / "liver_12_0000.nii.gz")
    write_labels(folder / "labelsTr" / "liver_12.nii.gz")
    return "liver_12"


def plain(folder):
    write_ct(folder / "images" / "a.nii")
    write_labels(folder / "labels" / "a.nii.gz")
    return "a"


def totalsegmentator(folder):
    write_ct(folder / "s0001" / "ct.nii.gz")
    for k in np.unique(organs())[1:]:
        mask = (organs() == k).astype(np.uint8)
        write_labels(folder / "s0001" / "segmentations" / f"{ORGAN_STRUCTURES[k - 1]}.nii.gz", mask)
    write_labels(folder / "s0001" / "segmentations" / "heart.nii.gz", np.ones(SHAPE, np.uint8))
    return "s0001"


@pytest.mark.parametrize("layout", [flare22, nnunet, plain, totalsegmentator])
def test_every_layout_gives_the_case_with_its_labels(tmp_path, layout):
    name = layout(tmp_path)
    (case,) = find_cases(tmp_path)
    assert case.name == name
    assert check_case(case) == []
    np.testing.assert_array_equal(load_ct(case.ct_path).array_zyx, hu())
    np.testing.assert_array_equal(load_labels(case).array_zyx, organs())


def test_cts_alone_are_unlabelled_cases_in_the_order_of_their_names(tmp_path):
    for name in ("Case_00002_0000.nii.gz", "Case_00001_0000.nii.gz"):
        write_ct(tmp_path / name)
    (tmp_path / "readme.txt").write_text("no CT")
    cases = find_cases(tmp_path)
    assert [(case.name, case.label_path) for case in cases] == [("Case_00001", None), ("Case_00002", None)]
    assert check_cases(cases) == {}
    with pytest.raises(ValueError, match="Case_00001 must have labels, got only a CT"):
        load_labels(cases[0])


def test_a_folder_without_cases_and_two_files_of_one_name_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold CTs"):
        find_cases(tmp_path)
    write_ct(tmp_path / "a.nii.gz")
    write_ct(tmp_path / "a_0000.nii")
    with pytest.raises(ValueError, match=r"one CT or label map in .*, got a.nii.gz and a_0000.nii"):
        find_cases(tmp_path)


def test_the_labels_name_the_only_case_of_two_channels(tmp_path):
    ct, other = (write_ct(tmp_path / "imagesTr" / f"case_000{k}.nii.gz") for k in range(2))
    labels = write_labels(tmp_path / "labelsTr" / "case.nii.gz")
    assert find_cases(tmp_path) == [Case("case", ct, labels), Case("case_0001", other)]


def test_a_stray_slice_does_not_make_many_cts_one_case(tmp_path):
    for name in ("a", "b", "c"):
        write_ct(tmp_path / f"{name}_0000.nii.gz")
    slices = write_series(tmp_path / "slices")
    next(slices.iterdir()).rename(tmp_path / "stray.dcm")
    with pytest.raises(ValueError, match=r"must hold a folder or \.zip of DICOM for each CT, got DICOM files side"):
        find_cases(tmp_path)


def as_dicom(folder):
    """A CT as slices in a folder, and the labels of their grid."""
    ct = load_ct(write_series(folder, lambda ds, k: store(ds, HU[k] // 8 + 1034)))
    labels = np.zeros(ct.shape_zyx, np.uint8)
    labels[1:4, 2:4, 4:6] = 1
    return ct, labels


def beside_labels(folder, layout):
    ct, labels = as_dicom(folder / layout[0] / "p1_0000")
    (folder / layout[1]).mkdir()
    save_label_map(folder / layout[1] / "p1.nii.gz", labels, ct)
    return "p1", labels


def beside_masks(folder, _):
    ct, labels = as_dicom(folder / "p1" / "study" / "series")
    (folder / "p1" / "segmentations").mkdir()
    save_label_map(folder / "p1" / "segmentations" / "liver.nii.gz", labels, ct)
    totalsegmentator(folder)
    return "p1", labels


@pytest.mark.parametrize(
    ("layout", "folders"),
    [(beside_labels, ("images", "labels")), (beside_labels, ("imagesTr", "labelsTr")), (beside_masks, None)],
)
def test_a_ct_of_a_cohort_may_be_a_folder_of_dicom_slices(tmp_path, layout, folders):
    name, labels = layout(tmp_path, folders)
    [case] = [case for case in find_cases(tmp_path) if case.name == name]
    np.testing.assert_array_equal(load_labels(case).array_zyx, labels)
    assert check_case(case) == [] or "liver's median" in check_case(case)[0]
    (prepared,) = prepare_cases([case], tmp_path / "cache", Preprocessing(load_ct(case.ct_path).spacing_zyx_mm))
    assert (prepared.labels == 1).sum() == labels.sum()


def test_archives_and_folders_of_dicom_without_labels_are_cases_too(tmp_path):
    write_series(tmp_path / "cts" / "b" / "deep" / "deeper")
    zipped(write_series(tmp_path / "c"), tmp_path / "cts" / "c_0000.zip")
    write_ct(tmp_path / "cts" / "a.nii.gz")
    with zipfile.ZipFile(tmp_path / "cts" / "download.zip", "w") as other:
        other.writestr("FLARE22Train/images/x.nii.gz", b"whatever it was unpacked from")
    (tmp_path / "cts" / "d.zip").write_bytes(b"half downloaded")
    (tmp_path / "cts" / "notes").mkdir()
    (tmp_path / "cts" / "notes" / "README").write_text("none")
    cases = find_cases(tmp_path / "cts")
    assert [case.name for case in cases] == ["a", "b", "c", "d"]
    assert [list(check_cases([case])) for case in cases[:3]] == [[], [], []]
    assert "must be a complete .zip archive" in check_case(cases[3])[0]
    (alone,) = find_cases(tmp_path / "c")
    assert (alone.name, alone.ct_path) == ("c", tmp_path / "c")


def test_slices_where_each_ct_must_have_a_folder_are_refused(tmp_path):
    write_series(tmp_path / "images")
    with pytest.raises(
        ValueError, match=r"images must hold a folder or \.zip of DICOM for each CT, got DICOM files side"
    ):
        find_cases(tmp_path)


def test_a_patient_with_two_cts_is_refused_and_what_lies_beside_one_is_no_ct(tmp_path):
    totalsegmentator(tmp_path)
    patient = next(path.parent for path in tmp_path.rglob("ct.nii.gz"))
    (patient / "ct.nii.gz.part").write_bytes(b"half")
    [case] = [case for case in find_cases(tmp_path) if case.name == patient.name]
    assert case.ct_path == patient / "ct.nii.gz"
    write_ct(patient / "ct.nii")
    for listed in (lambda: find_cases(tmp_path), lambda: list_cts([tmp_path])):
        with pytest.raises(ValueError, match=r"must have one CT, got both ct\.nii\.gz and ct\.nii in "):
            listed()


def test_a_ct_whose_link_leads_nowhere_is_still_the_patients_ct(tmp_path):
    totalsegmentator(tmp_path)
    ct = next(tmp_path.rglob("ct.nii.gz"))
    ct.unlink()
    try:
        ct.symlink_to(tmp_path / "not fetched yet.nii.gz")
    except OSError:
        pytest.skip("no links on this computer")
    assert ct in [case.ct_path for case in find_cases(tmp_path)]


def labels_above_13(folder):
    labels = organs()
    labels[0, 0, :2] = 14, 40
    pair(folder, labels=labels)


def no_labels_at_all(folder):
    pair(folder, labels=np.zeros(SHAPE, np.uint8))


def another_shape(folder):
    pair(folder, labels=np.pad(organs(), [(0, 0), (0, 0), (0, 2)]))


def another_place(folder):
    pair(folder)
    affine = np.diag([*SPACING[::-1], 1.0])
    affine[2, 3] = 8.0
    save_label_map(folder / "labels" / "a.nii.gz", organs(), Volume(organs(), SPACING, affine))


def mirrored(folder):
    pair(folder, labels=organs()[:, :, ::-1].copy())


def no_ct(folder):
    pair(folder, "b")
    write_labels(folder / "labels" / "a.nii.gz")


def truncated_ct(folder):
    pair(folder)
    path = folder / "images" / "a_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:200])


def thick_slices(folder):
    write_ct(folder / "images" / "a_0000.nii.gz", spacing=(20.0, 2.0, 1.5))
    write_labels(folder / "labels" / "a.nii.gz", spacing=(20.0, 2.0, 1.5))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (labels_above_13, ["labels must be 0 to 13, or 255 where nothing is to be learnt, got 14, 40"]),
        (no_labels_at_all, ["the label map must hold an organ, got only background"]),
        (another_shape, ["grid, got (9, 14, 22) voxels (z, y, x), not (9, 14, 20)"]),
        (another_place, ["labels must lie on the CT's grid, got a corner 8.0 mm away"]),
        (mirrored, ["the liver must lie to the patient's right of the spleen", "the right kidney must lie"]),
        (no_ct, ["an image must exist to be loaded"]),
        (truncated_ct, ["must be a complete NIfTI file"]),
        (thick_slices, ["the spacing must lie between 0.2 and 10 mm, got 20, 2, 1.5"]),
    ],
)
def test_what_is_wrong_with_a_case_is_told(tmp_path, make, told):
    make(tmp_path)
    problems = check_cases(find_cases(tmp_path))
    assert list(problems) == ["a"]
    assert len(problems["a"]) == len(told)
    for problem, part in zip(problems["a"], told, strict=True):
        assert part in problem


def test_ignored_voxels_are_no_problem_but_no_organ_either(tmp_path):
    pair(tmp_path, "partly", labels=np.where(organs() == 13, IGNORED, organs()).astype(np.uint8))
    pair(tmp_path, "wholly", labels=np.full(SHAPE, IGNORED, np.uint8))
    assert check_cases(find_cases(tmp_path)) == {"wholly": ["the label map must hold an organ, got only background"]}


def test_every_problem_of_every_case_is_told(tmp_path):
    labels = np.pad(organs()[:, :, ::-1], [(0, 0), (0, 0), (0, 2)])
    labels[0, 0, 0] = 15
    pair(tmp_path, "two", labels=labels)
    pair(tmp_path, "sound")
    pair(tmp_path, "empty", labels=np.zeros(SHAPE, np.uint8))
    seen = []
    problems = check_cases(find_cases(tmp_path), lambda done, total: seen.append((done, total)))
    assert {name: len(found) for name, found in problems.items()} == {"empty": 1, "two": 4}
    assert seen == [(1, 3), (2, 3), (3, 3)]


def cases(n_labelled, n_unlabelled=2):
    labelled = [Case(f"c{k:02}", None, "labels") for k in range(n_labelled)]
    return [*labelled, *(Case(f"u{k}", None) for k in range(n_unlabelled))]


def test_a_split_is_drawn_by_the_seed_and_holds_every_labelled_case_once():
    training, validation = split_cases(cases(50), 10, seed=3)
    assert (len(training), len(validation)) == (40, 10)
    assert sorted(c.name for c in (*training, *validation)) == [f"c{k:02}" for k in range(50)]
    assert split_cases(cases(50)[::-1], 10, seed=3)[1] == validation
    assert split_cases(cases(50), 10, seed=4)[1] != validation


@pytest.mark.parametrize("n_validation", [-1, 3, 7])
def test_a_split_leaves_a_case_to_train_on(n_validation):
    with pytest.raises(ValueError, match=f"at least one of 3 labelled cases to train on, got {n_validation}"):
        split_cases(cases(3), n_validation)
