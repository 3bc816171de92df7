"""Doubts about a label map: organs on the wrong side, sizes that nobody has, an organ missing among its neighbours.

And doubts about its CT: one too coarse or too thin to recognise organs in, or whose header turns the person around.
Nothing is changed or refused: there are people without a spleen, with their heart on the right or with a kidney in the
pelvis. But a CT that is mirrored, upside down or not of an abdomen is more common, and is better noticed at once.
"""

import math

import numpy as np
from scipy import ndimage

from flare_lib.ct.border import cut_labels
from flare_lib.ct.hu import PADDING_HU
from flare_lib.ct.labels import N_CLASSES, ORGANS, as_label_map, organ, wrong_sides
from flare_lib.ct.volume import Triple, Volume

_LOOKED_AT_MM = 2.5  # finer than any organ, and hundreds of times quicker than looking at every voxel of a large CT
_TOO_SMALL_ML = 0.5  # to tell where an organ lies
_LARGE_SPLEEN = 0.75  # of the liver; the packaged nets found 0.96 and 1.3 in two mirrored CTs
_COARSEST_MM, _THINNEST_MM = 10.0, 20.0  # voxels; a scan
_ASKEW_DEGREES = 30.0  # further than training turns a person
_LAIN_OUT_MM = 4.0  # the grid on which bones are looked for
_BONE_HU, _BODY_HU = 300.0, -200.0
# Across: the diameter of a circle as large as the body. Three adults measure 243 to 312 mm. Shown at 0.7 of its size
# (204 mm), the CT of one lost .03 of its mean Dice, at 0.6 .07 and at 0.5 .32; nothing where nets saw it larger again.
_ADULT_MM, _SMALL_BODY_MM = 275.0, 200.0
MAX_SCALE = 3.0  # of `flare segment --scale`: more than a newborn needs
# How far the bones' centre lies off the body's, in the body's own SDs: in eight abdomens and chests 0.3 to 0.7 towards
# the back, where the spine is, and 0.1 at most to a side.
_TO_THE_FRONT, _TO_A_SIDE = 0.2, 0.25

# Least and most mL, generously: a small child or a shrunken organ, and one swollen by disease.
# ICRP Publication 89 (2002) gives an adult, in g: liver 1400-1800, a kidney 138-155, spleen 130-150, pancreas 120-140,
# an adrenal gland 6.5-7, gallbladder with bile 56-68, esophagus 35-40, stomach with its contents 370-400. For vessels
# and duodenum: what the label maps of two persons of the TotalSegmentator data set hold (aorta 227, vena cava 79-103,
# duodenum 47-62).
_VOLUMES_ML: dict[str, tuple[float, float]] = {
    "liver": (200, 6000),
    "right kidney": (15, 2500),
    "spleen": (10, 4000),
    "pancreas": (8, 400),
    "aorta": (8, 900),
    "inferior vena cava": (5, 400),
    "right adrenal gland": (0.4, 80),
    "left adrenal gland": (0.4, 80),
    "gallbladder": (1, 500),
    "esophagus": (2, 200),
    "stomach": (15, 3500),
    "duodenum": (6, 400),
    "left kidney": (15, 2500),
}

# An organ, and one above and one below (by their middles, whatever the posture) between which it should be found.
_BETWEEN = (
    ("liver", "esophagus", "right kidney"),
    ("spleen", "esophagus", "left kidney"),
    ("pancreas", "spleen", "left kidney"),
    ("aorta", "spleen", "left kidney"),
    ("inferior vena cava", "liver", "right kidney"),
    ("right adrenal gland", "liver", "right kidney"),
    ("left adrenal gland", "spleen", "left kidney"),
    ("gallbladder", "liver", "right kidney"),
    ("stomach", "spleen", "left kidney"),
    ("duodenum", "liver", "right kidney"),
    ("right kidney", "liver", "duodenum"),
    ("left kidney", "spleen", "duodenum"),
)


