"""The losses of a run that is going on, drawn in a notebook's cell and drawn anew there."""

from pathlib import Path

from flare_lib.display.charts import loss_figure
from flare_lib.machine.extras import extra
from flare_lib.training.log import read_log

with extra("notebooks"):
    from IPython.display import DisplayHandle, display


class LiveLoss:
    """What `training.loop.train` can be given as `on_step`: `LiveLoss(folder / "log.jsonl", n_steps=300)`.

    Every `every` steps, and after the last, the run's log is read and its chart put in place of the one before, so that
    a stopped run's cell shows how far it came, and an executed notebook the whole curve.
    """

    def __init__(self, log: str | Path, *, n_steps: int, every: int = 25) -> None:
        self._log, self._n_steps, self._every = Path(log), n_steps, every
        self._shown: DisplayHandle | None = None

    def __call__(self, step: int, loss: float) -> None:
        """Draw the losses up to `step`, counted from 0, where it is time to."""
        done = step + 1
        if done % self._every and done != self._n_steps:
            return
        figure = loss_figure(read_log(self._log), title=f"step {done} of {self._n_steps}, loss {loss:.3f}")
        if self._shown is None:
            self._shown = display(figure, display_id=True)
        else:
            self._shown.update(figure)
