"""A CT painted over a map of structures: one person's grey values, drawn at random within physiological limits.

    structures -> tissues -> textures -> contents of hollow organs -> lesions -> scanner -> HU

Every step is a function of the structure map and a generator; `tissues` says what tissues look like. Networks trained
only on such images work on real CTs if the ranges are wide enough (domain randomisation, Tobin et al. 2017; SynthSeg,
Billot et al. 2023).
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from flare_lib.synthetic.deformation import smooth_field
from flare_lib.synthetic.structures import UNLABELLED, Structures
from flare_lib.synthetic.tissues import PHASE_PROBABILITIES, blood_of, draw_tissues, is_bone

NOISE_HU = (3.0, 25.0)
_HOLLOW = ("stomach", "colon", "small_bowel", "duodenum", "esophagus")


def paint(
    structures: Structures,
    rng: np.random.Generator,
    *,
    noise_hu: tuple[float, float] = NOISE_HU,
    blur_mm: tuple[float, float] = (0.3, 1.6),
    padding_probability: float = 0.15,
    phases: Sequence[float] = PHASE_PROBABILITIES,
    lesion_probability: float = 0.4,
) -> np.ndarray:
    """Paint a CT over a structure map.

    Returns int16 HU on the same grid (ZYX). All randomness comes from `rng`: the same state gives the same CT.
    `noise_hu`: range of the noise SD; `blur_mm`: range of the in-plane SD of the scanner's point spread (the slice
    thickness adds to it along z); `padding_probability`: how often the area outside the round field of view is filled
    with -1024 or -3024; `phases`: the probabilities of the contrast phases (`tissues.PHASES`); `lesion_probability`:
    how often each of liver, spleen, kidneys and pancreas has cysts or tumours.
    """
    ids = structures.array_zyx
    mean, texture = draw_tissues(structures.names, rng, phases=phases)
    shape, spacing = ids.shape, structures.spacing_zyx_mm
    fine = smooth_field(rng, shape, spacing, max(rng.uniform(5, 14), 1.2 * max(spacing)))
    broad = smooth_field(rng, shape, spacing, rng.uniform(20, 45))
    hu = mean[ids] + texture[ids] * (0.7 * fine + 0.7 * broad)
    tubes = _tubes(rng, shape, spacing)
    edge = _edge(ids)
    _paint_bone(hu, structures, edge, rng)
    blood_hu = blood_of(structures.names, mean)
    _paint_between_organs(hu, structures, fine, broad, tubes, blood_hu, rng)
    _paint_liver(hu, structures, tubes, blood_hu, rng)
    _paint_kidneys(hu, structures, fine, rng)
    _paint_heart(hu, structures, broad, rng)
    _paint_lungs(hu, structures, fine, tubes, rng)
    _paint_pancreas(hu, structures, rng)
    for organ in _HOLLOW:
        _paint_contents(hu, structures, organ, edge, fine, broad, rng)
    for organ in ("liver", "spleen", "kidney", "pancreas"):
        _paint_lesions(hu, structures, organ, rng, lesion_probability)
    _paint_outside(hu, structures, rng)
    return _scan(hu, spacing, rng, noise_hu, blur_mm, padding_probability)


def _tubes(rng: np.random.Generator, shape: Sequence[int], spacing_zyx_mm: Sequence[float]) -> np.ndarray:
    """Return the approximate distance (mm) of every voxel from the nearest of many random curves, used as vessels.

    There is a curve wherever two smooth random fields are both 0; near it, both grow in proportion to the distance.
    """
    scale_mm = max(rng.uniform(22, 40), 3.0 * max(spacing_zyx_mm))
    first, second = (smooth_field(rng, shape, spacing_zyx_mm, scale_mm) for _ in range(2))
    return np.hypot(first, second) * (scale_mm / 1.5)


def _edge(ids: np.ndarray) -> np.ndarray:
    """Mark voxels with a different structure among their four in-plane neighbours (walls, cortical bone)."""
    edge = np.zeros(ids.shape, dtype=bool)
    for axis in (1, 2):
        differs = np.diff(ids, axis=axis) != 0
        first = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        second = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        edge[first] |= differs
        edge[second] |= differs
    return edge


def _paint_bone(hu: np.ndarray, structures: Structures, edge: np.ndarray, rng: np.random.Generator) -> None:
    """Give bones a cortex that is brighter than their marrow."""
    table = np.zeros(256, dtype=bool)
    for i, name in structures.names.items():
        table[i] = is_bone(name)
    bone = table[structures.array_zyx]
    hu[bone & edge] += rng.uniform(80, 450)


def _paint_between_organs(
    hu: np.ndarray,
    structures: Structures,
    fine: np.ndarray,
    broad: np.ndarray,
    tubes: np.ndarray,
    blood_hu: float,
    rng: np.random.Generator,
) -> None:
    """Scatter vessels, lymph nodes and stray muscle through the fat between the organs, where nothing is labelled.

    Vessels are as bright as this person's blood, and less so where they are thinner than a voxel.
    """
    between = structures.mask(UNLABELLED)
    tissue = between & (0.75 * fine + 0.65 * broad > rng.uniform(-0.4, 1.6))
    hu[tissue] = rng.uniform(25, 60) + 12 * fine[tissue]
    nodes = between & (fine > rng.uniform(1.6, 2.4))
    hu[nodes] = rng.uniform(30, max(60.0, blood_hu))
    vessels = between & (tubes < rng.uniform(1, 4))
    hu[vessels] = rng.uniform(20, blood_hu + 15)
    fibres = structures.mask("fat") & (fine > rng.uniform(1.8, 3.0))
    hu[fibres] += rng.uniform(20, 90)


def _paint_kidneys(hu: np.ndarray, structures: Structures, fine: np.ndarray, rng: np.random.Generator) -> None:
    """Distinguish medulla from cortex, which takes up contrast first, and sometimes show the collecting system."""
    kidneys = structures.mask("kidney")
    medulla = kidneys & (fine > rng.uniform(0.0, 1.0))
    enhancement = max(0.0, float(hu[kidneys].mean()) - 30) if kidneys.any() else 0.0
    hu[medulla] += rng.uniform(-0.6, 0.2) * enhancement
    if rng.random() < 0.3:
        calyces = kidneys & (fine > rng.uniform(1.4, 2.2))
        hu[calyces] = rng.uniform(0, 20) if rng.random() < 0.6 else rng.uniform(200, 500)


def _paint_pancreas(hu: np.ndarray, structures: Structures, rng: np.random.Generator) -> None:
    """Let fat grow between the lobules of some people's pancreas, until the vein behind it is brighter even unenhanced.

    Older people have it often; without it, a net takes the bright portal vein for a pancreas that is darker than it
    ever saw.
    """
    pancreas = structures.mask("pancreas")
    if not pancreas.any() or rng.random() < 0.6:
        return
    scale_mm = max(rng.uniform(3, 8), 1.2 * max(structures.spacing_zyx_mm))
    lobules = smooth_field(rng, hu.shape, structures.spacing_zyx_mm, scale_mm)[pancreas]
    fat = np.clip(rng.uniform(0.1, 0.5) + rng.uniform(0.1, 0.25) * lobules, 0, 0.9)
    hu[pancreas] += fat * (rng.uniform(-105, -80) - hu[pancreas])


def _paint_liver(
    hu: np.ndarray, structures: Structures, tubes: np.ndarray, blood_hu: float, rng: np.random.Generator
) -> None:
    """Run veins through the liver: darker than it without contrast agent, brighter with it or in a fatty liver."""
    liver = structures.mask("liver")
    veins = liver & (tubes < rng.uniform(0, 4.5))
    share = rng.uniform(-0.1, 0.8)  # of the way to blood: a thin vein does not fill a voxel
    hu[veins] += share * (blood_hu - float(hu[liver].mean()) if liver.any() else 0.0)


def _paint_heart(hu: np.ndarray, structures: Structures, broad: np.ndarray, rng: np.random.Generator) -> None:
    """Distinguish heart muscle from the blood in its chambers."""
    heart = structures.mask("heart") & (broad > rng.uniform(-0.3, 0.6))
    blood = float(hu[heart].mean()) if heart.any() else 0.0
    hu[heart] -= max(0.0, blood - rng.uniform(60, 110)) * rng.uniform(0.5, 1.0)


def _paint_lungs(
    hu: np.ndarray, structures: Structures, fine: np.ndarray, tubes: np.ndarray, rng: np.random.Generator
) -> None:
    """Put vessels into the lungs, and sometimes fluid or collapsed lung at the back."""
    lungs = structures.mask("lung")
    vessels = lungs & ((tubes < rng.uniform(0.5, 3)) | (fine > rng.uniform(1.6, 3.0)))
    hu[vessels] = rng.uniform(-500, 60)
    if lungs.any() and rng.random() < 0.3:
        rows = np.arange(hu.shape[1], dtype=np.float32)[None, :, None] * structures.spacing_zyx_mm[1]
        back = float(rows[0, np.flatnonzero(lungs.any(axis=(0, 2)))[0], 0])
        dependent = lungs & (rows - back + 12 * fine < rng.uniform(5, 45))
        hu[dependent] = rng.uniform(-300, 60) + 15 * fine[dependent]


def _paint_contents(
    hu: np.ndarray,
    structures: Structures,
    organ: str,
    edge: np.ndarray,
    fine: np.ndarray,
    broad: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Fill a hollow organ: wall, then fluid, food or stool, then gas, which rises to the front of a supine patient."""
    organ_mask = structures.mask(organ)
    if not organ_mask.any():
        return
    inside = organ_mask & ~edge
    if organ in ("duodenum", "esophagus", "small_bowel") or rng.random() < 0.1:
        inside &= broad > rng.uniform(-1.5, 1.2)  # collapsed in places: wall against wall
    rows = np.arange(hu.shape[1], dtype=np.float32)[None, :, None] * structures.spacing_zyx_mm[1]
    kind = rng.random()
    if kind < 0.55:
        fill = rng.uniform(-5, 35) + 5 * fine
    elif kind < 0.85:
        fill = rng.uniform(10, 70) + rng.uniform(10, 50) * fine  # food, stool
    else:
        fill = rng.uniform(80, 500) + 20 * fine  # positive oral contrast
    hu[inside] = fill[inside]
    if organ == "colon":
        bubbles = inside & (fine > rng.uniform(0.3, 2.5))
        hu[bubbles] = rng.uniform(-900, -100)
    gas_share = {"stomach": 0.45, "colon": 0.8, "small_bowel": 0.25, "duodenum": 0.2, "esophagus": 0.3}[organ]
    where = np.nonzero(inside)
    if where[0].size and rng.random() < 0.85:
        height = rows[0, where[1], 0] + rng.uniform(2, 60) * broad[where]
        level = np.quantile(height, 1 - rng.uniform(0, gas_share))
        top = tuple(axis[height > level] for axis in where)
        hu[top] = rng.uniform(-1000, -850)


