"""Progress of a long piece of work: the functions to call along the way."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (done, total)
StageProgress = Callable[[str, int, int], None]  # (stage, done, total), for work of several stages


def of_stage(progress: StageProgress | None, stage: str) -> Progress | None:
    """Return a function that reports the progress of one stage; None if nobody is listening."""
    return None if progress is None else lambda done, total: progress(stage, done, total)
