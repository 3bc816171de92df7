"""Anatomy as a map of named structures: the shapes behind a painted CT.

A `Structures` holds an id for every voxel and a name for every id. The names are TotalSegmentator's
("kidney_right", ...), so that its public label maps can be read directly, plus a few for what those maps leave out
(fat, skin, ...). `painting` paints grey values over it.
"""

from dataclasses import dataclass

import numpy as np

from flare_lib.ct.labels import ORGANS
from flare_lib.ct.volume import Triple

# FLARE's organs under TotalSegmentator's names, in FLARE's order
ORGAN_STRUCTURES: tuple[str, ...] = (
    "liver",
    "kidney_right",
    "spleen",
    "pancreas",
    "aorta",
    "inferior_vena_cava",
    "adrenal_gland_right",
    "adrenal_gland_left",
    "gallbladder",
    "esophagus",
    "stomach",
    "duodenum",
    "kidney_left",
)
UNLABELLED = "unlabelled"  # inside the body, but not said what: fat with vessels, mesentery, muscle


@dataclass(frozen=True)
class Structures:
    """A map of named structures, canonical (RAS+), ZYX.

    `array_zyx` uint8 ids, `names` {id: name} of every id that occurs, `spacing_zyx_mm`.
    Raises ValueError when the array is not uint8, does not have three axes or holds an id without a name.
    """

    array_zyx: np.ndarray
    names: dict[int, str]
    spacing_zyx_mm: Triple

    def __post_init__(self) -> None:
        if self.array_zyx.ndim != 3 or self.array_zyx.dtype != np.uint8:
            raise ValueError(
                f"array_zyx must be uint8 with 3 axes, got {self.array_zyx.dtype} of shape {self.array_zyx.shape}"
            )
        present = np.flatnonzero(np.bincount(self.array_zyx.reshape(-1), minlength=256))
        nameless = [int(i) for i in present if int(i) not in self.names]
        if nameless:
            raise ValueError(f"every id must have a name, got none for {nameless}")

    @property
    def by_name(self) -> dict[str, int]:
        """The id of every name: {name: id}."""
        return {name: i for i, name in self.names.items()}

    def ids(self, *prefixes: str) -> list[int]:
        """Return the ids whose names start with one of the prefixes."""
        return [i for i, name in self.names.items() if name.startswith(prefixes)]

    def mask(self, *prefixes: str) -> np.ndarray:
        """Return the boolean mask of the structures whose names start with one of the prefixes."""
        table = np.zeros(256, dtype=bool)
        table[self.ids(*prefixes)] = True
        return table[self.array_zyx]


def organ_labels(structures: Structures) -> np.ndarray:
    """Return the FLARE label map (uint8, ZYX) of a structure map: 0 wherever there is none of the 13 organs."""
    table = np.zeros(256, dtype=np.uint8)
    ids = structures.by_name
    for organ, name in zip(ORGANS, ORGAN_STRUCTURES, strict=True):
        if name in ids:
            table[ids[name]] = organ.id
    return table[structures.array_zyx]
