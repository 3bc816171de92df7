"""Many CTs with their label maps: pairs, problems, and one table."""

import csv

import numpy as np
import pytest

from flare_lib.ct.files import save_ct, save_label_map
from flare_lib.ct.volume import Volume
from flare_lib.data.listing import list_cts
from flare_lib.evaluation.cohort_measurements import measure_cases, with_labels, write_cohort_measurements

SHAPE, SPACING = (10, 12, 14), (2.5, 1.5, 0.8)


def write_case(folder, name, n_liver, labels=None, spacing=SPACING):
    """Write a CT of soft tissue in air with `n_liver` voxels of liver, away from the border."""
    for part in ("cts", "labels"):
        (folder / part).mkdir(exist_ok=True)
    hu = np.full(SHAPE, -1000, np.int16)
    hu[2:8, 2:10, 2:12] = 60
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[4, 4, 3 : 3 + n_liver] = 1
    save_ct(folder / "cts" / f"{name}_0000.nii.gz", Volume.from_array(hu, SPACING))
    if labels is not False:
        save_label_map(folder / "labels" / f"{name}.nii.gz", label_map, Volume.from_array(label_map, spacing))


@pytest.fixture
def folder(tmp_path):
    write_case(tmp_path, "anna", 4)
    write_case(tmp_path, "bert", 7)
    write_case(tmp_path, "carl", 1, labels=False)
    write_case(tmp_path, "dora", 2, spacing=(2.5, 1.5, 0.9))
    return tmp_path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "n_workers", [0, pytest.param(2, marks=pytest.mark.slow("two processes that load the library"))]
)
def test_cases_are_measured_in_order_and_those_that_cannot_be_have_a_reason(folder, tmp_path, two_processes, n_workers):
    cases = with_labels(list_cts([folder / "cts"]), folder / "labels")
    measured = measure_cases(cases, pool=two_processes if n_workers else None)
    assert [case.name for case in measured] == ["anna", "bert", "carl", "dora"]
    assert [len(case.measured) for case in measured] == [1, 1, 0, 0]
    assert measured[1].measured[0].volume_ml == pytest.approx(7 * 2.5 * 1.5 * 0.8 / 1000)
    assert "named like its CT, got none" in measured[2].problem
    assert "must lie on the CT's grid" in measured[3].problem
    write_cohort_measurements(tmp_path / "organs.csv", measured)
    table = rows(tmp_path / "organs.csv")
    assert [(row["case"], row["organ"], row["mean_hu"]) for row in table] == [
        ("anna", "liver", "60.00"),
        ("bert", "liver", "60.00"),
    ]


def test_a_folder_without_a_label_map_for_any_case_is_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"named like the CTs \(anna\.nii\.gz\), got none"):
        with_labels(list_cts([folder / "cts"]), tmp_path / "empty")
    assert with_labels([], tmp_path / "empty") == []


def test_the_command_measures_a_folder_and_names_what_failed(flare, folder, tmp_path):
    code, out, err = flare("measure", folder / "cts", folder / "labels", "-o", tmp_path / "organs.csv")
    assert (code, out[-1]) == (2, f"2 of 4 cases measured; wrote {tmp_path / 'organs.csv'}")
    assert [line.split(":")[1].strip() for line in err if line.startswith("error")] == ["carl", "dora"]
    assert len(rows(tmp_path / "organs.csv")) == 2
    code, _, err = flare("measure", folder / "cts", folder / "labels")
    assert (code, "-o must name a .csv file" in err[0]) == (2, True)
    one = folder / "cts" / "anna_0000.nii.gz", folder / "labels" / "anna.nii.gz"
    code, _, err = flare("measure", *one, "--workers", "2")
    assert (code, "are for a folder of label maps" in err[0]) == (2, True)
