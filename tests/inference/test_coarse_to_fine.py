"""The whole way with oracle networks: when the nets say the truth, the geometry must give the truth back."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from flare_lib.ct.hu import hu_doubts
from flare_lib.ct.labels import N_CLASSES, ORGANS
from flare_lib.ct.preprocess import find_foreground
from flare_lib.ct.resample import resample_trilinear, resampled_shape
from flare_lib.ct.roi import crop_volume
from flare_lib.ct.volume import Volume
from flare_lib.evaluation.metrics import dice_scores
from flare_lib.inference.coarse_to_fine import segment, segment_in_one_stage
from flare_lib.inference.plausibility import MAX_SCALE, anatomy_doubts
from flare_lib.inference.sliding_window import n_tiles
from flare_lib.machine.precision import FLOAT32


class Oracle:
    """A stage whose image is the truth itself, one channel a class, and whose net passes it on."""

    def __init__(self, spacing_zyx_mm, patch_size):
        self.spacing_zyx_mm, self.patch_size = spacing_zyx_mm, patch_size

    def prepare(self, ct):
        truth = labels_of(ct)
        shape = resampled_shape(truth.shape, ct.spacing_zyx_mm, self.spacing_zyx_mm)
        one_hot = (truth == c for c in range(N_CLASSES))
        return torch.from_numpy(np.stack([resample_trilinear(mask.astype(np.float32), shape) for mask in one_hot]))

    def predict_patch(self, patch):
        return patch


class Blind(Oracle):
    """A stage that sees background everywhere."""

    def predict_patch(self, patch):
        scores = torch.zeros_like(patch)
        scores[:, 0] = 1
        return scores


def labels_of(ct):
    """The CTs of these tests carry their labels in their grey values: HU = 10 x label in the body, -1000 outside."""
    return np.where(ct.array_zyx < 0, 0, ct.array_zyx // 10).astype(np.uint8)


def abdomen(shape_zyx, spacing_zyx_mm, seed=0):
    """Thirteen smooth organs in a body, the great vessels along z, sizes in mm so that every grid shows the same."""
    rng = np.random.default_rng(seed)
    z, y, x = (
        ((np.arange(n) + 0.5) * s - n * s / 2).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (n, s) in enumerate(zip(shape_zyx, spacing_zyx_mm, strict=True))
    )
    hu = np.full(shape_zyx, -1000, np.int16)
    hu[np.broadcast_to((y / 95) ** 2 + (x / 130) ** 2 < 1, shape_zyx)] = 0
    half = np.array(shape_zyx) * spacing_zyx_mm / 2
    # organs on a coarse grid of seats, far enough apart never to touch
    seats = [(sz, sy, sx) for sz in (-0.45, 0.45) for sy in (-32, 32) for sx in (-78, -26, 26, 78)]
    for organ, (sz, sy, sx) in zip(ORGANS, seats, strict=False):
        cz, cy, cx = (sz * half[0] + rng.uniform(-3, 3), sy + rng.uniform(-3, 3), sx + rng.uniform(-3, 3))
        rz, ry, rx = (min(0.4 * half[0], 26), rng.uniform(17, 24), rng.uniform(14, 20))
        hu[((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = 10 * organ.id
    return Volume.from_array(hu, spacing_zyx_mm)


COARSE, FINE = Oracle((6.0, 5.0, 4.5), (16, 24, 28)), Oracle((3.2, 2.8, 2.5), (32, 26, 30))


@settings(max_examples=5)
@given(
    st.tuples(st.floats(1.8, 5.0), st.floats(1.4, 2.6), st.floats(1.3, 2.4)),
    st.tuples(st.floats(110, 190), st.floats(195, 240), st.floats(265, 300)),
    st.integers(0, 100),
)
def test_oracle_networks_give_the_reference_back(spacing_zyx_mm, size_mm, seed):
    shape = tuple(round(size / s) for size, s in zip(size_mm, spacing_zyx_mm, strict=True))
    ct = abdomen(shape, spacing_zyx_mm, seed)
    result = segment(ct, COARSE, FINE)
    assert not any("coarse stage" in note for note in result.notes)
    assert result.label_map_zyx.shape == ct.shape_zyx
    assert dice_scores(result.label_map_zyx, labels_of(ct)).min() >= 0.97


@pytest.mark.parametrize("margin_mm", [4.0, 20.0])
def test_the_region_of_interest_is_the_box_of_the_organs_and_the_margin_on_every_side(margin_mm):
    ct = abdomen((60, 110, 150), (3.0, 2.0, 1.9))
    roi = segment(ct, COARSE, FINE, margin_mm=margin_mm).roi
    where, spacing = np.argwhere(labels_of(ct) > 0), np.array(ct.spacing_zyx_mm)
    before_mm = (where.min(axis=0) - roi.start_zyx) * spacing
    after_mm = (np.array(roi.stop_zyx) - 1 - where.max(axis=0)) * spacing
    # the coarse stage ends an organ up to a coarse voxel too early or too late
    for room_mm in (before_mm, after_mm):
        np.testing.assert_array_less(np.abs(room_mm - margin_mm), COARSE.spacing_zyx_mm)


class Resizable(Oracle):
    """An oracle that can take larger patches, and remembers those that it was shown."""

    size_multiple = (8, 4, 2)

    def __init__(self, spacing_zyx_mm, patch_size, shown):
        super().__init__(spacing_zyx_mm, patch_size)
        self.shown = shown

    @property
    def patch_mm(self):
        return tuple(n * mm for n, mm in zip(self.patch_size, self.spacing_zyx_mm, strict=True))

    def with_patch(self, patch_size):
        return Resizable(self.spacing_zyx_mm, patch_size, self.shown)

    def predict_patch(self, patch):
        self.shown.append(tuple(patch.shape[2:]))
        return patch


@pytest.mark.parametrize("stages", [(COARSE,), ()])
def test_tiles_fitted_to_the_region_are_larger_and_fewer_and_give_an_oracles_labels(stages):
    ct, patch = abdomen((36, 72, 100), (5.0, 3.0, 2.9)), (24, 20, 22)
    segmenting = segment if stages else segment_in_one_stage
    runs = []
    for cap in (1.0, 2.0):
        fine = Resizable((4.0, 3.5, 3.2), patch, [])
        runs.append((segmenting(ct, *stages, fine, fit_tiles=cap).label_map_zyx, fine.shown))
        assert fine.patch_size == patch
    (labels, patches), (same, larger) = runs
    np.testing.assert_array_equal(same, labels)
    assert dice_scores(labels, labels_of(ct)).min() >= 0.9
    assert set(patches) == {patch}
    [size] = set(larger)
    assert size != patch
    assert len(larger) * np.prod(size) < len(patches) * np.prod(patch)


def test_tiles_that_cannot_be_fitted_are_refused_or_stay_as_they_are():
    ct = abdomen((36, 72, 100), (5.0, 3.0, 2.9))
    one_size, other = Oracle((4.0, 3.5, 3.2), (24, 20, 22)), Resizable((4.0, 3.5, 3.2), (24, 20, 22), [])
    with pytest.raises(ValueError, match=r"^the cap of a fitted patch must be 1 or more patches, got 0\.5$"):
        segment_in_one_stage(ct, other, fit_tiles=0.5)
    kept, plain = (segment_in_one_stage(ct, one_size, fit_tiles=cap).label_map_zyx for cap in (2.0, 1.0))
    np.testing.assert_array_equal(kept, plain)


@pytest.mark.parametrize(("n_slices", "heights"), [(6, ({8}, {8})), (7, ({24}, {32}))])
def test_both_stages_see_a_thin_body_in_low_patches_and_its_labels_are_right(n_slices, heights):
    ct = abdomen((36, 72, 100), (5.0, 3.0, 2.9))
    slab = Volume.from_array(ct.array_zyx[14 : 14 + n_slices], ct.spacing_zyx_mm)
    coarse, fine = Resizable((6.0, 7.0, 5.0), (24, 20, 22), []), Resizable((4.0, 3.5, 3.2), (32, 20, 22), [])
    result = segment(slab, coarse, fine)  # up to 32 mm, a quarter of the fine stage's 128, are thin for both
    assert tuple({size[0] for size in stage.shown} for stage in (coarse, fine)) == heights
    assert dice_scores(result.label_map_zyx, labels_of(slab)).min() >= 0.9
    alone = Resizable((4.0, 3.5, 3.2), (32, 20, 22), [])
    segment_in_one_stage(slab, alone)
    assert {size[0] for size in alone.shown} == heights[1]


def test_a_coarse_stage_that_finds_nothing_hands_over_the_whole_foreground_and_says_so():
    ct = abdomen((50, 100, 140), (3.1, 2.1, 2.0))
    result = segment(ct, Blind(COARSE.spacing_zyx_mm, COARSE.patch_size), FINE)
    assert "found no organ" in result.notes[0]
    assert dice_scores(result.label_map_zyx, labels_of(ct)).min() >= 0.97
    assert not result.coarse.array_zyx.any()


def test_two_stages_that_find_nothing_give_an_empty_label_map():
    ct = abdomen((50, 100, 140), (3.1, 2.1, 2.0))
    blind = Blind(COARSE.spacing_zyx_mm, COARSE.patch_size)
    assert not segment(ct, blind, blind).label_map_zyx.any()


def test_a_ct_smaller_than_both_patches():
    ct = abdomen((21, 99, 137), (5.0, 2.0, 1.9))
    result = segment(ct, Oracle((9.0, 8.0, 7.0), (40, 48, 56)), Oracle((2.5, 2.2, 2.0), (96, 128, 160)))
    assert dice_scores(result.label_map_zyx, labels_of(ct)).min() >= 0.97


def test_what_lies_far_from_the_great_vessels_is_removed():
    ct = abdomen((60, 110, 150), (3.0, 2.0, 1.9))
    stray = labels_of(ct)
    center = np.array(ndimage.center_of_mass(stray == 5)) * ct.spacing_zyx_mm
    assert segment(ct, COARSE, FINE, max_distance_mm=1000.0).label_map_zyx.any()
    near = segment(ct, COARSE, FINE, max_distance_mm=60.0).label_map_zyx
    kept = [o for o in ORGANS if (near == o.id).any()]
    assert 0 < len(kept) < len(ORGANS)
    assert np.linalg.norm(np.array(ndimage.center_of_mass(near == kept[0].id)) * ct.spacing_zyx_mm - center) < 200


def test_a_thin_organ_that_a_net_breaks_keeps_its_larger_pieces():
    ct = abdomen((60, 110, 150), (3.0, 2.0, 1.9))
    truth = labels_of(ct)
    spleen, pancreas = (o.id for o in ORGANS if o.name in ("spleen", "pancreas"))
    tops = {}
    for broken in (pancreas, spleen):  # a gap of 9 mm, the upper piece a little smaller
        z = int(np.argwhere(truth == broken)[:, 0].mean())
        ct.array_zyx[z : z + 3][truth[z : z + 3] == broken] = 0
        tops[broken] = slice(z + 3, None)
    ours, papers = segment(ct, COARSE, FINE).label_map_zyx, segment(ct, COARSE, FINE, min_share=1.0).label_map_zyx
    for broken, top in tops.items():
        there = np.sum(labels_of(ct)[top] == broken)
        assert np.sum(ours[top] == broken) == pytest.approx(there if broken == pancreas else 0, rel=0.15)
        assert not (papers[top] == broken).any()


def test_a_region_smaller_than_a_patch_grows_to_it_where_the_ct_goes_on(monkeypatch):
    ct = abdomen((60, 110, 150), (3.0, 2.0, 1.9))
    small = segment(ct, COARSE, FINE, margin_mm=0.0).roi
    whole = segment_in_one_stage(ct, FINE).roi
    monkeypatch.setattr(FINE, "patch_mm", (0.0, 170.0, 1000.0), raising=False)
    grown = segment(ct, COARSE, FINE, margin_mm=0.0)
    assert small.shape_zyx[1] < 80
    assert [grown.roi.shape_zyx[0], grown.roi.shape_zyx[2]] == [small.shape_zyx[0], whole.shape_zyx[2]]
    assert grown.roi.shape_zyx[1] == 85
    assert dice_scores(grown.label_map_zyx, labels_of(ct)).min() >= 0.97


@pytest.mark.parametrize("wrong", [{"max_distance_mm": 0.0}, {"min_share": 0.0}])
def test_a_rule_that_cannot_be_is_refused_before_any_work(wrong):
    ct = abdomen((12, 30, 40), (12.0, 8.0, 7.0))
    for way in (lambda: segment(ct, None, None, **wrong), lambda: segment_in_one_stage(ct, None, **wrong)):
        with pytest.raises(ValueError, match="must be"):
            way()


def test_every_step_is_timed_and_progress_counts_to_the_end():
    calls = []
    ct = abdomen((50, 100, 140), (3.1, 2.1, 2.0))
    result = segment(ct, COARSE, FINE, progress=lambda *call: calls.append(call))
    assert list(result.seconds) == [
        "foreground",
        "coarse preprocessing",
        "coarse net",
        "coarse clean-up",
        "fine preprocessing",
        "fine net, resize + argmax",
        "fine clean-up",
        "paste",
        "doubts",
    ]
    assert all(seconds >= 0 for seconds in result.seconds.values())
    body = crop_volume(ct, find_foreground(ct.array_zyx))
    seen = {"coarse": (COARSE, body, 1.0), "fine": (FINE, crop_volume(ct, result.roi), 0.5)}
    for name, (stage, part, step) in seen.items():
        total = n_tiles(stage.prepare(part).shape[1:], stage.patch_size, step)
        assert total > 1
        assert [call for call in calls if call[0] == name] == [(name, k + 1, total) for k in range(total)]


def test_a_region_smaller_than_a_patch_is_seen_in_the_air_of_its_own_image():
    class Seeing(Oracle):
        def predict_patch(self, patch):
            self.seen = patch
            return patch

        def prepare(self, ct):
            return super().prepare(ct) - 2.5

    stage = Seeing((9.0, 8.0, 7.0), (40, 48, 56))
    segment_in_one_stage(abdomen((21, 99, 137), (5.0, 2.0, 1.9)), stage)
    assert (stage.seen[:, :, 0] == -2.5).all()  # beyond the body there is what is lowest in it


def test_what_is_known_of_the_ct_comes_with_the_result():
    ct = replace(abdomen((21, 50, 70), (6.1, 4.1, 4.0)), notes=("two of its slices are one",))
    for result in (segment(ct, COARSE, FINE), segment_in_one_stage(ct, FINE)):
        assert "two of its slices are one" in result.notes
        assert set(hu_doubts(ct.array_zyx)) <= set(result.notes)
        assert set(anatomy_doubts(ct, result.label_map_zyx, scale=None)) <= set(result.notes)
    assert hu_doubts(ct.array_zyx)
    assert anatomy_doubts(ct, result.label_map_zyx)
    assert list(result.clean_up) == ["one stage"]
    np.testing.assert_array_equal(result.coarse.array_zyx, result.label_map_zyx)  # the one stage is the coarse one too
    assert list(result.seconds)[:2] == ["foreground", "one stage preprocessing"]


@pytest.mark.parametrize("stages", [(COARSE,), ()])
def test_a_small_body_is_doubted_unless_the_last_stage_saw_it_larger(stages):
    adult = abdomen((21, 60, 80), (6.1, 4.1, 4.0))
    child = Volume.from_array(adult.array_zyx, (6.1, 2.5, 2.4))
    fine = Oracle((3.2, 2.8, 2.5), (32, 26, 30))

    def noted(scale):
        fine.scale = scale
        result = (segment if stages else segment_in_one_stage)(child, *stages, fine)
        assert "liver" in {ORGANS[k - 1].name for k in np.unique(result.label_map_zyx) if k}
        return [note for note in result.notes if "mm across" in note]

    (told,) = noted(1.0)
    assert told.startswith("the body is only ")
    assert noted(MAX_SCALE) == []


def test_the_number_format_of_every_net_that_has_one_is_told(monkeypatch):
    ct = abdomen((21, 50, 70), (6.1, 4.1, 4.0))
    assert segment(ct, COARSE, FINE).precision == {}
    monkeypatch.setattr(FINE, "precision", FLOAT32, raising=False)
    assert segment(ct, COARSE, FINE).precision == {"fine": "float32"}
    assert segment_in_one_stage(ct, FINE).precision == {"one stage": "float32"}


def test_the_coarse_labels_lie_on_their_own_grid_of_the_same_extent():
    ct = abdomen((50, 100, 140), (3.1, 2.1, 2.0))
    coarse = segment(ct, COARSE, FINE).coarse
    assert coarse.spacing_zyx_mm == pytest.approx((6.0, 5.0, 4.5), rel=0.1)
    for organ in ORGANS:
        truth_mm = np.array(ndimage.center_of_mass(labels_of(ct) == organ.id)) @ np.diag(ct.spacing_zyx_mm)
        seen_mm = (np.array(ndimage.center_of_mass(coarse.array_zyx == organ.id)) + 0.5) * coarse.spacing_zyx_mm
        offset = (coarse.affine[:3, 3] - coarse.spacing_zyx_mm[::-1] @ np.eye(3) / 2)[::-1]
        world = truth_mm + ct.affine[:3, 3][::-1]
        np.testing.assert_allclose(seen_mm + offset, world, atol=3.0)


def test_one_stage_over_the_whole_foreground_gives_the_reference_back_too():
    ct = abdomen((50, 100, 140), (3.1, 2.1, 2.0))
    result = segment_in_one_stage(ct, FINE)
    assert dice_scores(result.label_map_zyx, labels_of(ct)).min() >= 0.97
    inside = np.argwhere(ct.array_zyx > -1000)
    assert result.roi.start_zyx == tuple(inside.min(axis=0))
    assert result.roi.stop_zyx == tuple(inside.max(axis=0) + 1)
    assert next(iter(result.seconds)) == "foreground"


class Views(Oracle):
    """A stage that looks several times."""

    def __init__(self, *views):
        super().__init__(views[0].spacing_zyx_mm, views[0].patch_size)
        self.views = views


def test_the_fine_stages_answer_is_the_mean_of_its_views_which_may_lie_on_any_grid():
    ct = abdomen((60, 110, 150), (3.0, 2.0, 1.9))
    other = Oracle((2.9, 3.1, 2.2), (28, 30, 34))
    for views in ((FINE, other), (other, FINE)):
        assert dice_scores(segment(ct, COARSE, Views(*views)).label_map_zyx, labels_of(ct)).min() >= 0.97
    blind = Blind(FINE.spacing_zyx_mm, FINE.patch_size)
    seen_by_two = segment(ct, COARSE, Views(FINE, other, blind)).label_map_zyx  # from three quarters of an organ on
    assert 0.85 <= dice_scores(seen_by_two, labels_of(ct)).min() <= 0.95
    assert not segment(ct, COARSE, Views(blind, FINE, blind)).label_map_zyx.any()  # 2 of 3 see nothing
    told = []
    segment(ct, COARSE, Views(FINE, other), progress=lambda *what: told.append(what))
    ends = {stage: (done, total) for stage, done, total in told}
    assert list(ends) == ["coarse", "fine", "fine, view 2"]
    assert all(done == total for done, total in ends.values())


def with_a_speck(size_zyx, *, at_the_border=False):
    """An abdomen in which all that there is of a spleen is a block of so many voxels of 11.4 mm3."""
    ct = abdomen((60, 110, 150), (3.0, 2.0, 1.9))
    ct.array_zyx[ct.array_zyx == 30] = 0
    z, y, x = size_zyx
    start = 0 if at_the_border else 30
    ct.array_zyx[start : start + z, 50 : 50 + y, 70 : 70 + x] = 30
    return ct


def test_so_little_of_an_organ_that_the_scan_shows_whole_is_removed_and_noted():
    small, large = with_a_speck((6, 7, 8)), with_a_speck((8, 9, 10))  # 3.8 and 8.2 mL
    result = segment(small, COARSE, FINE)
    assert not (result.label_map_zyx == 3).any()
    others = labels_of(small) * (labels_of(small) != 3)
    assert dice_scores(result.label_map_zyx, others).min() >= 0.97
    [note] = [note for note in result.notes if "were removed" in note]
    assert re.fullmatch(
        r"the 3\.\d mL labelled spleen were removed: the scan does not cut them, and a newborn's is larger",
        note,
    )
    assert (segment(small, COARSE, FINE, clean_up=False).label_map_zyx == 3).any()
    assert not (segment_in_one_stage(small, FINE).label_map_zyx == 3).any()
    for kept in (large, with_a_speck((6, 7, 8), at_the_border=True)):
        result = segment(kept, COARSE, FINE)
        assert (result.label_map_zyx == 3).any()
        assert not any("were removed" in note for note in result.notes)


class ResizableViews(Resizable):
    """A stage that is shown a CT at its own size and a fifth larger, by one net that knows one patch at a time."""

    @property
    def views(self):
        larger = tuple(mm / 1.2 for mm in self.spacing_zyx_mm)
        return [self, Resizable(larger, self.patch_size, self.shown)]

    def with_patch(self, patch_size):
        return ResizableViews(self.spacing_zyx_mm, patch_size, self.shown)


def test_tiles_fitted_to_a_region_are_of_one_size_for_all_views():
    ct = abdomen((36, 72, 100), (5.0, 3.0, 2.9))
    fine = ResizableViews((4.0, 3.5, 3.2), (24, 20, 22), [])
    result = segment(ct, COARSE, fine, fit_tiles=2.0)
    assert dice_scores(result.label_map_zyx, labels_of(ct)).min() >= 0.9
    [size] = set(fine.shown)
    assert size != fine.patch_size


def test_a_region_is_as_large_as_the_largest_patch_that_a_view_shows():
    ct = abdomen((60, 110, 150), (3.0, 2.0, 1.9))
    patch_mm = (70.0, 180.0, 290.0)
    small, large = (
        Resizable(tuple(mm / n / k for mm, n in zip(patch_mm, (16, 20, 24), strict=True)), (16, 20, 24), [])
        for k in (2, 1)
    )
    alone, both = (segment(ct, COARSE, stage, margin_mm=0.0).roi for stage in (small, Views(small, large)))
    assert both.shape_zyx[2] * 1.9 >= 250.0 > alone.shape_zyx[2] * 1.9


def test_without_clean_up_what_lies_far_away_stays():
    ct = abdomen((60, 110, 150), (3.0, 2.0, 1.9))
    everything = segment(ct, COARSE, FINE, max_distance_mm=60.0, clean_up=False)
    assert dice_scores(everything.label_map_zyx, labels_of(ct)).min() >= 0.97
    assert everything.clean_up == {}
    cleaned = segment(ct, COARSE, FINE, max_distance_mm=60.0)
    assert list(cleaned.clean_up) == ["coarse", "fine"]
    lost = {o.name for o in ORGANS if not (cleaned.label_map_zyx == o.id).any()}
    assert lost <= {name for report in cleaned.clean_up.values() for name in report.far_components_ml}
    alone = segment_in_one_stage(ct, FINE, max_distance_mm=60.0)
    assert len(np.unique(alone.label_map_zyx)) < 14
    uncleaned = segment_in_one_stage(ct, FINE, max_distance_mm=60.0, clean_up=False)
    assert dice_scores(uncleaned.label_map_zyx, labels_of(ct)).min() >= 0.97


@pytest.mark.parametrize("margin_mm", [-1.0, np.inf, np.nan])
def test_a_margin_that_cannot_be_is_refused_before_any_work(margin_mm):
    with pytest.raises(ValueError, match="margin_mm must be 0 or more, got"):
        segment(None, None, None, margin_mm=margin_mm)


@pytest.mark.parametrize("ct", [np.zeros((4, 5, 6)), "ct.nii.gz"])
def test_what_is_no_volume_is_refused(ct):
    for way in (lambda: segment(ct, COARSE, FINE), lambda: segment_in_one_stage(ct, FINE)):
        with pytest.raises(TypeError, match=f"ct must be a Volume, .* got {type(ct).__name__}"):
            way()
