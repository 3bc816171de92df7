"""Which input points linear interpolation reads along one axis: exactly those of `torch.nn.functional.interpolate`."""

from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Taps:
    """What is read along one axis: output i = lower_weight[i] * input[lower[i]] + upper_weight[i] * input[upper[i]].

    `lower` (never decreasing) and `upper` are int64, neighbours or, at the border, equal; the weights are float32 and
    sum to 1.
    """

    lower: np.ndarray
    upper: np.ndarray
    lower_weight: np.ndarray
    upper_weight: np.ndarray

    def __len__(self) -> int:
        return len(self.lower)

    def part(self, first: int, stop: int, shift: int = 0) -> Self:
        """Return the taps of outputs `first` to `stop` - 1, for an input that starts at `shift`."""
        cut = slice(first, stop)
        lower, upper = self.lower[cut] - shift, self.upper[cut] - shift
        return type(self)(lower, upper, self.lower_weight[cut], self.upper_weight[cut])

    def readers(self, start: int, stop: int, *, to_the_end: bool) -> tuple[int, int]:
        """Return (first, stop) of the outputs between input points `start` and `stop` - 1.

        `to_the_end` adds the outputs beyond the last of these points.
        """
        first, beyond = np.searchsorted(self.lower, (start, stop if to_the_end else stop - 1))
        return int(first), int(beyond)


def linear_taps(n_in: int, n_out: int, *, align_corners: bool = False) -> Taps:
    """Return what linear interpolation from n_in to n_out points reads, the same as torch to the last bit.

    `align_corners`: see `resize_argmax`. torch computes positions in float32 with a fused multiply-add, which rounds
    once; computing in float64 and rounding once gives the same numbers.
    """
    index = np.arange(n_out, dtype=np.float64)
    if n_in == n_out:
        position = index
    elif align_corners:
        position = index * (np.float32(n_in - 1) / np.float32(max(n_out - 1, 1)))
    else:
        position = np.maximum((index + 0.5) * (np.float32(n_in) / np.float32(n_out)) - 0.5, 0)
    position = position.astype(np.float32)
    lower = np.minimum(position.astype(np.int64), n_in - 1)
    upper_weight = np.clip(position - lower.astype(np.float32), np.float32(0), np.float32(1))
    return Taps(lower, np.minimum(lower + 1, n_in - 1), np.float32(1) - upper_weight, upper_weight)