def _paint_lesions(
    hu: np.ndarray, structures: Structures, organ: str, rng: np.random.Generator, probability: float
) -> None:
    """Put cysts and tumours (ellipsoids with soft edges, 3-25 mm in radius) into an organ of some people."""
    where = np.argwhere(structures.mask(organ)) if rng.random() < probability else np.empty((0, 3), int)
    if not len(where):
        return
    spacing = np.asarray(structures.spacing_zyx_mm)
    belongs = np.zeros(256, dtype=bool)
    belongs[structures.ids(organ)] = True
    for _ in range(rng.integers(1, 6)):
        center = where[rng.integers(len(where))]
        radius_mm = rng.uniform(3, 25, 1) * rng.uniform(0.7, 1.3, 3)
        reach = np.ceil(radius_mm / spacing).astype(int)
        box = tuple(slice(max(0, c - r), c + r + 1) for c, r in zip(center, reach, strict=True))
        grid = np.meshgrid(
            *(np.arange(b.start, min(b.stop, n)) for b, n in zip(box, hu.shape, strict=True)), indexing="ij"
        )
        distance = sum(((g - c) * s / r) ** 2 for g, c, s, r in zip(grid, center, spacing, radius_mm, strict=True))
        lesion = (distance < 1) & belongs[structures.array_zyx[box]]
        if rng.random() < 0.4:
            hu[box][lesion] = rng.uniform(-5, 25)  # cyst
        else:
            hu[box][lesion] += rng.uniform(-70, 50)


