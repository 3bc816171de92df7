"""Folders that a run learns from: persons to paint, a CT that nets have labelled, a cohort."""

import json

import numpy as np
import pytest

from flare_lib.ct.files import save_ct, save_label_map
from flare_lib.ct.labels import IGNORED
from flare_lib.ct.volume import Volume
from flare_lib.data.centres import write_phantoms


@pytest.fixture
def label_maps(tmp_path):
    array = np.zeros((14, 20, 24), np.uint8)
    array[3:11, 5:15, 12:20] = 1
    volume = Volume.from_array(array, (8.0, 8.0, 8.0))
    save_label_map(tmp_path / "s1_totalseg117.nii.gz", array, volume)
    (tmp_path / "names.json").write_text(json.dumps({"1": "liver"}))
    return tmp_path


@pytest.fixture
def persons(label_maps):
    """Two persons, and a CT with labels that nets were partly unsure of."""
    array = np.zeros((14, 20, 24), np.uint8)
    array[2:10, 4:13, 11:19] = 1
    save_label_map(label_maps / "s2_totalseg117.nii.gz", array, Volume.from_array(array, (8.0, 8.0, 8.0)))
    hu = np.where(array, 60, -1000).astype(np.int16)
    hu[:, 2:18, 3:22] += 10
    array[6:12, 4:16, 11:15] = IGNORED
    for folder, save, values in (("images", save_ct, hu), ("labels", save_label_map, array)):
        (label_maps / "real" / folder).mkdir(parents=True)
        ct = Volume.from_array(values, (8.0, 8.0, 8.0))
        save(label_maps / "real" / folder / "a.nii.gz", *((ct,) if save is save_ct else (values, ct)))
    return label_maps


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, quick_phantoms):
    """Three labelled phantoms and two without labels."""
    folder = tmp_path_factory.mktemp("cohort")
    write_phantoms(folder, 3, 2, spacing_zyx_mm=(12.0, 11.0, 10.0))
    return folder
