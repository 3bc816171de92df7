"""Mean and standard deviation of grey values, for one array or many together.

Moments add up: the sum of the moments of two arrays is the moments of both together. So a data set of any size can be
normalised by numbers gathered case by case.
Reference: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance".
"""

import math
from dataclasses import dataclass

import numpy as np

_PIECE = 1 << 20  # voxels converted to float64 at a time


@dataclass(frozen=True)
class Moments:
    """The count, the mean and the sum of squared deviations from it, of some values; `Moments()` is that of none."""

    count: int = 0
    mean: float = 0.0
    squared_deviations: float = 0.0

    @classmethod
    def of(cls, array: np.ndarray) -> "Moments":
        """Return the moments of an array of any shape and dtype, summed piece by piece in float64."""
        if not array.size:
            return cls()
        mean, flat = float(array.mean(dtype=np.float64)), array.reshape(-1)
        pieces = (flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE))
        return cls(array.size, mean, sum(float(np.square(piece - np.float64(mean)).sum()) for piece in pieces))

    @property
    def sd(self) -> float:
        """The (population) standard deviation; ValueError if there are no values."""
        if not self.count:
            raise ValueError("mean and SD must be taken over at least one voxel, got none")
        return math.sqrt(self.squared_deviations / self.count)

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of values together."""
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.squared_deviations + other.squared_deviations + apart**2 * self.count * (other.count / count),
        )
