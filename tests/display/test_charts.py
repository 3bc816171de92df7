"""Charts: bars and lines that carry the numbers they were given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from flare_lib.ct.labels import ORGANS
from flare_lib.display.charts import dice_figure, loss_figure, timing_figure


def test_bars_are_as_long_as_the_steps_took():
    bars = timing_figure({"load": 0.5, "net": 2.0}).axes[0].patches
    assert [bar.get_width() for bar in bars] == [0.5, 2.0]


def test_dice_bars_carry_the_scores_and_the_organs_colours():
    scores = np.linspace(0, 0.9, 13)
    bars = dice_figure({"ours": scores, "theirs": scores / 2}).axes[0].patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], [*scores, *(scores / 2)])
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [o.color for o in ORGANS] * 2


def test_a_loss_is_a_running_mean_against_its_steps():
    entries = [{"step": k, "loss": float(k), "s": 1.0} for k in range(10)]
    (line,) = loss_figure(entries, smooth=4).axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), range(3, 10))
    np.testing.assert_allclose(line.get_ydata(), np.arange(1.5, 8.5))


def test_both_terms_of_a_loss_are_drawn_when_there_are_two():
    supervised = [{"step": k, "loss": 2.0, "supervised": 2.0} for k in range(5)]
    both = [{"step": k, "loss": 2.1, "supervised": 2.0, "consistency": 1.0} for k in range(5)]
    labels = [[line.get_label() for line in loss_figure(e).axes[0].lines] for e in (supervised, both)]
    assert labels == [["supervised"], ["loss", "supervised", "consistency"]]
    with pytest.raises(ValueError, match="needs an entry at least"):
        loss_figure([])
