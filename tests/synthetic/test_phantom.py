"""The phantom: thirteen plausible organs in their places, the same person at any spacing."""

import math
from functools import cache

import cc3d
import numpy as np
import pytest

from flare_lib.ct.labels import ORGANS, left_right_problems
from flare_lib.ct.resample import resample_nearest
from flare_lib.evaluation.metrics import dice_scores
from flare_lib.synthetic import phantom
from flare_lib.synthetic.phantom import make_phantom, phantom_case
from flare_lib.synthetic.structures import organ_labels

# mL, wide enough for small and large adults
RANGES_ML = {
    "liver": (1000, 2600),
    "right kidney": (90, 260),
    "spleen": (90, 350),
    "pancreas": (35, 130),
    "aorta": (40, 130),
    "inferior vena cava": (50, 160),
    "right adrenal gland": (1, 8),
    "left adrenal gland": (1, 8),
    "gallbladder": (10, 70),
    "esophagus": (5, 30),
    "stomach": (120, 800),
    "duodenum": (35, 140),
    "left kidney": (90, 260),
}


person = cache(make_phantom)  # of the default spacing, made once: 2.5, 2, 2 mm


@pytest.fixture
def drawn_coarsely(monkeypatch):
    """For what has nothing to do with fine shapes: voxels of 8 mm in place of 2.5."""
    monkeypatch.setattr(phantom, "_DRAWING_MM", 8.0)


@pytest.mark.parametrize("seed", range(4))
def test_every_organ_is_there_in_one_piece_of_a_plausible_volume_on_its_side(seed):
    structures = person(seed)
    labels = organ_labels(structures)
    voxel_ml = np.prod(structures.spacing_zyx_mm) / 1000
    for organ in ORGANS:
        mask = labels == organ.id
        low, high = RANGES_ML[organ.name]
        assert low < mask.sum() * voxel_ml < high, organ.name
        assert cc3d.connected_components(mask, connectivity=26).max() == 1, organ.name
    assert left_right_problems(labels) == []


def test_a_slice_of_the_chest_cuts_many_ribs_each_of_them_short():
    structures = person(0)
    assert structures.spacing_zyx_mm == (2.5, 2.0, 2.0)
    ribs = structures.mask("rib")[-25]  # the level of the diaphragm
    pieces = cc3d.connected_components(ribs)
    areas_mm2 = np.bincount(pieces.ravel())[1:] * 4
    assert len(areas_mm2) >= 6
    assert np.median(areas_mm2) < 400


def test_the_trunk_is_wider_than_deep_as_people_are():
    for seed in range(4):
        structures = person(seed)
        assert structures.spacing_zyx_mm[1:] == (2.0, 2.0)
        body = ~structures.mask("air")
        depth, width = (np.flatnonzero(body.any(axis=axes)).size for axes in ((0, 2), (0, 1)))
        assert 1.1 < width / depth < 1.6


@pytest.mark.usefixtures("drawn_coarsely")
def test_the_same_seed_gives_the_same_person_and_another_one_another():
    one, same, other = (make_phantom(seed, spacing_zyx_mm=(6.0, 5.0, 4.5)).array_zyx for seed in (2, 2, 3))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.05


def test_a_person_is_the_same_at_another_spacing():
    fine = organ_labels(person(1))
    coarse = organ_labels(make_phantom(1, spacing_zyx_mm=(5.2, 4.4, 4.0)))
    large = [organ.id - 1 for organ in ORGANS if organ.name in ("liver", "spleen", "left kidney", "right kidney")]
    assert dice_scores(resample_nearest(coarse, fine.shape), fine)[large].min() > 0.85


@pytest.mark.usefixtures("drawn_coarsely")
def test_fields_of_view_show_more_and_more_of_a_person():
    heights = {}
    for field in ("abdomen", "half_body", "whole_body"):
        structures = make_phantom(0, spacing_zyx_mm=(8.0, 6.0, 6.0), field_of_view=field)
        heights[field] = structures.array_zyx.shape[0]
        assert structures.mask("liver").any()
        assert structures.mask("brain").any() == (field == "whole_body")
    assert heights["abdomen"] < heights["half_body"] < heights["whole_body"]
    with pytest.raises(ValueError, match="field_of_view must be one of abdomen, half_body, whole_body, got 'leg'"):
        make_phantom(0, field_of_view="leg")


@pytest.mark.usefixtures("drawn_coarsely")
def test_the_shape_asked_for_is_given_and_ct_and_labels_share_a_grid():
    ct, labels = phantom_case(0, shape_zyx=(20, 40, 50), spacing_zyx_mm=(8.0, 7.0, 6.0))
    assert ct.shape_zyx == labels.shape_zyx == (20, 40, 50)
    np.testing.assert_array_equal(ct.affine, labels.affine)
    liver = ct.array_zyx[labels.array_zyx == 1]
    assert -20 < np.median(liver) < 200
    assert ct.array_zyx[0, -1, 0] < -800


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"spacing_zyx_mm": (0.0, 1.0, 1.0)}, "spacing_zyx_mm must be 3 positive numbers, got"),
        ({"spacing_zyx_mm": (math.nan, 1.0, 1.0)}, "spacing_zyx_mm must be 3 positive numbers, got"),
        ({"shape_zyx": (0, 4, 5)}, r"shape_zyx must be 3 positive integers, got \(0, 4, 5\)"),
        ({"spacing_zyx_mm": (400.0, 2.0, 2.0)}, r"must be 0.01 to 100 mm along each axis .* got \(2, 2, 400\)"),
        ({"shape_zyx": (10**18, 4, 5)}, "a phantom must be 3000 mm long at most along each axis"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_anybody_is_drawn(asked, said):
    with pytest.raises(ValueError, match=said):
        make_phantom(0, **asked)
