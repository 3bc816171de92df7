"""Pseudo-labels: probabilities are averaged, what is unsure or untenable is ignored, nothing else is."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flare_lib.ct.labels import IGNORED
from flare_lib.ct.resample import resample_trilinear
from flare_lib.ct.volume import Volume
from flare_lib.inference.coarse_to_fine import Run
from flare_lib.inference.plausibility import MAX_SCALE
from flare_lib.inference.pseudo_labels import _mean_probabilities, pseudo_labels
from flare_lib.inference.sliding_window import SLAB_SLICES
from flare_lib.network.complexity import LiveBytes

SHAPE, SPACING = (6, 9, 12), (3.0, 2.0, 1.5)


class Reader:
    """Reads probabilities off the grey values: {HU: (background, liver, right kidney)}; sees the CT as it is."""

    patch_size = (4, 8, 8)

    def __init__(self, table):
        self.table = table

    def prepare(self, ct):
        return torch.from_numpy(ct.array_zyx.astype(np.float32))[None]

    def predict_patch(self, patch):
        probabilities = torch.zeros(1, 3, *patch.shape[2:])
        probabilities[:, 0] = 1.0
        for hu, three in self.table.items():
            probabilities = torch.where(patch == hu, torch.tensor(three).reshape(1, 3, 1, 1, 1), probabilities)
        return probabilities


def ct_of(array):
    return Volume.from_array(array.astype(np.int16), SPACING)


@pytest.fixture
def body():
    """Air around tissue of 0 HU, with blocks of 10, 20, 30 and 40 HU, the last one apart from the others."""
    array = np.full(SHAPE, -1000)
    array[:, 1:, 1:] = 0
    array[1:4, 2:5, 2:5], array[1:4, 2:5, 5:7] = 10, 20
    array[1:3, 6:8, 2:6] = 30
    array[5, 8, 11] = 40
    return array


FIRST = {10: (0.1, 0.9, 0.0), 20: (0.0, 1.0, 0.0), 30: (0.6, 0.0, 0.4), 40: (0.0, 1.0, 0.0)}
SECOND = {10: (0.2, 0.8, 0.0), 20: (0.6, 0.4, 0.0), 30: (0.8, 0.0, 0.2), 40: (0.0, 1.0, 0.0)}


def test_the_mean_of_several_nets_decides_and_where_it_is_unsure_a_voxel_is_ignored(body):
    labels = pseudo_labels(ct_of(body), [Reader(FIRST), Reader(SECOND)], sure=0.75).label_map_zyx
    assert (labels[body == 10] == 1).all()  # .85
    assert (labels[body == 20] == IGNORED).all()  # liver, .7
    assert (labels[body == 30] == IGNORED).all()  # background, .7
    assert not labels[(body == 0) | (body == -1000)].any()
    assert labels.dtype == np.uint8


def test_less_is_ignored_of_nets_that_need_not_be_as_sure(body):
    both = [Reader(FIRST), Reader(SECOND)]
    labels = pseudo_labels(ct_of(body), both, sure=0.5).label_map_zyx
    assert (labels[(body == 10) | (body == 20)] == 1).all()
    assert not labels[body == 30].any()
    assert (pseudo_labels(ct_of(body), both[:1], sure=1.0).label_map_zyx[body == 10] == IGNORED).all()


def test_what_the_clean_up_takes_from_an_organ_is_ignored_rather_than_background(body):
    result = pseudo_labels(ct_of(body), [Reader(FIRST)], sure=0.0)
    assert result.label_map_zyx[5, 8, 11] == IGNORED
    assert (result.label_map_zyx == IGNORED).sum() == 1
    assert result.clean_up["nets"].smaller_components_ml == {"liver": pytest.approx(0.009)}


class Glands(Reader):
    """Reads classes 0 to 7, of which all but the first two and the right adrenal gland are impossible."""

    def predict_patch(self, patch):
        background, liver, gland = super().predict_patch(patch).split(1, dim=1)
        return torch.cat([background, liver, *[0 * gland] * 5, gland], dim=1)


def test_a_small_organ_counts_from_less_on_and_soft_tissue_beside_it_is_ignored():
    array = np.full((5, 16, 20), 40)
    array[:, :, 8:] = -100  # fat
    array[2, 8, 6], array[2, 8, 5], array[2, 8, 2] = 60, 70, 80
    table = {60: (0.4, 0.0, 0.6), 70: (0.46, 0.0, 0.54), 80: (0.1, 0.9, 0.0)}
    labels = pseudo_labels(ct_of(array), [Glands(table)], sure=0.75).label_map_zyx
    assert (labels[2, 8, 6], labels[2, 8, 5], labels[2, 8, 2]) == (7, IGNORED, 1)  # .6 is enough of it, .54 is not
    beside = np.zeros(array.shape, bool)
    beside[0:5, 5:12, 2:11] = True  # 6 mm: 2, 3 and 4 voxels
    assert (labels[beside & (array == 40)] == IGNORED).all()
    assert not labels[(~beside | (array == -100)) & (array != 80)].any()


class Smooth:
    """Answers with smooth fields, on a grid of its own: the brighter, the more of a liver, the darker, of a kidney."""

    patch_size = (4, 6, 8)

    def __init__(self, shape_zyx, slope):
        self.shape, self.slope = shape_zyx, slope

    def prepare(self, ct):
        return torch.from_numpy(resample_trilinear(ct.array_zyx, self.shape))[None]

    def predict_patch(self, patch):
        return torch.cat([0 * patch, self.slope * patch, -patch / 100], dim=1).softmax(dim=1)


def test_nets_of_other_grids_are_averaged_on_the_first_ones_grid():
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    ct = ct_of(30 * x - 12 * y + 4 * z * z - 120)
    stages = [Smooth((5, 7, 9), 0.02), Smooth((4, 8, 10), 0.005)]
    labels = pseudo_labels(ct, stages, sure=0.5).label_map_zyx
    each = [stage.predict_patch(stage.prepare(ct)[None]) for stage in stages]
    mean = (each[0] + F.interpolate(each[1], (5, 7, 9), mode="trilinear")) / 2
    top, winner = (part.numpy() for part in F.interpolate(mean, SHAPE, mode="trilinear")[0].max(dim=0))
    expected = np.where(top < 0.5, IGNORED, winner)
    assert np.abs(top - 0.5).min() > 1e-5  # nothing is on the edge
    np.testing.assert_array_equal(labels, expected)
    assert all((expected == k).sum() > 50 for k in (1, 2, IGNORED))


def test_notes_are_about_the_organs_and_steps_are_timed(body):
    seen = []
    result = pseudo_labels(
        ct_of(body), [Reader(FIRST), Reader(SECOND)], progress=lambda *told: seen.append(told), tile_step=1.0
    )
    assert set(result.seconds) == {
        *("foreground", "view 1", "view 2", "resize + argmax", "clean-up", "paste", "doubts"),
    }
    assert {told[0] for told in seen} == {"view 1", "view 2"}
    assert seen[-1][1] == seen[-1][2] == 4
    nothing = pseudo_labels(ct_of(body), [Reader({})])
    assert "none of the 13 organs was found: does this CT show an abdomen?" in nothing.notes
    assert not nothing.label_map_zyx.any()


def test_a_small_body_is_doubted_unless_the_first_net_saw_it_larger():
    array = np.full((10, 36, 44), -1000)
    array[:, 5:31, 6:38] = 0
    array[2:8, 12:20, 14:24] = 10

    def noted(scale):
        stage = Reader({10: (0.0, 1.0, 0.0)})
        stage.scale = scale
        return [note for note in pseudo_labels(ct_of(array), [stage]).notes if "mm across" in note]

    (told,) = noted(1.0)
    assert told.startswith("the body is only 5")  # of 52 x 48 mm
    assert noted(MAX_SCALE) == []


class TwoClasses(Reader):
    def predict_patch(self, patch):
        return super().predict_patch(patch)[:, :2]


@pytest.mark.parametrize(
    ("stages", "sure", "said"),
    [
        ([], 0.5, "pseudo-labels must come from one stage or more, got none"),
        ([Reader({})], 1.5, "sure must be from 0 to 1, got 1.5"),
        ([Reader({})], float("nan"), "sure must be from 0 to 1, got nan"),
        ([Reader({}), TwoClasses({})], 0.5, "all stages must have 3 classes, got 2"),
    ],
)
def test_what_cannot_be_averaged_is_refused(body, stages, sure, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        pseudo_labels(ct_of(body), stages, sure=sure)


def test_beside_the_mean_no_view_exists_as_a_whole():
    stages = [Smooth((60, 12, 14), 0.02), Smooth((50, 15, 10), 0.005), Smooth((60, 12, 14), 0.01)]
    ct = ct_of(np.random.default_rng(0).integers(-100, 100, SHAPE))
    with LiveBytes() as counted:
        sums = _mean_probabilities(Run(None, None), ct, stages, 0.5)
    assert sums.shape == (4, 60, 12, 14)
    image, slab = 60 * 12 * 14 * 4, 3 * SLAB_SLICES * 12 * 14 * 4  # bytes; a whole view would be 3.75 slabs
    assert sums.nbytes < counted.peak < sums.nbytes + image + 2 * slab
