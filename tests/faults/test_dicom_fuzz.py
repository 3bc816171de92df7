"""DICOM slices damaged at random: refused in one line, or read with every slice in its place."""

import damaged_dicom  # of benchmarks/
import numpy as np

from flare_lib.ct.files import load_ct


def test_damaged_slices_are_refused_in_one_line_or_read_whole(tmp_path):
    sound = damaged_dicom.sound_slices()
    refused = 0
    for i in range(80):
        rng = np.random.default_rng([0, i])
        data = damaged_dicom.damage_slice(rng, sound[i % len(sound)])
        folder = damaged_dicom.put_series(tmp_path, data)
        try:
            volume = load_ct(folder)
        except ValueError as error:
            assert "\n" not in str(error)
            volume, refused = None, refused + 1
        assert damaged_dicom.as_pydicom_reads(data, volume) is None, i
    assert 30 < refused < 80


def test_sound_slices_are_read_as_they_are(tmp_path):
    for data in damaged_dicom.sound_slices():
        volume = load_ct(damaged_dicom.put_series(tmp_path, data))
        assert damaged_dicom.as_pydicom_reads(data, volume) is None
        assert volume.spacing_zyx_mm == (24.0, 9.0, 8.5)
