"""Widgets without a browser: what a moved slider draws, and the picture that stands in for them."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from flare_lib.ct.labels import organ
from flare_lib.ct.volume import Volume
from flare_lib.display.slices import slice_picture
from flare_lib.display.widgets import Explorer, SliceViewer, png


def case():
    hu = np.random.default_rng(0).integers(-150, 230, (9, 12, 16)).astype(np.int16)
    label_map = np.zeros(hu.shape, np.uint8)
    label_map[3:6, 4:8, 2:9] = 3
    return Volume.from_array(hu, (5.0, 2.0, 1.5)), label_map


def pixels(image):
    return np.asarray(Image.open(io.BytesIO(image.value)))


def test_a_png_holds_the_picture():
    picture = np.random.default_rng(1).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)


def test_the_planes_are_in_proportion():
    ct, label_map = case()
    viewer = SliceViewer(ct, label_map, width_px=288)  # 2 x 24 mm + 24 mm across: 4 pixels a mm
    assert [pixels(image).shape for image in viewer.images] == [(96, 96, 3), (180, 96, 3), (180, 96, 3)]


def test_a_moved_slider_shows_its_slice_under_the_cross():
    ct, label_map = case()
    viewer = SliceViewer(ct, label_map, width_px=288)
    viewer.slices[0].value = 5
    expected = slice_picture(ct.array_zyx, label_map, ct.spacing_zyx_mm, "axial", 5, pixel_mm=0.25)
    cross = (pixels(viewer.images[0]) != expected).any(axis=2)
    assert 0 < len(np.unique(np.nonzero(cross)[0][np.nonzero(cross)[1] == 0])) <= 1  # one row, seen in the first column
    assert cross.sum() <= sum(expected.shape[:2])


def test_the_cross_lies_where_the_other_planes_cut():
    ct = Volume.from_array(np.full((9, 12, 16), -1000, np.int16), (5.0, 2.0, 1.5))
    viewer = SliceViewer(ct, center_zyx=(8, 11, 15), width_px=288)  # head, front, right: the upper left corner
    axial = pixels(viewer.images[0])
    lit = axial.any(axis=2)
    assert np.flatnonzero(lit.all(axis=1)).tolist() == [3]  # the middle of the first voxel's 8 pixels
    assert np.flatnonzero(lit.all(axis=0)).tolist() == [2]  # and of its 6 pixels


def test_window_and_opacity_change_the_picture():
    ct, label_map = case()
    viewer = SliceViewer(ct, label_map)
    before = viewer.images[0].value
    viewer.level.value = 200
    windowed = viewer.images[0].value
    viewer.opacity.value = 1.0
    assert len({before, windowed, viewer.images[0].value}) == 3


def test_where_nothing_drives_it_a_picture_stands_in():
    ct, label_map = case()
    viewer = SliceViewer(ct, label_map)
    bundle = viewer._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= set(bundle)
    shown = np.asarray(Image.open(io.BytesIO(bundle["image/png"])))
    np.testing.assert_array_equal(shown, viewer.static_picture())


def test_the_picture_that_stands_in_names_sides_and_organs_below():
    ct, label_map = case()
    with_legend, without = (SliceViewer(ct, labels, width_px=288).static_picture() for labels in (label_map, None))
    assert [picture.shape for picture in (with_legend, without)] == [(180 + 40, 300, 3), (180 + 22, 300, 3)]
    spleen = (np.array(to_rgb(organ("spleen").color)) * 255).round()
    assert (np.abs(with_legend[180:] - spleen).max(axis=2) < 2).sum() > 20
    letters = without[180:].max(axis=2) > 150
    columns = np.flatnonzero(letters.any(axis=0))
    assert [((columns >= a) & (columns < b)).any() for a, b in ((0, 12), (84, 96), (100, 112), (184, 196))] == [
        True
    ] * 4


def test_labels_of_another_grid_are_refused():
    ct, label_map = case()
    with pytest.raises(ValueError, match=r"must have the CT's shape \(9, 12, 16\), got \(8, 12, 16\)"):
        SliceViewer(ct, label_map[1:])


def test_an_explorer_draws_what_its_sliders_say_and_each_picture_once():
    asked = []

    def draw(z, n_slabs):
        asked.append((z, n_slabs))
        return np.full((4, 6, 3), 10 * z + n_slabs, np.uint8)

    explorer = Explorer(draw, z=(0, 5, 2), n_slabs=(1, 4, 3))
    assert (pixels(explorer.image) == 23).all()
    explorer.sliders["z"].value = 5
    assert (pixels(explorer.image) == 53).all()
    explorer.sliders["z"].value = 2
    assert (pixels(explorer.image) == 23).all()
    assert asked == [(2, 3), (5, 3)]
    assert "image/png" in explorer._repr_mimebundle_()


def test_an_explorer_takes_a_figure():
    explorer = Explorer(lambda n: Figure(figsize=(3, 2), dpi=50, facecolor=(0, n / 255, 0)), n=(0, 255, 51))
    assert pixels(explorer.image).shape == (100, 150, 3)
    assert (pixels(explorer.image) == (0, 51, 0)).all()


@pytest.mark.parametrize("ranges", [{}, {"z": (0, 5, 6)}])
def test_a_start_outside_its_range_is_refused(ranges):
    with pytest.raises(ValueError, match=r"every range must be \(first, last, start\)"):
        Explorer(lambda **_: np.zeros((1, 1, 3), np.uint8), **ranges)
