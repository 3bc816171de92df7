"""Which volume each slice of a DICOM series belongs to: a series may hold several, or show several people.

The slices of phases, gates or reconstructions share places or lie between one another's: they are split by the first
element that tells them apart. Anonymisers may give several people or studies one series UID: their slices are split by
patient and study, of which nothing but hashes is known (`dicom_headers`).
"""

from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from flare_lib.ct.dicom_headers import Header, plain_text
from flare_lib.ct.dicom_stack import place_slices

# What tells the volumes of one series apart, the surest first, and what it is called.
_TELLS_APART = {
    "StackID": "stack",
    "TemporalPositionIdentifier": "phase",
    "NominalPercentageOfCardiacPhase": "percent of the heart cycle",
    "TriggerTime": "trigger time",
    "AcquisitionNumber": "acquisition",
    "ConvolutionKernel": "kernel",
    "KVP": "kV",
    "ImageType": "image type",
    "AcquisitionTime": "acquisition time",
}


def by_person(slices: list[Header]) -> list[list[Header]]:
    """Return slices by the patient and the study that they name, in the order of the files; often one group.

    What some slices do not say tells nobody apart, unless the others contradict one another, and neither does what is
    another in nearly every slice: some writers draw a new study, or a new name to hide the true one, for each file.
    """
    shown = [header.shows for header in slices]
    telling = [i for i, named in enumerate(zip(*shown, strict=True)) if _tells_apart([who for who in named if who])]
    groups = defaultdict(list)
    for header, who in zip(slices, shown, strict=True):
        groups[tuple(who[i] for i in telling)].append(header)
    return list(groups.values())


def _tells_apart(named: list[int]) -> bool:
    """Return whether these are a few people, each with slices of their own, rather than a name for every slice."""
    n = len({*named})
    return 1 < n < len(named) and n <= max(2, len(named) // 2)


def by_volume(slices: list[Header], path: Path) -> dict[str, list[Header]]:
    """Return {what sets it apart: slices} for each volume of a series; {"": slices} for one that cannot be split."""
    clash = _clash(slices)
    for keyword, words in _TELLS_APART.items():
        groups = defaultdict(list)
        for header in slices:
            value: Any = header.value(keyword)
            values = value if isinstance(value, list | tuple) or hasattr(value, "append") else [value]
            groups[plain_text("/".join(map(_in_words, values)), "none")].append(header)
        several = len(groups) > 1 and all(len(group) > 1 and not _clash(group) for group in groups.values())
        if several and (clash or _interlace([*groups.values()], path)):
            return {f"{words} {value}": groups[value] for value in sorted(groups, key=_as_number)}
    return {"": slices}


def _clash(slices: list[Header]) -> bool:
    """Return whether two different images lie in the same place."""
    try:
        places = {
            (str(h.value("SOPInstanceUID") or h), h.frame): np.round(h.numbers("ImagePositionPatient", 3), 2).tobytes()
            for h in slices
        }
    except ValueError:
        return False
    return max(Counter(places.values()).values(), default=0) > 1


def _interlace(groups: list[list[Header]], path: Path) -> bool:
    """Return whether these are whole stacks, and one begins before another ends.

    Two reconstructions half a slice apart may look like one CT of thinner slices.
    """
    try:
        stacks = [place_slices(group, path) for group in groups]
    except ValueError:
        return False
    along = stacks[0].affine[:3, 2]
    ends = sorted(
        sorted(float(along @ stack.slices[k].numbers("ImagePositionPatient", 3)) for k in (0, -1)) for stack in stacks
    )
    return any(start < stop for (_, stop), (start, _) in pairwise(ends))


def _in_words(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value or "none")


def _as_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