def anatomy_doubts(ct: Volume, label_map_zyx: np.ndarray, *, scale: float | None = 1.0) -> tuple[str, ...]:
    """Return doubts about a CT and its label map (0 to 13, its shape, canonical), one sentence each; often none.

    Volumes are estimated from a sparse grid of voxels (2.5 mm), to within a few percent. An organ that the scan cuts is
    doubted only if its volume is too large. `scale`: how much larger than it is the nets saw the body; None for nets
    that cannot see it larger, for which a small body is not doubted. Raises the errors of `as_label_map`.
    """
    label_map_zyx = as_label_map(label_map_zyx, "label_map_zyx", shape=ct.shape_zyx)
    # never beyond an axis: even a single slice is examined
    axes = zip(ct.spacing_zyx_mm, label_map_zyx.shape, strict=True)
    steps = tuple(max(1, min(int(_LOOKED_AT_MM / mm), n)) for mm, n in axes)
    looked_at = label_map_zyx[tuple(slice(n // 2, None, n) for n in steps)]
    per_slice = np.stack([np.bincount(labels.ravel(), minlength=N_CLASSES) for labels in looked_at])
    volumes_ml = per_slice.sum(axis=0) * (math.prod(steps) * ct.voxel_ml)
    if not volumes_ml[1:].any():
        return ("none of the 13 organs was found: does this CT show an abdomen?", *_scan(ct))
    heights = _heights(per_slice)
    seen = {o.name for o in ORGANS if volumes_ml[o.id] >= _TOO_SMALL_ML}
    cut = cut_labels(label_map_zyx, ct.array_zyx)
    return (
        *_sides(looked_at, seen),
        *_large_spleen(volumes_ml, cut),
        *_upside_down(heights, seen),
        *_sizes(volumes_ml, cut),
        *_missing(volumes_ml, heights, seen),
        *_scan(ct),
        *(_posture(ct) if "liver" in seen and seen & {"right kidney", "left kidney"} else ()),
        *(_small_body(ct, steps[0] // 2 + steps[0] * round(heights["liver"][1]), scale) if "liver" in seen else ()),
    )


def _scan(ct: Volume) -> list[str]:
    """Return what in a CT's grid makes its labels doubtful."""
    doubts = []
    if max(ct.spacing_zyx_mm) > _COARSEST_MM:
        spacing = " x ".join(f"{mm:.3g}" for mm in ct.spacing_zyx_mm)
        doubts.append(f"voxels of {spacing} mm (z, y, x) are too large to tell the organs apart")
    if (thinnest := min(ct.size_mm_zyx)) < _THINNEST_MM:
        doubts.append(f"the scan is only {thinnest:.3g} mm thick: organs are known by what surrounds them")
    directions = ct.affine[:3, :3] / np.linalg.norm(ct.affine[:3, :3], axis=0)
    askew = math.degrees(math.acos(min(1.0, np.diagonal(directions).min())))
    if askew > _ASKEW_DEGREES:
        doubts.append(f"the scan lies up to {askew:.0f} degrees askew in the person: the nets know upright ones")
    return doubts


def _posture(ct: Volume) -> list[str]:
    """Return a doubt if the bones lie where the spine is not: in front, or, in a body deeper than wide, to a side."""
    sparse = ct.array_zyx[tuple(slice(None, None, max(1, round(_LAIN_OUT_MM / mm))) for mm in ct.spacing_zyx_mm)]
    bone, body = sparse > _BONE_HU, sparse > _BODY_HU
    if not bone.any():
        return []
    off, widths_mm = [], []
    for axis, others in ((1, (0, 2)), (2, (0, 1))):  # y, x
        of_bone, of_body = bone.sum(axis=others), body.sum(axis=others)
        places = np.arange(len(of_body))
        middle = np.average(places, weights=of_body)
        sd = math.sqrt(np.average((places - middle) ** 2, weights=of_body)) or 1.0
        off.append((np.average(places, weights=of_bone) - middle) / sd)
        widths_mm.append(sd * ct.size_mm_zyx[axis] / len(of_body))
    (to_the_front, to_the_right), (depth, width) = off, widths_mm
    if to_the_front > _TO_THE_FRONT:
        return [
            "the bones lie in the front half of the body: does the header say correctly which way the person faces?"
        ]
    if depth > width and abs(to_the_right) > _TO_A_SIDE:
        return ["the bones lie on one side of the body: does the header say correctly which way the person faces?"]
    return []


def _small_body(ct: Volume, k: int, scale: float | None) -> list[str]:
    """Return a doubt if the nets saw a child's body, by its size in slice k; none if the field or the scan cuts it."""
    if scale is None or scale >= MAX_SCALE:  # there is nothing to advise
        return []
    _, *in_plane_mm = ct.spacing_zyx_mm
    steps = [max(1, round(_LAIN_OUT_MM / mm)) for mm in in_plane_mm]
    sparse = ct.array_zyx[k, :: steps[0], :: steps[1]]
    body = ndimage.binary_opening(sparse > _BODY_HU, iterations=2)  # without the table, thin and often beneath it
    pieces, n = ndimage.label(body)
    if not n:
        return []
    body = ndimage.binary_fill_holes(pieces == np.bincount(pieces[pieces > 0]).argmax())  # with its gas and lungs
    rim = ndimage.binary_dilation(body, iterations=3) & (sparse < PADDING_HU)
    if rim.any() or any(body.take(end, axis).any() for axis in (0, 1) for end in (0, -1)):
        return []
    area_mm2 = body.sum() * math.prod(steps) * math.prod(in_plane_mm)
    if (across_mm := 2 * math.sqrt(area_mm2 / math.pi)) * scale >= _SMALL_BODY_MM:
        return []
    return [
        f"the body is only {across_mm:.0f} mm across, as a child's is, and nets often know adults alone (segment "
        f"--scale {min(_ADULT_MM / across_mm, MAX_SCALE):.1f} shows it to the packaged ones larger)"
    ]


def _heights(per_slice: np.ndarray) -> dict[str, Triple]:
    """Return {organ: its lowest, middle and highest slice} for the organs that are present."""
    heights = {}
    for o in ORGANS:
        slices = np.flatnonzero(per_slice[:, o.id])
        if slices.size:
            middle = np.average(slices, weights=per_slice[slices, o.id])
            heights[o.name] = (float(slices[0]), float(middle), float(slices[-1]))
    return heights


def _sides(looked_at: np.ndarray, seen: set[str]) -> list[str]:
    return [
        f"the {right} lies to the left of the {left}: is the CT mirrored?"
        for right, left, *_ in wrong_sides(looked_at)
        if {right, left} <= seen
    ]


def _large_spleen(volumes_ml: np.ndarray, cut: frozenset[int]) -> list[str]:
    """Return a doubt if the spleen is nearly as large as a whole liver: nets call a mirrored liver a spleen."""
    if organ("liver").id in cut:
        return []
    spleen_ml, liver_ml = (volumes_ml[organ(name).id] for name in ("spleen", "liver"))
    if liver_ml < _VOLUMES_ML["liver"][0] or spleen_ml < _LARGE_SPLEEN * liver_ml:
        return []
    return [
        f"the spleen has {spleen_ml:.0f} mL and the liver {liver_ml:.0f}: is the CT mirrored, or the spleen swollen?"
    ]


def _upside_down(heights: dict[str, Triple], seen: set[str]) -> list[str]:
    kidneys = [heights[name] for name in ("right kidney", "left kidney") if name in seen]
    if "liver" not in seen or not kidneys:
        return []
    _, middle, top = heights["liver"]
    # the scan may cut the liver off at the top, but then nothing reaches higher
    if all(kidney[1] > middle and kidney[2] > top for kidney in kidneys):
        return ["the kidneys lie above the liver: is the CT upside down?"]
    return []


def _sizes(volumes_ml: np.ndarray, cut: frozenset[int]) -> list[str]:
    doubts = []
    for name, (least, most) in _VOLUMES_ML.items():
        ml = volumes_ml[organ(name).id]
        if ml > most or (0 < ml < least and organ(name).id not in cut):
            doubts.append(
                f"the {name} has {ml:.{1 if ml < 10 else 0}f} mL, outside the {least:g} to {most:g} mL that people have"
            )
    return doubts


def _missing(volumes_ml: np.ndarray, heights: dict[str, Triple], seen: set[str]) -> list[str]:
    return [
        f"no {name} was found, though the scan shows {above} and {below}: removed, outside the field, or missed?"
        for name, above, below in _BETWEEN
        if not volumes_ml[organ(name).id] and {above, below} <= seen and heights[above][1] > heights[below][1]
    ]
