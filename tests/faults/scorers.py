"""Scoring that ends as it should not: in a module of its own, for the processes that score import it."""

import os

import numpy as np

from flare_lib.evaluation.flare_rules import Scores


def killed_on_b(pair, **_):
    """Die of the case b, as one does for want of memory."""
    if pair.name == "b":
        os.kill(os.getpid(), 9)  # SIGKILL, which Windows has no name for
    return Scores(np.ones(13), np.ones(13))
