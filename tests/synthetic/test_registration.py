"""Registration: equal people do not move, and size, pose and what one of them lacks are no differences of shape."""

import numpy as np
import pytest
from ellipsoids import QUICK, SHAPE, SPACING, dice, person

from flare_lib.synthetic.deformation import deform
from flare_lib.synthetic.morphing import morph
from flare_lib.synthetic.registration import correspondence
from flare_lib.synthetic.structures import Structures


@pytest.mark.parametrize("size", [1.0, 1.1])
def test_two_equal_people_correspond_where_they_are_however_a_processor_rounds(size):
    here = person()  # many points of the grid lie between two of its voxels
    same = Structures(here.array_zyx, here.names, tuple(size * mm for mm in SPACING))
    there = correspondence(here, same, **QUICK)
    assert np.abs(there.shift_mm).max() < 0.001
    assert set(there.overlap) == {"liver", "spleen", "kidney_right", "kidney_left", "stomach", "vertebrae", "aorta"}
    assert min(there.overlap.values()) > 0.9999


def test_size_and_pose_are_no_difference_of_shape():
    here = person()
    rng = np.random.default_rng(4)
    turned = deform(
        here, SHAPE, SPACING, rng, max_rotation_rad=0.15, scale_range=(0.85, 0.85), anisotropy=0.0, displacements_mm=()
    )
    assert dice(here, turned, "kidney_left") < 0.7
    there = correspondence(here, turned, **QUICK)
    assert np.abs(there.shift_mm).mean() < 2
    assert dice(morph(here, there, 1.0), here, "kidney_left") > 0.75


def test_what_one_of_them_lacks_or_has_not_been_scanned_pulls_at_nothing():
    here = person()
    short = Structures(here.array_zyx[:27].copy(), here.names, SPACING)  # the aorta goes on beyond
    there = correspondence(here, short, **QUICK)
    assert np.abs(there.shift_mm).mean() < 1.2 and there.overlap["aorta"] > 0.95
    no_spleen = Structures(np.where(here.mask("spleen"), 0, here.array_zyx).astype(np.uint8), here.names, SPACING)
    assert "spleen" not in correspondence(here, no_spleen, **QUICK).overlap


def test_who_cannot_be_registered_is_refused_with_what_must_hold():
    here = person()
    lonely = Structures((here.array_zyx == 1).astype(np.uint8), {0: "air", 1: "liver"}, SPACING)
    with pytest.raises(ValueError, match=r"at least four whole structures in common, got \['liver'\]"):
        correspondence(here, lonely)
    bones = Structures(here.array_zyx, {i: f"rib_left_{i}" if i else "air" for i in here.names}, SPACING)
    with pytest.raises(ValueError, match="at least one of the 13 organs, got none"):
        correspondence(bones, bones)
