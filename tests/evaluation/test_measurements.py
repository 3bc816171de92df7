"""Measurements: boxes of known size and grey value."""

from dataclasses import replace

import numpy as np
import pytest

from flare_lib.ct.labels import organ
from flare_lib.ct.volume import Volume
from flare_lib.evaluation.measurements import (
    measure_organs,
    measurement_table,
    volume_table,
    write_measurements,
)

SPACING = (2.5, 1.5, 0.8)
LIVER, SPLEEN = organ("liver").id, organ("spleen").id


@pytest.fixture
def patient():
    """A liver of 4 x 3 x 5 voxels, half 50 and half 70 HU, in the middle; a spleen in two pieces, cut off above."""
    hu, labels = np.full((10, 9, 14), -1000, np.int16), np.zeros((10, 9, 14), np.uint8)
    labels[3:7, 2:5, 4:9] = LIVER
    hu[3:5, 2:5, 4:9], hu[5:7, 2:5, 4:9] = 50, 70
    labels[8:10, 6:8, 1:3] = labels[8, 0, 13] = SPLEEN
    hu[labels == SPLEEN] = 110
    return Volume.from_array(hu, SPACING), labels


def test_volume_extent_and_density_are_those_of_the_box(patient):
    liver, spleen = measure_organs(*patient)
    assert liver.organ.name == "liver"
    assert liver.volume_ml == pytest.approx(60 * 2.5 * 1.5 * 0.8 / 1000)
    assert liver.extent_zyx_mm == pytest.approx((10, 4.5, 4))
    assert (liver.mean_hu, liver.sd_hu) == (60, 10)
    assert (liver.pieces, liver.cut_off) == (1, False)
    assert spleen.volume_ml == pytest.approx(9 * 0.003)
    assert (spleen.mean_hu, spleen.sd_hu, spleen.pieces, spleen.cut_off) == (110, 0, 2, True)


def test_pieces_may_touch_at_a_corner_and_the_first_slice_cuts_off_like_the_last():
    labels = np.zeros((6, 5, 4), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = LIVER
    labels[1, 3, 2] = labels[4, 1, 1] = SPLEEN
    liver, spleen = measure_organs(Volume.from_array(labels.astype(np.int16), SPACING), labels)
    assert (liver.pieces, liver.cut_off) == (1, True)
    assert (spleen.pieces, spleen.cut_off) == (2, False)


def test_the_table_names_what_to_doubt(patient):
    header, liver, spleen, absent = measurement_table(measure_organs(*patient)).splitlines()
    assert header.split() == ["organ", "mL", "z,", "y,", "x", "mm", "HU"]
    assert len(header) == liver.index(" ± ") + len(" ± 10  ")  # the columns stand below their names
    assert liver.split() == ["liver", "0.2", "10", "x", "4", "x", "4", "60", "±", "10"]
    assert spleen.split()[1:3] == [">=", "0.0"]
    assert spleen.endswith("at least: cut by the border, 2 pieces")
    assert absent.startswith("not found: right kidney, pancreas, aorta")
    assert absent.count(",") == 10


def test_a_liver_in_fat_or_air_is_doubted(patient):
    liver, _ = measure_organs(*patient)
    for hu, doubted in ((-83, True), (-30, False), (200, False), (210, True)):
        line = measurement_table([replace(liver, mean_hu=hu)]).splitlines()[1]
        assert line.endswith("  no liver's HU: labels of another CT?") == doubted


def test_the_table_of_volumes_says_of_every_organ_what_to_doubt(patient):
    rows = volume_table(*patient).splitlines()
    assert rows[0].split() == ["organ", "mL"]
    assert rows[LIVER].split() == ["liver", "0.2"]
    assert rows[2].split() == ["right", "kidney", "-", "not", "found"]
    assert rows[SPLEEN] == "spleen                  >= 0.0  at least: cut by the border"
    assert len(rows) == 14


def test_the_table_of_volumes_has_dice_scores_of_the_organs_in_the_reference(patient):
    ct, labels = patient
    reference = np.where(labels == SPLEEN, 0, labels)
    reference[3] = 0  # a quarter of the liver: 2 * 45 / (60 + 45)
    header, *rows, mean = volume_table(ct, labels, reference).splitlines()
    assert header.endswith("Dice with reference")
    assert rows[LIVER - 1].split() == ["liver", "0.2", "0.857"]
    assert rows[SPLEEN - 1].endswith("at least: cut by the border             not in it")
    assert mean.split() == ["mean", "of", "the", "1", "organs", "in", "it", "0.857"]
    assert len({len(row) for row in (header, *rows, mean)}) == 1


def test_what_is_written_is_what_was_measured(patient, tmp_path):
    write_measurements(tmp_path / "organs.csv", measure_organs(*patient))
    assert (tmp_path / "organs.csv").read_text(encoding="utf-8").splitlines() == [
        "organ,volume_ml,extent_z_mm,extent_y_mm,extent_x_mm,mean_hu,sd_hu,pieces,cut_off",
        "liver,0.18,10.00,4.50,4.00,60.00,10.00,1,no",
        "spleen,0.03,5.00,12.00,10.40,110.00,0.00,2,yes",
    ]


def test_a_mean_just_below_0_is_written_as_0(patient, tmp_path):
    (liver, *_) = measure_organs(*patient)
    near_0 = replace(liver, mean_hu=-0.004)
    assert measurement_table([near_0]).splitlines()[1].split()[7] == "0"
    write_measurements(tmp_path / "organs.csv", [near_0])
    assert (tmp_path / "organs.csv").read_text(encoding="utf-8").splitlines()[1].split(",")[5] == "0.00"


def test_an_empty_label_map_has_nothing_to_measure_and_a_wrong_one_is_refused(patient):
    ct, labels = patient
    assert measure_organs(ct, np.zeros_like(labels)) == []
    for measure in (measure_organs, volume_table):
        with pytest.raises(ValueError, match=r"the CT's shape \(10, 9, 14\), got \(9, 9, 14\)"):
            measure(ct, labels[1:])
        with pytest.raises(TypeError, match="must hold integers, got float32"):
            measure(ct, labels.astype(np.float32))
