"""Thin scans: how low their patches are, and who decides that they are thin."""

from types import SimpleNamespace

import numpy as np
import pytest

from flare_lib.ct.volume import Volume, extent_mm
from flare_lib.inference.stages import ResizablePredictor
from flare_lib.inference.thin_scans import is_thin, lowered, lowered_if_thin

FIXED = SimpleNamespace(patch_size=(40, 20, 22))  # a stage with one patch, of an extent that it does not know


class Resizable(ResizablePredictor):
    """A stage whose patch can change, with strides of (8, 4, 2)."""

    size_multiple = (8, 4, 2)

    def __init__(self, spacing_zyx_mm, patch_size):
        self.spacing_zyx_mm, self.patch_size = spacing_zyx_mm, patch_size

    @property
    def patch_mm(self):
        return extent_mm(self.patch_size, self.spacing_zyx_mm)


def body_of(n_slices):
    return Volume.from_array(np.zeros((n_slices, 9, 12), np.int16), (7.0, 2.0, 1.9))


@pytest.mark.parametrize(
    ("n_slices", "height", "thin"),
    [(1, 8, True), (4, 8, True), (5, 16, True), (6, 16, False), (15, 32, False), (40, 40, False)],  # of 7 mm
)
def test_a_thin_body_is_shown_in_a_patch_as_low_as_it_can_be(n_slices, height, thin):
    stage, body = Resizable((4.0, 3.5, 3.2), (40, 20, 22)), body_of(n_slices)  # of 160 mm: a quarter is 40
    assert lowered(stage, body).patch_size == (height, 20, 22)
    assert is_thin(body, stage) == thin
    assert stage.patch_size == (40, 20, 22)
    assert (is_thin(body, FIXED), lowered(FIXED, body)) == (False, FIXED)


@pytest.mark.parametrize(("n_slices", "heights"), [(5, (8, 16)), (6, (16, 40))])
def test_the_last_stage_decides_for_all_whether_a_body_is_thin(n_slices, heights):
    coarse, fine = Resizable((6.0, 7.0, 5.0), (16, 20, 22)), Resizable((4.0, 3.5, 3.2), (40, 20, 22))
    assert not is_thin(body_of(5), coarse)
    shown = lowered_if_thin(body_of(n_slices), coarse, fine)
    assert tuple(stage.patch_size[0] for stage in shown) == heights
    assert tuple(lowered_if_thin(body_of(n_slices), coarse, FIXED)) == (coarse, FIXED)
