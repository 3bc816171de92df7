"""The course's explorers: what they print agrees with the library, what they draw follows the sliders."""

import numpy as np
import pytest

from flare_lib.ct.labels import organ
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Volume
from flare_lib.display import explorers
from flare_lib.display.explorers import (
    distance_explorer,
    head_explorer,
    roi_explorer,
    slab_explorer,
    surface_explorer,
    tile_explorer,
    tolerance_explorer,
)
from flare_lib.inference.sliding_window import n_tiles

LIVER, KIDNEY, AORTA, VENA_CAVA = (organ(name).id for name in ("liver", "right kidney", "aorta", "inferior vena cava"))
SPACING = (4.0, 2.0, 3.0)


def body(shape=(16, 20, 24)):
    """A CT of soft tissue, and labels: liver, great vessels, a kidney, and a far piece of it at the bottom."""
    labels = np.zeros(shape, np.uint8)
    labels[8:14, 4:12, 14:20] = LIVER
    labels[4:14, 14, 10] = AORTA
    labels[4:14, 14, 13] = VENA_CAVA
    labels[6:9, 15:18, 16:20] = KIDNEY
    labels[0:2, 2:4, 2:5] = KIDNEY
    return Volume.from_array(np.full(shape, 50, np.int16), SPACING), labels


@pytest.fixture
def titles(monkeypatch):
    """All titles that are drawn, in their order; those of panels too."""
    drawn = []
    original = explorers.panel_figure

    def panel_figure(panels, **how):
        drawn.append([panel.title for panel in panels])
        return original(panels, **how)

    monkeypatch.setattr(explorers, "panel_figure", panel_figure)
    return drawn


def test_heads_are_compared_with_the_reference_each_on_its_own_grid(titles):
    ct, labels = body()
    halved = labels[::2, ::2, ::2]
    explorer = head_explorer(ct, [labels, halved], labels, window=(-160, 240), z=8)
    explorer.sliders["head"].value = 2
    assert titles[0][1:] == ["head 1: 16 x 20 x 24, mean Dice 1.00", "white: wrong, 0.0%"]
    assert titles[1][1].startswith("head 2: 8 x 10 x 12, mean Dice 0.")
    with pytest.raises(ValueError, match="at least one head, got none"):
        head_explorer(ct, [], labels, window=(-160, 240), z=8)
    with pytest.raises(ValueError, match="must have the CT's shape"):
        head_explorer(ct, [labels], halved, window=(-160, 240), z=4)


def test_the_margin_says_how_large_the_region_is_and_what_the_worst_hit_organ_keeps(titles):
    ct, labels = body()
    explorer = roi_explorer(ct, labels, Box((8, 4, 14), (14, 12, 20)), margin_mm=0.0)
    assert titles[0] == ["margin 0 mm: 0.0 litres", "worst hit: aorta, 0.0% inside"]
    explorer.sliders["margin_mm"].value = 60
    assert titles[1] == [f"margin 60 mm: {16 * 20 * 24 * 24e-6:.1f} litres", "all organs lie inside"]


def test_a_margin_between_counts_the_voxels_inside(titles):
    ct, labels = body()
    labels[labels == LIVER] = 0
    labels[0:2, 2:4, 2:5] = 0
    # all of the vessels, and of the kidney's three slices two
    roi_explorer(ct, labels, Box((0, 10, 8), (8, 18, 20)), margin_mm=0.0)
    share = {"aorta": 4 / 10, "right kidney": 2 / 3}
    assert titles[0][1] == f"worst hit: aorta, {min(share.values()):.1%} inside"


def test_tiles_are_as_many_as_the_sliding_window_has():
    shape, patch = (30, 20, 25), (10, 12, 16)
    explorer = tile_explorer(shape, patch, tile_step=1.0)
    figure = explorer._draw(step=1.0, tile=0)
    assert figure.axes[0].get_title() == f"step 1: {n_tiles(shape, patch, 1.0)} tiles, seen from the front"
    half = explorer._draw(step=0.5, tile=1)
    assert half.axes[0].get_title() == f"step 0.5: {n_tiles(shape, patch, 0.5)} tiles, seen from the front"
    assert half.axes[0].get_xlim() == (24.5, -0.5)  # the patient's right, where x ends, is on the left
    counts = explorer._draw(step=0.5, tile=0).axes[0].images[0].get_array()
    assert counts.shape == (30, 25)
    assert counts.min() >= 1
    first, second = (explorer._draw(step=1.0, tile=k).axes[0].patches[0].get_xy() for k in (0, 1))
    assert first == (0, 0)
    assert second != first


