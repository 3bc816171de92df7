import json

import pytest

from flare_lib.display import live
from flare_lib.display.live import LiveLoss


@pytest.fixture
def cell(monkeypatch):
    """What a notebook's cell is shown: (how, the figure's title, number of points), in order."""
    shown = []

    def note(how, figure):
        axes = figure.axes[0]
        shown.append((how, axes.get_title(), len(axes.lines[0].get_xdata())))

    class Handle:
        def update(self, figure):
            note("update", figure)

    def display(figure, *, display_id):
        note("new", figure)
        return Handle() if display_id else None

    monkeypatch.setattr(live, "display", display)
    return shown


def test_one_chart_is_drawn_anew_in_its_place_and_once_more_at_the_end(tmp_path, cell):
    log = tmp_path / "log.jsonl"
    on_step = LiveLoss(log, n_steps=25, every=10)
    with log.open("a", encoding="utf-8") as file:
        for step in range(25):
            file.write(json.dumps({"step": step, "loss": 2.0 - step / 100}) + "\n")
            file.flush()
            on_step(step, 2.0 - step / 100)
    assert cell == [
        ("new", "step 10 of 25, loss 1.910", 1),  # a running mean over 10 steps
        ("update", "step 20 of 25, loss 1.810", 11),
        ("update", "step 25 of 25, loss 1.760", 16),
    ]
