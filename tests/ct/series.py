"""What the tests of several series share: files that are no slices, and what loading gives or says."""

import pytest
from pydicom import uid

from flare_lib.ct.files import load_ct
from flare_lib.ct.volume import to_file_axes

SCOUT = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
SAGITTAL = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
REPORT = {"Modality": "SR", "SOPClassUID": uid.XRayRadiationDoseSRStorage, "SeriesDescription": "Dose report"}
CAPTURE = {"SOPClassUID": uid.SecondaryCaptureImageStorage, "ImagePositionPatient": None}
CONTOURS = {"Modality": "RTSTRUCT", "SOPClassUID": uid.RTStructureSetStorage}


def hu_of(folder, series=None):
    volume = load_ct(folder, series=series)
    return to_file_axes(volume.array_zyx, volume.grid).T


def refusal_of(folder, series=None):
    with pytest.raises(ValueError) as refusal:
        load_ct(folder, series=series)
    assert "\n" not in str(refusal.value)
    return str(refusal.value).replace(str(folder), "FOLDER")
