"""How far a long piece of work is: what is called as it goes on."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (done, total)
StageProgress = Callable[[str, int, int], None]  # (stage, done, total), for work of several stages


def of_stage(progress: StageProgress | None, stage: str) -> Progress | None:
    """Return what tells the progress of one stage; None when nobody wants to know."""
    return None if progress is None else lambda done, total: progress(stage, done, total)
