"""What is done to a CT before a net sees it: foreground, HU window, spacing, normalisation (paper 2.1).

The order is clip, resample, normalise. Clipping comes first so that padding of -3024 HU cannot bleed into its
neighbours; normalisation comes last so that mean and SD are those of the voxels the net sees.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from flare_lib.ct.moments import Moments
from flare_lib.ct.resample import Window, check_window, resample_volume
from flare_lib.ct.roi import Box, bounding_box
from flare_lib.ct.volume import Triple, Volume, check_spacing

WINDOW_HU: Window = (-325.0, 325.0)
FOREGROUND_HU = -325.0


def find_foreground(array_zyx: np.ndarray, threshold_hu: float = FOREGROUND_HU) -> Box:
    """Return the box around all voxels of at least `threshold_hu`; the whole volume if there are none (paper 2.1).

    Raises ValueError for NaN, which lies on neither side of any threshold and spreads through whatever is computed.
    """
    if array_zyx.dtype.kind == "f" and np.isnan(array_zyx.max()):
        raise ValueError(
            f"array_zyx must be a CT without NaN, got {np.count_nonzero(np.isnan(array_zyx))} voxels of it (padding "
            "must be a number, too: -1024 HU)"
        )
    return bounding_box(array_zyx >= threshold_hu) or Box((0, 0, 0), array_zyx.shape)


def clip_hu(array: np.ndarray, window_hu: Window = WINDOW_HU) -> np.ndarray:
    """Return a copy with every value inside [low, high] HU, of any shape.

    Integers stay integers if both ends are whole numbers; otherwise the result is float32. Raises ValueError unless
    low < high.
    """
    check_window(window_hu)
    low, high = window_hu
    if np.issubdtype(array.dtype, np.integer) and float(low).is_integer() and float(high).is_integer():
        return np.clip(array, int(low), int(high))
    return np.clip(array.astype(np.float32, copy=False), np.float32(low), np.float32(high))


def normalize(array: np.ndarray, mean_hu: float, sd_hu: float) -> np.ndarray:
    """Return (array - mean) / SD, any shape, as a new float32 array; ValueError unless the SD is above 0."""
    if not sd_hu > 0:
        raise ValueError(f"sd_hu must be above 0, got {sd_hu}")
    normalized = array.astype(np.float32)
    normalized -= np.float32(mean_hu)
    normalized /= np.float32(sd_hu)
    return normalized


@dataclass(frozen=True)
class Preprocessing:
    """How a CT becomes a net's input; stored with the net's weights (paper 2.1, 4.5).

    `spacing_zyx_mm`: the net's spacing; `window_hu`: (low, high); `mean_hu` and `sd_hu`: those of the training set for
    *global* normalisation, or both None for *individual* normalisation by each CT's own. Raises ValueError for
    impossible values.
    """

    spacing_zyx_mm: Triple
    window_hu: Window = WINDOW_HU
    mean_hu: float | None = None
    sd_hu: float | None = None

    def __post_init__(self) -> None:
        check_spacing(self.spacing_zyx_mm)
        check_window(self.window_hu)
        # JSON's lists become tuples again
        object.__setattr__(self, "spacing_zyx_mm", tuple(float(s) for s in self.spacing_zyx_mm))
        object.__setattr__(self, "window_hu", tuple(float(end) for end in self.window_hu))
        if (self.mean_hu is None) != (self.sd_hu is None):
            raise ValueError(f"mean_hu and sd_hu must both be given or both be None, got {self.mean_hu}, {self.sd_hu}")
        if self.mean_hu is None or self.sd_hu is None:
            return
        if not (math.isfinite(self.mean_hu) and 0 < self.sd_hu < math.inf):
            raise ValueError(f"mean_hu must be finite and sd_hu above 0, got {self.mean_hu} and {self.sd_hu}")

    def apply(self, volume: Volume) -> Volume:
        """Return a CT in HU clipped, resampled and normalised: float32, at the spacing actually reached.

        A CT that is constant within the window has no contrast to normalise by: with individual normalisation it
        becomes 0 everywhere. Needs memory for the result and one copy of it, whatever the size of the CT. The volume
        returned has no file grid.
        """
        resampled = resample_volume(volume, self.spacing_zyx_mm, window_hu=self.window_hu)
        if self.mean_hu is not None and self.sd_hu is not None:
            return resampled.with_array(normalize(resampled.array_zyx, self.mean_hu, self.sd_hu))
        own = Moments.of(resampled.array_zyx)
        return resampled.with_array(normalize(resampled.array_zyx, own.mean, own.sd or 1.0))

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe in a form that JSON can hold: lists, numbers and None."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, recipe: dict[str, Any]) -> "Preprocessing":
        """Return the recipe that `to_dict` wrote; ValueError if a key is missing or unknown."""
        names = {field.name for field in fields(cls)}
        if set(recipe) != names:
            raise ValueError(f"a preprocessing must have the keys {sorted(names)}, got {sorted(recipe)}")
        return cls(**recipe)


COARSE = Preprocessing((3.0, 2.0, 2.0))
FINE = Preprocessing((2.0, 1.5, 1.5), mean_hu=105.02439, sd_hu=81.73703)
