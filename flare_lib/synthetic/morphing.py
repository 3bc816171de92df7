"""People between people: one person's anatomy, moved part of the way towards another's.

A few label maps hold few shapes, and a random deformation adds none: it moves a stomach, but never turns it into the
next person's. Here two maps are registered, structure to structure (`registration`), and the displacement found is
applied in part.
"""

import hashlib
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy import ndimage

from flare_lib.machine.atomic_write import atomic_write
from flare_lib.machine.progress import Progress
from flare_lib.synthetic.registration import Correspondence, correspondence
from flare_lib.synthetic.structures import Structures

FRACTIONS = (0.35, 0.8)  # of the way: nearer than that, it is one of the two people
_FORMAT = 2  # of the cache: increase it when a correspondence is found in another way


def people_between(
    people: Sequence[Structures],
    n: int,
    *,
    seed: int,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Structures]:
    """Return `n` people, each one person moved a random part of the way (`FRACTIONS`) towards another.

    Every ordered pair is used once before any is used again. Two people who have too little in common, say a head and
    an abdomen, do not make a pair; without any pair the list is empty. A pair takes about a minute on one core; its
    correspondence is kept in the folder `cache` for the next time.
    """
    rng = np.random.default_rng([seed, 0xB7])
    pairs = list(permutations(range(len(people)), 2))
    rng.shuffle(pairs)
    found: dict[tuple[int, int], Correspondence] = {}
    between: list[Structures] = []
    while pairs and len(between) < n:
        a, b = pair = pairs.pop(0)
        if pair not in found:
            try:
                found[pair] = _kept(people[a], people[b], cache)
            except ValueError:  # they have too little in common
                continue
        pairs.append(pair)
        between.append(morph(people[a], found[pair], rng.uniform(*FRACTIONS)))
        if progress:
            progress(len(between), n)
    return between


def _kept(person: Structures, other: Structures, cache: str | Path | None) -> Correspondence:
    """Return the correspondence of two people from the cache, computing and storing it if it is not there yet."""
    if cache is None:
        return correspondence(person, other)
    digest = hashlib.sha256(repr(_FORMAT).encode())
    for one in (person, other):
        digest.update(repr((one.array_zyx.shape, one.spacing_zyx_mm, sorted(one.names.items()))).encode())
        digest.update(one.array_zyx.tobytes())
    path = Path(cache) / f"{digest.hexdigest()[:16]}.npz"
    try:
        with np.load(path) as stored:
            overlap = dict(zip(stored["landmarks"].tolist(), stored["overlap"].tolist(), strict=True))
            return Correspondence(stored["shift_mm"], stored["start_mm"], float(stored["spacing_mm"]), overlap)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # not there yet, or damaged: made again
        pass
    made = correspondence(person, other)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished:
        np.savez(
            unfinished,
            shift_mm=made.shift_mm,
            start_mm=made.start_mm,
            spacing_mm=made.spacing_mm,
            landmarks=list(made.overlap),
            overlap=list(made.overlap.values()),
        )
    return made


def morph(person: Structures, towards: Correspondence, fraction: float) -> Structures:
    """Return `person` displaced by a fraction of the way: at 0 it is the same person, at 1 it has the other's shapes.

    Grid and names stay. Each voxel gets the id of the voxel that its displaced centre lies in, or of the nearest one if
    that is outside the map. The displacement is interpolated linearly; beyond its grid it is the nearest point's.
    """
    spacing, shape = person.spacing_zyx_mm, person.array_zyx.shape
    # where the voxels' centres lie among the grid's points, along each axis
    along = [
        ((np.arange(n) + 0.5) * mm - start) / towards.spacing_mm
        for n, mm, start in zip(shape, spacing, towards.start_mm, strict=True)
    ]
    in_plane = np.meshgrid(*along[1:], indexing="ij")
    rows, columns = np.arange(shape[1])[:, None], np.arange(shape[2])
    moved = np.empty(shape, np.uint8)
    for z in range(shape[0]):  # slice by slice: the displacement of a whole map would take twelve times its memory
        at = np.clip(along[0][z], 0, towards.shift_mm.shape[1] - 1)
        below = min(int(at), towards.shift_mm.shape[1] - 2) if towards.shift_mm.shape[1] > 1 else 0
        pair = towards.shift_mm[:, below : below + 2]
        plane = pair[:, 0] + (at - below) * (pair[:, -1] - pair[:, 0])
        shift = [ndimage.map_coordinates(part, in_plane, order=1, mode="nearest") for part in plane]
        source = [
            np.clip(np.floor(i + 0.5 + fraction * mm / size).astype(int), 0, n - 1)
            for i, mm, size, n in zip((np.array(z), rows, columns), shift, spacing, shape, strict=True)
        ]
        moved[z] = person.array_zyx[tuple(source)]
    return Structures(moved, person.names, person.spacing_zyx_mm)
