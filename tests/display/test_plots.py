"""Charts of the course: the numbers that are drawn, and what was not measured is said, not drawn."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from flare_lib.ct.labels import organ
from flare_lib.display.plots import COLORS, bars_figure, dots_figure, hu_figure, lines_figure


def test_lines_have_their_names_their_numbers_and_their_marks():
    figure = lines_figure(
        {"a": ([1, 2, 3], [3, 5, 4]), "b": ([1, 3], [1, 2])},
        xlabel="mm",
        ylabel="DSC",
        marks={"seams": [1.5, 2.5]},
        log="x",
    )
    axes = figure.axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines[:2]] == [[[1, 3], [2, 5], [3, 4]], [[1, 1], [3, 2]]]
    assert [line.get_xdata()[0] for line in axes.lines[2:]] == [1.5, 2.5]
    assert [text.get_text() for text in axes.get_legend().texts] == ["a", "b", "seams"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")


def test_a_line_named_after_an_organ_has_its_colour_and_an_edge_for_white_is_not_seen_on_white():
    named = ("liver", "right adrenal gland", "anything else")
    lines = lines_figure({name: ([0, 1], [0, 1]) for name in named}, xlabel="", ylabel="").axes[0].lines
    assert [line.get_color() for line in lines] == [organ("liver").color, "#ffffff", COLORS[2]]
    assert [bool(line.get_path_effects()) for line in lines] == [True, True, False]


def test_x_grows_to_the_left_where_the_line_lies_below_a_slice():
    axes = lines_figure({"a": ([2, 5], [0, 1])}, xlabel="x", ylabel="", leftwards=True).axes[0]
    left, right = axes.get_xlim()
    assert left > 5 > 2 > right


def test_a_bar_that_was_not_measured_is_said_to_be_so():
    rows = {"CPU": {"torch": 2.0, "slabs": 0.5}, "GPU": {"torch": 1.0, "slabs": np.nan}}
    figure = bars_figure(rows, xlabel="s", log=True, marks={"paper": 90.0})
    axes = figure.axes[0]
    assert isinstance(figure, Figure)
    words = [text.get_text() for text in axes.texts]
    assert words == ["2.00", "0.50", "1.00", "not measured", " paper"]
    assert [bar.get_width() for bar in axes.patches] == [2.0, 0.5, 1.0, 0.0]
    assert axes.get_xlim() == pytest.approx((0.25, 270.0))


def test_a_series_without_a_number_has_no_bars_and_is_named_in_the_legend():
    axes = bars_figure({"CPU": {"torch": 2.0}, "GPU": {"torch": np.nan}}, xlabel="s").axes[0]
    assert [text.get_text() for text in axes.texts] == ["2.00"]
    assert [bar.get_width() for bar in axes.patches] == [2.0]
    assert [text.get_text() for text in axes.get_legend().texts] == ["CPU", "GPU: not measured"]
    nothing = bars_figure({"CPU": {"torch": np.nan}}, xlabel="s").axes[0]
    assert len(nothing.patches) == 0


def test_a_logarithmic_axis_has_plain_numbers():
    figure = lines_figure({"a": ([1, 2], [0.004, 0.07])}, xlabel="", ylabel="s", log="y")
    figure.draw_without_rendering()
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {"0.005", "0.01", "0.02", "0.05"} <= set(ticks)
    low, high = figure.axes[0].get_ylim()
    assert low < 0.004 < 0.07 < high


def test_stacked_bars_follow_each_other():
    axes = bars_figure(
        {"encoder": {"0": 1.0, "1": 2.0}, "decoder": {"0": 3.0, "1": 4.0}}, xlabel="", stacked=True
    ).axes[0]
    assert [bar.get_x() for bar in axes.patches] == [0.0, 0.0, 1.0, 2.0]
    assert len(axes.texts) == 0


def test_a_stack_that_ends_with_nothing_leaves_room_at_its_end():
    axes = bars_figure({"encoder": {"0": 1.0, "1": 6.0}, "heads": {"0": 0.0, "1": 0.0}}, xlabel="", stacked=True).axes[
        0
    ]
    assert axes.get_xlim() == (0.0, pytest.approx(6.0 * 1.12))


def test_dots_stand_beside_their_mean():
    lines = dots_figure({"a": [0.5, 0.7], "b": [0.1, 0.2, 0.6]}, xlabel="DSC").axes[0].lines
    assert [line.get_xdata().tolist() for line in lines[::2]] == [[0.5, 0.7], [0.1, 0.2, 0.6]]
    assert [float(line.get_xdata()[0]) for line in lines[1::2]] == pytest.approx([0.6, 0.3])


def test_thin_lines_join_what_one_seed_says_of_each_arm():
    axes = dots_figure({"a": [0.5, 0.7], "b": [0.6, 0.4], "c": [0.1, 0.3]}, xlabel="DSC").axes[0]
    assert [line.get_xdata().tolist() for line in axes.lines[:2]] == [[0.5, 0.6, 0.1], [0.7, 0.4, 0.3]]
    assert [line.get_ydata().tolist() for line in axes.lines[:2]] == [[0, 1, 2]] * 2
    assert "a line: " in axes.get_title(loc="left")
    assert "a line: " not in dots_figure({"a": [0.5], "b": [0.6, 0.4]}, xlabel="DSC").axes[0].get_title(loc="left")


def test_bars_below_zero_are_seen():
    assert bars_figure({"": {"a": -1.2, "b": 2.0}}, xlabel="").axes[0].get_xlim()[0] < -1.2


def test_a_histogram_counts_every_voxel_within_its_range():
    ct = np.array([-1000] * 3 + [-100] * 5 + [40] * 2 + [2000]).reshape(11, 1, 1)
    axes = hu_figure(ct, window_hu=(-325, 325)).axes[0]
    stairs = next(patch for patch in axes.patches if hasattr(patch, "get_data"))
    assert stairs.get_data().values.sum() * 1000 == pytest.approx(10)
