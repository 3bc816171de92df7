"""Figures: the right voxel in the right corner, the organs' own colours, files complete or not there."""

import matplotlib as mpl
import numpy as np
import pytest
from cases import ct, labels
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from flare_lib.ct.labels import ORGANS
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Volume
from flare_lib.display.figures import (
    Panel,
    comparison_figure,
    overlay_figure,
    panel_figure,
    plain_style,
    save_figure,
)


def test_slices_are_drawn_in_mm():
    figure = overlay_figure(ct(), labels())
    extents = [axes.images[0].get_extent() for axes in figure.axes]
    assert extents == [[0, 15.0, 0, 16.0], [0, 15.0, 0, 30.0], [0, 16.0, 0, 30.0]]


def test_the_air_around_the_body_is_cut_off_the_picture():
    body = np.full((40, 50, 60), -1000, np.int16)
    body[10:30, 20:40, 15:55] = 40
    figure = overlay_figure(Volume.from_array(body, (5.0, 2.0, 1.5)))
    # 10 mm of room, in whole voxels: 2 along z, 5 along y, 7 along x (the patient's right, column 0, is x = 59)
    axial, coronal, _ = figure.axes
    np.testing.assert_allclose(axial.get_xlim(), ((60 - 60) * 1.5, (60 - 8) * 1.5))
    np.testing.assert_allclose(axial.get_ylim(), (15 * 2.0, 45 * 2.0))
    np.testing.assert_allclose(coronal.get_ylim(), (8 * 5.0, 32 * 5.0))
    assert axial.get_title() == "axial, z = 20"


def test_panels_stand_side_by_side_in_true_proportions_with_boxes_in_mm():
    panels = [
        Panel("axial", ct(), "axial", 4, labels(), outlines=[Box((1, 2, 3), (5, 6, 9))]),
        Panel("coronal", ct(), "coronal", 4, window_hu=(-1000.0, 0.0)),
    ]
    left, right = panel_figure(panels).axes
    assert [left.get_title(), right.get_title()] == ["axial", "coronal"]
    (box,) = left.patches
    # columns are turned: voxels 3 to 8 of 10 along x lie 1 to 7 voxels from the picture's left edge
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((1 * 1.5, 2 * 2.0), 6 * 1.5, 4 * 2.0)
    assert right.images[0].get_clim() == (-1000.0, 0.0)
    widths = [axes.get_position().width for axes in (left, right)]
    assert widths[0] / widths[1] == pytest.approx((15 / 16) / (15 / 30), rel=0.02)
    with pytest.raises(ValueError, match="at least one panel"):
        panel_figure([])


def test_values_that_are_no_ct_have_a_colour_bar_with_their_name():
    figure = panel_figure(
        [Panel("doubt", ct(), "axial", 4, window_hu=(0.0, 3.0), scale="KL, nats"), Panel("CT", ct(), "axial", 4)]
    )
    first, bar, second = figure.axes
    assert bar.get_xlabel() == "KL, nats"
    assert bar.get_xlim() == (0.0, 3.0)
    assert (first.images[0].cmap.name, second.images[0].cmap.name) == ("magma", "gray")


def test_a_colour_bar_of_counts_is_marked_at_whole_numbers():
    for values, between in ((np.uint8([0, 1, 2, 2]), False), (np.array([0, 0.4, 1.1, 2.0]), True)):
        volume = Volume.from_array(values.reshape(1, 2, 2), (3.0, 2.0, 2.0))
        figure = panel_figure([Panel("", volume, "axial", 0, None, (0, 3), (), "heads")])
        ticks = figure.axes[1].get_xticks()
        assert (ticks % 1 > 0).any() == between


def test_many_panels_stand_in_rows_as_wide_as_a_page():
    figure = panel_figure([Panel(str(k), ct(), "axial", 4, labels()) for k in range(5)], columns=3)
    assert figure.get_size_inches()[0] == pytest.approx(11)
    places = [axes.get_position() for axes in figure.axes]
    assert len({round(place.y0, 4) for place in places}) == 2
    assert places[3].x0 == places[0].x0
    assert [text.get_text() for text in figure.legends[0].texts] == ["Liv  liver", "Aor  aorta"]


def test_the_legend_names_the_organs_that_are_there_in_their_colours():
    legend = overlay_figure(ct(), labels()).legends[0]
    shown = {
        text.get_text(): to_hex(p.get_facecolor()) for text, p in zip(legend.texts, legend.get_patches(), strict=True)
    }
    assert shown == {f"{o.abbreviation}  {o.name}": o.color for o in ORGANS if o.id in (1, 5)}
    assert overlay_figure(ct()).legends == []


def test_every_label_is_drawn_in_its_organs_colour_and_the_background_not_at_all():
    image = overlay_figure(ct(), labels(), opacity=1.0).axes[0].images[1]
    for organ in ORGANS:
        assert to_hex(image.cmap(image.norm(organ.id))) == organ.color
    assert image.cmap(image.norm(0))[3] == 0


def test_a_comparison_has_a_row_a_label_map_on_the_same_slices():
    figure = comparison_figure(ct(), {"ours": labels(), "theirs": labels() * 0})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "ours: axial, z = 4"
    assert titles[3] == "theirs: axial, z = 4"
    assert titles[1] == titles[4]


def test_a_label_map_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"must have the CT's shape \(6, 8, 10\), got \(1, 8, 10\)"):
        overlay_figure(ct(), labels()[:1])


def test_a_saved_figure_is_a_png_and_nothing_is_left_beside_it(tmp_path):
    save_figure(Figure(figsize=(1, 1)), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(ValueError, match="the figure's folder must exist"):
        save_figure(Figure(figsize=(1, 1)), tmp_path / "none" / "a.png")


def test_a_users_own_style_does_not_need_latex_of_ours(monkeypatch, tmp_path):
    monkeypatch.setitem(mpl.rcParams, "text.usetex", True)
    with plain_style():
        figure = overlay_figure(ct(), labels())
        assert not any(text.get_usetex() for text in figure.findobj(mpl.text.Text))
        save_figure(figure, tmp_path / "a.png")
    assert mpl.rcParams["text.usetex"]
