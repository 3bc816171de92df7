"""The losses of a run in progress, drawn in a notebook cell and updated there."""

from pathlib import Path

from flare_lib.display.charts import loss_figure
from flare_lib.machine.extras import extra
from flare_lib.training.log import read_log

with extra("notebooks"):
    from IPython.display import DisplayHandle, display


class LiveLoss:
    """What to pass to `training.loop.train` as `on_step`: `LiveLoss(folder / "log.jsonl", n_steps=300)`.

    Every `every` steps, and after the last one, the run's log is read and its chart replaces the previous one, so that
    the cell of a stopped run shows how far it got, and an executed notebook shows the whole curve.
    """

    def __init__(self, log: str | Path, *, n_steps: int, every: int = 25) -> None:
        self._log, self._n_steps, self._every = Path(log), n_steps, every
        self._shown: DisplayHandle | None = None

    def __call__(self, step: int, loss: float) -> None:
        """Draw the losses up to `step`, counted from 0, if it is time to."""
        done = step + 1
        if done % self._every and done != self._n_steps:
            return
        figure = loss_figure(read_log(self._log), title=f"step {done} of {self._n_steps}, loss {loss:.3f}")
        if self._shown is None:
            self._shown = display(figure, display_id=True)
        else:
            self._shown.update(figure)
