"""Centres: one with labels, all unlabelled and in the test, each with a look of its own."""

import numpy as np
import pytest

from flare_lib.ct.files import load_ct, load_label_map
from flare_lib.data import centres
from flare_lib.data.centres import CENTRES, Centre, write_centres, write_phantoms
from flare_lib.data.cohort import check_cases

pytestmark = pytest.mark.usefixtures("quick_phantoms")


@pytest.fixture(scope="module")
def quick():
    """Centres with the names of the real ones and coarse voxels."""
    small = tuple(
        Centre(c.name, c.phases, c.noise_hu, c.lesion_probability, (9.9, 9.0, 8.0), c.field_of_view) for c in CENTRES
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(centres, "CENTRES", small)
        yield


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, quick, quick_phantoms):
    return write_centres(tmp_path_factory.mktemp("cohort"), 2, 5, 6)


def test_a_cohort_has_labels_of_the_first_centre_alone_and_patients_of_all(cohort):
    with_labels = [case for case in cohort.training if case.label_path]
    assert [case.name.rpartition("_")[0] for case in with_labels] == ["portal", "portal"]
    assert cohort.training[:2] == with_labels
    names = {c.name for c in CENTRES}
    assert {case.name.rpartition("_")[0] for case in cohort.training[2:]} == names
    assert {case.name.rpartition("_")[0] for case in cohort.test} == names
    assert all(case.label_path for case in cohort.test)
    everyone = [case.name.rpartition("_")[2] for case in (*cohort.training, *cohort.test)]
    assert len(everyone) == len(set(everyone)) == 13
    assert check_cases(cohort.test) == {}


def test_what_is_there_is_not_made_again(tmp_path, quick):
    first = write_centres(tmp_path, 1, 1, 1)
    before = [case.ct_path.stat().st_mtime_ns for case in (*first.training, *first.test)]
    again = write_centres(tmp_path, 1, 1, 1)
    assert first == again
    assert before == [case.ct_path.stat().st_mtime_ns for case in (*again.training, *again.test)]


def test_a_case_is_scanned_as_its_centre_scans(cohort):
    heights_mm, aortas = {}, {}
    for case in cohort.test:
        ct, labels = load_ct(case.ct_path), load_label_map(case.label_path)
        centre = case.name.rpartition("_")[0]
        assert ct.spacing_zyx_mm == pytest.approx((9.9, 9, 8), rel=1e-3)
        heights_mm[centre] = ct.shape_zyx[0] * ct.spacing_zyx_mm[0]
        aortas[centre] = np.median(ct.array_zyx[labels.array_zyx == 5])
    assert heights_mm["portal"] < heights_mm["unenhanced-half-body"] < heights_mm["whole-body"]
    assert aortas["unenhanced-half-body"] < 80 < aortas["arterial"]


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_a_cohort_without_a_labelled_or_a_test_case_is_refused(tmp_path, numbers):
    with pytest.raises(ValueError, match="at least one labelled and one test case"):
        write_centres(tmp_path, *numbers)
    assert list(tmp_path.iterdir()) == []


def test_phantoms_are_a_sound_cohort(tmp_path):
    written = write_phantoms(tmp_path, 1, 1, seed=5, spacing_zyx_mm=(9.0, 8.0, 7.0))
    assert [(case.name, case.label_path is None) for case in written] == [
        ("phantom_0005", False),
        ("phantom_0006", True),
    ]
    assert check_cases(written) == {}
    assert set(np.unique(load_label_map(written[0].label_path).array_zyx)) >= {1, 2, 3, 5, 11, 13}
