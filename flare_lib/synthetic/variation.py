"""How one person's organs differ from the next one's: grown here, shrunk there, or removed by a surgeon.

The label maps of a few people hold few shapes of small organs, and deforming the whole trunk hardly changes them.
"""

import math
from collections.abc import Mapping

import numpy as np

from flare_lib.synthetic.structures import UNLABELLED, Structures


def draw_growths(
    places_zyx_mm: np.ndarray,
    rng: np.random.Generator,
    *,
    mean_number: float,
    reach_mm: tuple[float, float] = (6.0, 45.0),
    factors: tuple[float, float] = (0.6, 1.6),
) -> np.ndarray:
    """Draw where a person grows or shrinks, for `deformation.deform`: float64 (n, 5), z, y, x, reach in mm, factor.

    Each lies at one of the given places, (k, 3); their number is Poisson distributed with mean `mean_number`.
    `reach_mm`: range of the SD of the bell-shaped region that grows; `factors`: range of the enlargement at its centre,
    as a ratio of lengths. Both are drawn evenly on a logarithmic scale. Without places there are none.
    """
    n = rng.poisson(mean_number) if len(places_zyx_mm) else 0
    growths = np.empty((n, 5))
    if n:
        growths[:, :3] = places_zyx_mm[rng.integers(len(places_zyx_mm), size=n)]
        for column, (low, high) in ((3, reach_mm), (4, factors)):
            growths[:, column] = np.exp(rng.uniform(math.log(low), math.log(high), n))
    return growths


def remove_organs(structures: Structures, rng: np.random.Generator, probabilities: Mapping[str, float]) -> Structures:
    """Return the person without some structures: each is removed with its own probability, {name: probability}.

    Fat takes the place of a removed structure, or "unlabelled" in a map that names no fat. Names that the map does not
    have are skipped. Raises ValueError for a map that names neither filling.
    """
    ids = structures.by_name
    gone = [ids[name] for name, p in probabilities.items() if name in ids and rng.random() < p]
    if not gone:
        return structures
    filling = next((ids[name] for name in ("fat", UNLABELLED) if name in ids), None)
    if filling is None:
        raise ValueError(f"a map whose organs are removed must name fat or {UNLABELLED}, got {sorted(ids)}")
    table = np.arange(256, dtype=np.uint8)
    table[gone] = filling
    return Structures(table[structures.array_zyx], structures.names, structures.spacing_zyx_mm)