def _paint_outside(hu: np.ndarray, structures: Structures, rng: np.random.Generator) -> None:
    """Lay most people on a table: a thin, slightly curved sheet below the back."""
    air = structures.mask("air")
    body_rows = np.flatnonzero(~air.all(axis=(0, 2)))
    if rng.random() < 0.35 or not body_rows.size:
        return
    _, dy, dx = structures.spacing_zyx_mm
    across_mm = (np.arange(hu.shape[2]) - hu.shape[2] / 2) * dx
    below_mm = rng.uniform(2, 25) - rng.uniform(0, 8e-4) * across_mm**2
    top = (body_rows[0] * dy - below_mm)[None, None, :]
    depth = top - (np.arange(hu.shape[1]) * dy)[None, :, None]
    sheet = (depth >= 0) & (depth < max(dy, rng.uniform(2, 8))) & (np.abs(across_mm) < rng.uniform(180, 260))
    hu[air & sheet] = rng.uniform(-850, 100)


def _scan(
    hu: np.ndarray,
    spacing_zyx_mm: Sequence[float],
    rng: np.random.Generator,
    noise_hu: tuple[float, float],
    blur_mm: tuple[float, float],
    padding_probability: float,
) -> np.ndarray:
    """Image the painted body as a scanner would: blur, slice thickness, grain, a little shading, a round field."""
    in_plane_mm = rng.uniform(*blur_mm)
    along_mm = np.hypot(in_plane_mm, rng.uniform(0, 2.2))
    sigma = np.array([along_mm, in_plane_mm, in_plane_mm]) / spacing_zyx_mm
    hu = ndimage.gaussian_filter(hu, sigma, truncate=3.0)
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = rng.uniform(0.2, 0.8)
    if rng.random() < 0.5:
        noise = ndimage.gaussian_filter(noise, (0, grain, grain), truncate=3.0)
        noise /= noise.std() + 1e-6
    hu += rng.uniform(*noise_hu) * noise
    hu += rng.uniform(0, 8) * smooth_field(rng, hu.shape, spacing_zyx_mm, 120.0)
    np.clip(hu, -1024, 3071, out=hu)
    if rng.random() < padding_probability:
        _, ny, nx = hu.shape
        y = (np.arange(ny) + 0.5) / ny * 2 - 1
        x = (np.arange(nx) + 0.5) / nx * 2 - 1
        rim = rng.uniform(0.95, 1.15)
        hu[:, y[:, None] ** 2 + x[None, :] ** 2 > rim**2] = rng.choice([-1024, -3024])
    return np.rint(hu).astype(np.int16)
