"""A body around labelled organs: abdominal wall, fat and skin for a label map that has none of them."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from flare_lib.synthetic.deformation import smooth_field
from flare_lib.synthetic.structures import UNLABELLED, Structures


def complete_body(
    structures: Structures,
    rng: np.random.Generator,
    *,
    closing_mm: float = 60.0,
    muscle_mm: tuple[float, float] = (4.0, 12.0),
    fat_mm: tuple[float, float] = (4.0, 40.0),
    work_spacing_mm: float = 4.0,
) -> Structures:
    """Give a label map whose id 0 means "nothing known" a body around its structures.

    The body is the morphological closing of everything that is labelled. Around it come a layer of muscle (abdominal
    wall), a layer of fat whose thickness varies smoothly round the trunk, and the skin; inside it, whatever has no
    label becomes "unlabelled", or "muscle" if close to a rib. Beyond is "air". Thicknesses are drawn from the given
    ranges, in mm. The grid grows in the plane to hold the new layers; ids 250 to 254 are given to them. Distances are
    computed on a grid of `work_spacing_mm` and interpolated back (trilinear). Raises ValueError if nothing is labelled.
    """
    if not structures.array_zyx.any():
        raise ValueError("a label map must hold at least one structure to have a body completed around it, got none")
    room = [0, *(round((muscle_mm[1] + fat_mm[1]) / s) for s in structures.spacing_zyx_mm[1:])]
    wide = np.pad(structures.array_zyx, [(r, r) for r in room])
    structures = Structures(wide, structures.names, structures.spacing_zyx_mm)
    labelled = wide > 0
    names = dict(structures.names) | {
        250 + i: name for i, name in enumerate(("muscle", "fat", "skin", UNLABELLED, "air"))
    }
    by_name = {name: i for i, name in names.items()}
    step = [max(1, round(work_spacing_mm / s)) for s in structures.spacing_zyx_mm]
    work_mm = np.asarray(step) * structures.spacing_zyx_mm
    coarse = tuple(slice(n // 2, None, n) for n in step)
    pad = [(int(closing_mm / mm) + 2,) * 2 for mm in work_mm]
    # along the first axis the shape is continued, not closed: the scan ends there, but the body does not
    mask = np.pad(np.pad(labelled[coarse], [pad[0], (0, 0), (0, 0)], mode="edge"), [(0, 0), pad[1], pad[2]])
    dilated = ndimage.distance_transform_edt(~mask, sampling=work_mm) <= closing_mm
    closed = ndimage.distance_transform_edt(dilated, sampling=work_mm) > closing_mm
    outside_mm = ndimage.distance_transform_edt(~closed, sampling=work_mm)
    inner = tuple(slice(p[0], -p[1]) for p in pad)
    rib_mm = ndimage.distance_transform_edt(~structures.mask("rib_", "costal", "sternum")[coarse], sampling=work_mm)

    shape = structures.array_zyx.shape
    depth = _enlarge(outside_mm[inner], shape)  # mm outside the closed trunk, 0 inside
    muscle = rng.uniform(*muscle_mm)
    swell = smooth_field(rng, shape, structures.spacing_zyx_mm, 150.0)
    fat = muscle + rng.uniform(*fat_mm) * np.clip(1 + 0.35 * swell, 0.2, 2.0)
    array = np.full(shape, by_name["air"], dtype=np.uint8)
    array[depth < fat + 2.0] = by_name["skin"]
    array[depth < fat] = by_name["fat"]
    array[depth < muscle] = by_name["muscle"]
    array[depth < 1.0] = by_name[UNLABELLED]
    array[(depth < 1.0) & (_enlarge(rib_mm, shape) < 9.0)] = by_name["muscle"]
    array[labelled] = structures.array_zyx[labelled]
    return Structures(array, names, structures.spacing_zyx_mm)


def _enlarge(field: np.ndarray, shape_zyx: Sequence[int]) -> np.ndarray:
    """Interpolate a smooth field to a finer grid (trilinear, float32)."""
    factors = [n / m for n, m in zip(shape_zyx, field.shape, strict=True)]
    return ndimage.zoom(field.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