def test_slabs_are_made_once_and_what_differs_is_white_between_the_seams(titles):
    _, labels = body()
    labels[10:, 0] = organ("right adrenal gland").id  # white in the legend
    asked = []

    def in_slabs(n):
        asked.append(n)
        wrong = labels.copy()
        wrong[: n - 1] = LIVER
        return wrong

    explorer = slab_explorer(in_slabs, labels, n_slabs=1)
    explorer.sliders["n"].value = 5
    explorer.sliders["y"].value = 0
    assert asked == [1, 5]
    axes = explorer._draw(n=5, y=0).axes[0]
    white = (axes.images[-1].get_array() == 1).all(axis=-1)  # rows from below, the patient's right on the left
    assert white.shape == (16, 24)
    assert white[:4].all()
    assert not white[4:].any()
    assert [line.get_ydata()[0] for line in axes.lines] == [3, 6, 10, 13]
    n = 4 * 20 * 24
    assert titles[0] == ["N = 1: 0 voxels differ, 0 of them in this slice (white)"]
    assert titles[-1] == [f"N = 5: {n:,} voxels differ, {n // 20} of them in this slice (white)"]


def test_the_distance_rule_takes_away_what_is_farther_and_names_what_is_lost(titles):
    ct, labels = body()
    labels[6:9, 15:18, 16:20] = 0  # only the far piece of the kidney is left
    explorer = distance_explorer(ct, labels, y=3, max_distance_mm=300.0)
    before = explorer.static_picture()
    explorer.sliders["mm"].value = 20
    assert [title for (title,) in titles] == [
        "300 mm; gone: nothing",
        "20 mm; gone: right kidney, 47 mm away; liver, 21 mm away",
    ]
    assert (before != explorer.static_picture()).any()
    with pytest.raises(ValueError, match="to measure from, got neither"):
        distance_explorer(ct, np.zeros_like(labels), y=3)


def test_a_slider_reaches_to_where_it_starts_whatever_the_parameters_ask_for():
    ct, labels = body()
    box = Box((8, 4, 14), (14, 12, 20))
    asked = {
        roi_explorer(ct, labels, box, margin_mm=900.0): ("margin_mm", 900),
        tile_explorer((16, 20, 24), (8, 8, 8), tile_step=0.1): ("step", 0.1),
        slab_explorer(lambda n: labels, labels, n_slabs=12): ("n", 12),
        distance_explorer(ct, labels, y=3, max_distance_mm=5.0): ("mm", 5),
        tolerance_explorer(ct, labels, labels, z=10, organs=("liver",), tolerance_mm=30.0): ("mm", 30.0),
    }
    assert [explorer.sliders[name].value for explorer, (name, _) in asked.items()] == [at for _, at in asked.values()]


def test_a_border_two_voxels_off_is_white_below_its_distance():
    ct, labels = body()
    moved = np.roll(labels, 2, axis=1)  # 4 mm to the front
    explorer = tolerance_explorer(ct, moved, labels, z=10, organs=("liver",), tolerance_mm=4.0)
    title = explorer._draw(mm=4.0).axes[0].get_title()
    assert title == "within 4 mm in this slice: liver 100%"
    axes = explorer._draw(mm=0.0).axes[0]
    at_0 = axes.get_title()
    assert len(axes.collections[-1].get_offsets()) == 12
    assert (axes.collections[-1].get_facecolors() == 1).all()
    # of the border's 24 voxels those that are the reference's border too: its two sides, but for the last two rows
    assert at_0 == f"within 0 mm in this slice: liver {12 / 24:.0%}"
    nothing = tolerance_explorer(ct, moved, labels, z=0, organs=("liver",))
    assert nothing._draw(mm=1.0).axes[0].get_title() == "within 1 mm in this slice: liver: not in this slice"


def test_surfaces_turn():
    _, labels = body()
    explorer = surface_explorer({"one": labels, "other": labels}, SPACING, pixel_mm=2.0, degrees=0)
    front = explorer.static_picture()
    explorer.sliders["degrees"].value = 90
    assert (front != explorer.static_picture()).any()


def test_bodies_side_by_side_share_a_frame():
    _, labels = body()
    smaller = labels.copy()
    smaller[:6] = 0
    explorer = surface_explorer({"all": labels, "less": smaller}, SPACING, pixel_mm=2.0, degrees=0)
    first, second = (axes.images[0].get_array() for axes in explorer._draw(degrees=0).axes)
    assert first.shape == second.shape
    top = [np.argwhere((picture < 250).any(axis=(1, 2)))[0, 0] for picture in (first, second)]
    assert top[0] == top[1]
    with pytest.raises(ValueError, match="must have one shape"):
        surface_explorer({"all": labels, "less": labels[1:]}, SPACING)
