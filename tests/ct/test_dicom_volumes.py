"""Which volume a slice belongs to: told by elements where slices clash, and by the names of people."""

import numpy as np
import pytest
from dicoms import N, every, headers_in, other_series, set_elements, write_series

from flare_lib.ct.dicom_volumes import by_person, by_volume


def test_slices_are_split_by_the_surest_element_but_only_where_they_share_places(tmp_path):
    write_series(tmp_path, every(AcquisitionNumber=7, ConvolutionKernel="B70f", KVP=140))
    other_series(tmp_path, 7, every(AcquisitionNumber=7, ConvolutionKernel="B30f", KVP=80), range(1, N))
    slices = headers_in(tmp_path)
    assert by_volume(slices, tmp_path) == {"kernel B30f": slices[N:], "kernel B70f": slices[:N]}
    assert by_volume(slices[:N], tmp_path) == {"": slices[:N]}


def test_slices_that_share_places_and_differ_in_nothing_are_not_split(tmp_path):
    other_series(write_series(tmp_path), 7, slices=range(N))
    slices = headers_in(tmp_path)
    assert by_volume(slices, tmp_path) == {"": slices}


@pytest.mark.parametrize(("names", "groups"), [("AABBB", [[0, 1], [2, 3, 4]]), ("A" * N, [[*range(N)]])])
@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID"])
def test_slices_are_split_by_the_people_that_they_name(tmp_path, keyword, names, groups):
    write_series(tmp_path, lambda ds, k: set_elements(ds, **{keyword: f"1.2.{ord(names[k])}"}))
    slices = np.array(headers_in(tmp_path))
    assert by_person([*slices]) == [[*slices[group]] for group in groups]
