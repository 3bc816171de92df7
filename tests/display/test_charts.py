"""Charts: bars and lines that carry the numbers they were given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from flare_lib.ct.labels import ORGANS
from flare_lib.display.charts import dice_figure, efficiency_figure, loss_figure, score_boxes_figure, timing_figure
from flare_lib.evaluation.efficiency import Efficiency


def test_bars_are_as_long_as_the_steps_took():
    bars = timing_figure({"load": 0.5, "net": 2.0}).axes[0].patches
    assert [bar.get_width() for bar in bars] == [0.5, 2.0]


def test_dice_bars_carry_the_scores_and_the_organs_colours():
    scores = np.linspace(0, 0.9, 13)
    bars = dice_figure({"ours": scores, "theirs": scores / 2}).axes[0].patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], [*scores, *(scores / 2)])
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [o.color for o in ORGANS] * 2


def test_scores_stand_on_their_bars_and_what_is_missing_is_said():
    scores = np.full(13, 0.5)
    scores[[0, 3, 9]] = 0.976, 0.001, np.nan
    one, two, three = (dice_figure({f"{k}": scores for k in range(n)}).axes[0] for n in (1, 2, 3))
    words = [text.get_text() for text in one.texts]
    assert words == ["0.98", *["0.50"] * 2, "0", *["0.50"] * 5, "n/a", *["0.50"] * 3]
    assert [text.get_text() for text in two.texts] == words * 2
    assert [text.get_text() for text in three.texts] == ["0", "n/a"] * 3  # no room for more
    assert [round(text.get_position()[1], 3) for text in one.texts[:4]] == [0.986, 0.51, 0.51, 0.011]
    assert one.get_ylim()[1] > 1.05  # room above a score of 1


def test_a_loss_is_a_running_mean_against_its_steps():
    entries = [{"step": k, "loss": float(k), "s": 1.0} for k in range(10)]
    (line,) = loss_figure(entries, smooth=4).axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), range(3, 10))
    np.testing.assert_allclose(line.get_ydata(), np.arange(1.5, 8.5))


def test_both_terms_of_a_loss_are_drawn_when_there_are_two():
    supervised = [{"step": k, "loss": 2.0, "supervised": 2.0} for k in range(5)]
    both = [{"step": k, "loss": 2.1, "supervised": 2.0, "consistency": 1.0} for k in range(5)]
    labels = [[line.get_label() for line in loss_figure(e).axes[0].lines] for e in (supervised, both)]
    assert labels == [["supervised"], ["supervised", "consistency"]]
    with pytest.raises(ValueError, match="needs at least one entry"):
        loss_figure([])


def test_boxes_hold_the_middle_half_of_the_cases_that_have_a_score():
    dice = [np.full(13, value) for value in (0.2, 0.4, 0.6, 0.8, 1.0)]
    dice[0][4] = np.nan
    upper, lower = score_boxes_figure(dice, [d / 2 for d in dice]).axes
    assert [axes.get_ylabel() for axes in (upper, lower)] == ["DSC", "NSD"]
    assert [to_hex(box.get_facecolor()) for box in upper.patches] == [o.color for o in ORGANS]
    for axes, scale in ((upper, 1), (lower, 0.5)):
        heights = [box.get_path().get_extents() for box in axes.patches]
        np.testing.assert_allclose([heights[0].y0, heights[0].y1], [0.4 * scale, 0.8 * scale])
        np.testing.assert_allclose([heights[4].y0, heights[4].y1], [0.55 * scale, 0.85 * scale])
        assert len(axes.collections[4].get_offsets()) == 4


def test_the_curves_of_a_run_carry_its_samples_and_its_steps():
    times = np.array([0.1, 0.2, 0.4])
    curves = {"process_cpu_percent": np.array([0.0, 100.0, 50.0]), "process_ram_mib": np.array([10.0, 30.0, 20.0])}
    figure = efficiency_figure(Efficiency(times, curves, (("coarse net", 0.0, 0.2), ("fine net", 0.2, 0.4))))
    assert len(figure.axes) == 2
    for axes, curve in zip(figure.axes, curves.values(), strict=True):
        np.testing.assert_allclose(axes.lines[0].get_xydata()[1:], np.column_stack([times, curve]))
    assert [text.get_text() for text in figure.axes[0].texts] == ["coarse net", "fine net"]
    with_card = efficiency_figure(Efficiency(times, {**curves, "machine_gpu_mib": np.array([1.0, 2.0, 3.0])}))
    np.testing.assert_allclose(with_card.axes[2].lines[0].get_ydata(), [1, 1, 2, 3])
