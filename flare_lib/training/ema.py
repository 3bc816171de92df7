"""The exponential moving average (EMA) of a net's weights, which is steadier than the weights of any one step.

    average <- d average + (1 - d) weights,  d = min(decay, 1 - 1 / n) at step n = 1, 2, ...

At first this is the plain mean of all steps so far; from step 1 / (1 - decay) on, it looks back over about so many.
It takes as much memory as the weights.

References: Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017 (also for the first steps, in
their code); Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM J. Control Optim. 1992
"""

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, step: int, decay: float) -> None:
    """Take the net's weights after a step, counted from 1, into the average, a net of the same form, in place.

    `decay` is from 0 (the average is the last weights) to below 1. Buffers are copied: they may be counters. A net
    without weights has none to average. Raises ValueError for a step below 1, a decay outside [0, 1) and a net of
    another form.
    """
    if step < 1:
        raise ValueError(f"the step must be 1 or more, got {step}")
    if not 0 <= decay < 1:
        raise ValueError(f"the decay must be from 0 to below 1, got {decay}")
    share = max(1 - decay, 1 / step)
    for mean, weight in zip(average.parameters(), net.parameters(), strict=True):
        mean.lerp_(weight, share)
    for counter, now in zip(average.buffers(), net.buffers(), strict=True):
        counter.copy_(now)
