"""The shapes of a synthetic person, from head to thigh; grey values come from `painting`.

The person is assembled from ellipsoids and tubes in millimetres (x to the patient's right, y to the front, z to the
head, origin in front of the first lumbar vertebra), each organ with its own size and place. Later shapes are drawn over
earlier ones. A smooth random deformation then makes the shapes look less geometric. Measurements are round figures from
adult anatomy; volumes are within the ranges of healthy adults.
"""

from itertools import pairwise
from typing import Any

import cc3d
import numpy as np
from scipy import ndimage

from flare_lib.ct.roi import bounding_box
from flare_lib.ct.volume import Shape, Triple, Volume, check_plausible, check_spacing, triple
from flare_lib.synthetic.brushes import Drawing
from flare_lib.synthetic.deformation import deform
from flare_lib.synthetic.painting import paint
from flare_lib.synthetic.structures import ORGAN_STRUCTURES, UNLABELLED, Structures, organ_labels

# z in mm, lower and upper end
FIELDS_OF_VIEW: dict[str, tuple[float, float]] = {
    "abdomen": (-120.0, 140.0),
    "half_body": (-260.0, 300.0),
    "whole_body": (-420.0, 560.0),
}
_WIDTH_MM, _DEPTH_MM = 440.0, 340.0
_DRAWING_MM = 2.5

_BACKDROP = ("air", "skin", "fat", "muscle", UNLABELLED)
_BONES = ("vertebrae", "disc", "sacrum", "hip", "femur", "rib", "sternum", "costal_cartilages", "skull")
_SOFT = ("lung_lower_lobe_left", "lung_lower_lobe_right", "heart", "brain", "trachea", "spinal_cord", "autochthon")
_BELLY = ("iliopsoas", "small_bowel", "colon", "urinary_bladder", "portal_vein_and_splenic_vein")
_VESSELS = ("iliac_artery", "iliac_vena")
_NAMES = dict(enumerate((*_BACKDROP, *_BONES, *_SOFT, *_BELLY, *_VESSELS, *ORGAN_STRUCTURES)))
_IDS = {name: i for i, name in _NAMES.items()}


def make_phantom(
    seed: int,
    *,
    shape_zyx: Shape | None = None,
    spacing_zyx_mm: Triple = (2.5, 2.0, 2.0),
    field_of_view: str = "abdomen",
) -> Structures:
    """Return the structures of one person, canonical (RAS+) ZYX.

    `seed`: 0 or more, a different person for each; `field_of_view`: "abdomen" (lung base to iliac crest), "half_body"
    (thorax and pelvis) or "whole_body" (head to thigh). The grid covers the field at `spacing_zyx_mm`, or, centred in
    it, `shape_zyx` voxels of that spacing. Raises ValueError for an unknown field of view, for a spacing or shape that
    is not positive, and for a grid that no CT has (`check_plausible`).
    """
    check_spacing(spacing_zyx_mm)
    if shape_zyx is not None and (len(shape_zyx) != 3 or min(shape_zyx) < 1):
        raise ValueError(f"shape_zyx must be 3 positive integers, got {tuple(shape_zyx)}")
    if field_of_view not in FIELDS_OF_VIEW:
        raise ValueError(f"field_of_view must be one of {', '.join(FIELDS_OF_VIEW)}, got {field_of_view!r}")
    field = FIELDS_OF_VIEW[field_of_view]
    size_mm = (field[1] - field[0], _DEPTH_MM, _WIDTH_MM)
    shape = shape_zyx or triple(max(1, round(n / s)) for n, s in zip(size_mm, spacing_zyx_mm, strict=True))
    check_plausible(triple(shape[::-1]), np.array(spacing_zyx_mm[::-1]), "a phantom")
    rng = np.random.default_rng([seed, 0xAB])
    # drawn a little further than shown, so that deforming and rotating do not bring in an edge
    half_mm = np.array([0, _DEPTH_MM / 2, _WIDTH_MM / 2])
    low, high = np.array([field[0] - 30, 0, 0]) - half_mm, np.array([field[1] + 30, 0, 0]) + half_mm
    drawing = Drawing(_IDS, low, high, _DRAWING_MM, rng)
    _draw_trunk(drawing)
    _draw_skeleton(drawing)
    _draw_bowel(drawing)
    _draw_organs(drawing)
    _keep_one_piece(drawing.ids)
    person = Structures(drawing.ids, _NAMES, (_DRAWING_MM,) * 3)
    deformed = deform(
        person,
        shape,
        spacing_zyx_mm,
        rng,
        max_rotation_rad=0.04,
        scale_range=(0.95, 1.06),
        anisotropy=0.04,
        displacements_mm=((70.0, 6.0), (32.0, 2.5)),
    )
    _keep_one_piece(deformed.array_zyx)
    return deformed


def phantom_case(
    seed: int,
    *,
    shape_zyx: Shape | None = None,
    spacing_zyx_mm: Triple = (2.5, 2.0, 2.0),
    field_of_view: str = "abdomen",
    **appearance: Any,
) -> tuple[Volume, Volume]:
    """Return a painted CT (int16 HU) of one person and its labels (uint8, 0 to 13).

    Arguments and errors as in `make_phantom`; `appearance` as in `painting.paint` (noise, contrast phases, lesions).
    """
    structures = make_phantom(seed, shape_zyx=shape_zyx, spacing_zyx_mm=spacing_zyx_mm, field_of_view=field_of_view)
    hu = paint(structures, np.random.default_rng([seed, 0xCD]), **appearance)
    spacing = structures.spacing_zyx_mm
    return Volume.from_array(hu, spacing), Volume.from_array(organ_labels(structures), spacing)


def _draw_trunk(d: Drawing) -> None:
    """Draw skin, fat and wall of the trunk, what fills it, the lungs above the diaphragm, and the heart."""
    rng = d.rng
    fat_mm = rng.uniform(8, 32)
    # fat is uneven: each person has their own pattern round the trunk
    waves = [(k, rng.uniform(-0.22, 0.22), rng.uniform(0, 6.3)) for k in (1, 2, 3)]
    thickest = 1 + sum(abs(height) for _, height, _ in waves)
    wall_mm = rng.uniform(9, 14)
    for one in d.slices():
        x, y, z = d.grid(one)
        half_x, half_y = (half.astype(np.float32) for half in _half_width_and_depth(z))
        across, along = x / half_x, y / half_y
        radius = (np.abs(across) ** 2.4 + np.abs(along) ** 2.4) ** (1 / 2.4)
        outward_mm = (radius - 1) * np.minimum(half_x, half_y)
        usual_mm = fat_mm * np.interp(z.item(), [300, 380], [1, 0.25])
        # angles take longest: only between the muscle and where the fat ends at the latest do they matter
        near = (outward_mm >= 0) & (outward_mm < usual_mm * thickest + 3)
        angle = np.arctan2(*(np.broadcast_to(part, near.shape)[near] for part in (along, across)))
        thickness = np.zeros(near.shape)
        thickness[near] = usual_mm * (1 + sum(height * np.cos(k * angle + phase) for k, height, phase in waves))
        d.put("skin", one, outward_mm < thickness + 3)
        d.put("fat", one, outward_mm < thickness)
        d.put("muscle", one, outward_mm < 0)
        d.put(UNLABELLED, one, (outward_mm < -wall_mm) & (z < 340) & (z > -260))
        dome = 92 - 0.0045 * (np.abs(x) - 55) ** 2 - 0.011 * (y - 15) ** 2 + np.where(x > 0, 8, 0)
        for side, sign in (("right", 1), ("left", -1)):
            lung = (((x - sign * 72) / 64) ** 2 + ((y + 3) / 92) ** 2 + ((z - 130) / 185) ** 2 < 1) & (z > dome)
            d.put(f"lung_lower_lobe_{side}", one, lung, (UNLABELLED, "muscle"))
    d.ellipsoid("heart", (-22, 32, 148), (58, 46, 52), tilt=-0.5)
    d.tube("trachea", [(0, -10, 330), (0, -25, 235)], 9)


def _half_width_and_depth(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return half the width and depth in mm of the muscular trunk along z: thigh, hip, waist, chest, neck, head."""
    heights = [-450, -200, -60, 90, 230, 330, 375, 420, 600]
    half_x = np.interp(z, heights, [150, 160, 136, 146, 156, 150, 60, 75, 75])
    return half_x, np.interp(z, heights, [90, 114, 108, 118, 116, 88, 60, 95, 95])


def _draw_skeleton(d: Drawing) -> None:
    """Draw the spine with discs and canal, ribs, breastbone, pelvis, thighs, skull; back muscles and psoas."""
    for sign in (1, -1):
        d.tube("autochthon", [(sign * 30, -83, z) for z in (-140, 0, 150, 320)], [24, 24, 22, 17])
        d.tube(
            "iliopsoas", [(sign * p, y, z) for p, y, z in ((30, -55, 20), (44, -45, -60), (66, -15, -170))], [8, 22, 20]
        )
    for k, z in enumerate(np.arange(-150, 350, 34.0)):
        d.tube("vertebrae", [(0, -55, z - 9), (0, -55, z + 9)], 19 if k < 8 else 16, jitter=1)
        d.tube("disc", [(0, -55, z + 15), (0, -55, z + 19)], 16, jitter=0.5)
        for sign in (1, -1):
            d.tube("vertebrae", [(sign * 14, -68, z), (sign * 12, -92, z - 4), (0, -102, z - 8)], 6, jitter=1)
            d.tube("vertebrae", [(sign * 14, -78, z), (sign * 38, -84, z)], 4.5, jitter=1)
        d.tube("vertebrae", [(0, -98, z - 8), (0, -118, z - 16)], 4.5, jitter=1)
    d.tube("spinal_cord", [(0, -82, z) for z in (-170, 0, 150, 380)], 7, jitter=0.5)
    for k in range(11):
        top = 60 + 25.0 * k
        reach = 2.5 if k > 3 else 1.5 + 0.25 * k  # rad round the chest: the lowest ribs end early
        angles = np.linspace(0.25, reach, 14)
        half_x, half_y = (0.945 * half for half in _half_width_and_depth(np.asarray(top - 40.0)))
        for sign in (1, -1):  # they fall steeply to the sides, so that a slice cuts each of them only once
            arc = [(sign * half_x * np.sin(a), -half_y * np.cos(a), top - 50 * (1 - np.cos(a))) for a in angles]
            d.tube("rib", arc, 4.5, jitter=0.5)
            if k > 3:
                d.tube("costal_cartilages", [arc[-1], (sign * 18, 0.9 * half_y, top - 70)], 5.0, jitter=0.5)
    d.tube("sternum", [(0, 100, 95), (0, 100, 250)], [8, 12])
    d.ellipsoid("sacrum", (0, -78, -175), (48, 18, 55))
    for sign in (1, -1):
        side: Any = {"tilt": sign * 0.25, "jitter": 2.0}
        d.ellipsoid("hip", (sign * 95, -35, -150), (13, 58, 68), **side)
        d.ellipsoid("hip", (sign * 78, 5, -235), (24, 40, 36), **side)
        d.tube("femur", [(sign * 92, 0, -250), (sign * 125, -15, -280), (sign * 118, 0, -470)], [24, 19, 15])
    d.ellipsoid("skull", (0, 0, 480), (72, 90, 85))
    d.ellipsoid("brain", (0, 0, 485), (63, 80, 75), jitter=1)


def _draw_bowel(d: Drawing) -> None:
    """Draw the colon as a frame, loops of small bowel within it, and the bladder below."""
    d.ellipsoid("urinary_bladder", (0, 20, -225), (38, 32, 28))
    frame = [(92, 15, -115), (96, 5, -50), (88, 20, 0), (60, 62, -12), (0, 74, -40), (-55, 66, -5), (-98, 10, 28)]
    frame += [(-106, -15, -40), (-98, 0, -110), (-55, 15, -160), (-15, -10, -180), (0, -40, -210), (0, -48, -250)]
    inside = (UNLABELLED, "small_bowel")
    for a, b in pairwise(frame):
        d.tube("colon", [a, b], d.rng.uniform(15, 25, 2), only=inside)
    at = np.array([-50.0, 30.0, -45.0])
    low, high = np.array([-75.0, 5.0, -150.0]), np.array([72.0, 68.0, -48.0])
    for _ in range(45):
        to = np.clip(at + d.rng.normal(0, 42, 3), low, high)
        d.tube("small_bowel", [at, to], d.rng.uniform(8, 13), jitter=0, only=(UNLABELLED,))
        at = to


def _draw_organs(d: Drawing) -> None:
    """Draw the great vessels and the 13 organs, those that press on others last."""
    cavity = (UNLABELLED, "colon", "small_bowel", "lung_lower_lobe_right", "lung_lower_lobe_left", "heart")
    size = d.rng.uniform(0.92, 1.06)
    # a wedge: the right lobe lies against ribs and diaphragm and thins downwards, the left crosses the midline in front
    right, tip, left = ((84, -8, 48), (72, 92, 58)), ((96, 2, -6), (38, 62, 60)), ((8, 52, 62), (74, 40, 28))
    for (center, radii), tilt in ((right, 0.0), (tip, 0.15), (left, -0.2)):
        d.ellipsoid("liver", center, np.array(radii) * size, tilt=tilt, only=(UNLABELLED, "colon", "small_bowel"))
    d.ellipsoid("spleen", (-98, -42, 52), (26, 43, 47), tilt=-0.35, only=cavity)
    stomach = [(-22, -2, 84), (-58, 14, 84), (-66, 30, 50), (-56, 48, 12), (-22, 54, -8), (14, 44, -4)]
    d.tube("stomach", stomach, np.array([13, 30, 33, 27, 19, 13]) * d.rng.uniform(0.8, 1.15), only=(*cavity, "liver"))
    d.tube("portal_vein_and_splenic_vein", [(-72, -30, 36), (8, 0, 2), (26, 10, 26), (46, 12, 46)], [4, 6, 7, 6])
    for sign, tilt, lift in ((1, 0.2, -14), (-1, -0.2, 0)):
        side = "right" if sign > 0 else "left"
        d.ellipsoid(f"kidney_{side}", (sign * 66, -48, lift), (28, 26, 54), tilt=tilt, jitter=3)
        d.ellipsoid("fat", (sign * 40, -40, lift), (13, 11, 19), tilt=tilt, jitter=1)
    d.tube("pancreas", [(32, 8, -32), (28, 12, -14), (2, 20, -4), (-34, 2, 12), (-78, -26, 32)], [15, 15, 10, 10, 9])
    duodenum = [(16, 42, -4), (36, 26, -6), (46, 4, -22), (44, -4, -48), (24, -6, -68), (-8, -4, -66), (-28, 10, -48)]
    d.tube(
        "duodenum", duodenum, [12, 12, 12, 12, 11, 11, 10], only=tuple(n for n in _NAMES.values() if n != "pancreas")
    )
    d.ellipsoid("gallbladder", (48, 50, -18), (14, 15, 30), tilt=0.3)
    bifurcation, joining = (-8, -26, -92), (16, -24, -96)
    for sign in (1, -1):
        d.tube("iliac_artery", [bifurcation, (sign * 34, -22, -140), (sign * 66, 20, -220)], 6)
        d.tube("iliac_vena", [joining, (sign * 32, -32, -145), (sign * 62, 10, -225)], 7)
    d.tube("inferior_vena_cava", [joining, (22, -24, -20), (26, -20, 50), (20, -2, 108)], [10, 11, 12, 13])
    d.tube(
        "aorta",
        [bifurcation, (-12, -26, 0), (-14, -28, 100), (-24, -30, 235), (-10, 0, 262), (10, 22, 230)],
        [9, 10, 11, 12, 14, 15],
    )
    d.tube("esophagus", [(0, -22, 330), (-2, -14, 180), (-8, -10, 120), (-20, -4, 88)], [8, 8, 8, 9])
    for sign, side in ((1, "right"), (-1, "left")):
        for z in (50, 58):  # one below the other: two limbs that are sheets rather than rods
            for inner, back in ((46, -50), (36, -52)):
                limb = [(sign * 40, -34, z), (sign * inner, back, z - 18)]
                d.tube(f"adrenal_gland_{side}", limb, [4.5, 3.6], jitter=1)
    retroperitoneal = tuple(f"{organ}_{side}" for organ in ("kidney", "adrenal_gland") for side in ("right", "left"))
    _pack_in_fat(d, retroperitoneal, int(d.rng.integers(1, 4)), (*cavity, "liver", "spleen", "muscle", "stomach"))
    _pack_in_fat(d, ORGAN_STRUCTURES, int(d.rng.integers(1, 3)), (UNLABELLED,))


def _pack_in_fat(d: Drawing, names: tuple[str, ...], n_voxels: int, only: tuple[str, ...]) -> None:
    """Turn voxels of `only` that lie within `n_voxels` of the structures into fat.

    Without it, a kidney or an adrenal gland would lie bare in the liver, and unlabelled vessels and bowel would touch
    every organ. No body looks like that: kidneys and adrenals lie in a capsule of fat, the others in a thin layer.
    """
    inside = np.isin(d.ids, [_IDS[name] for name in names])
    if box := bounding_box(inside):
        near = box.widen(n_voxels * d.spacing_mm, (d.spacing_mm,) * 3, inside.shape).slices
        d.put("fat", near, ndimage.binary_dilation(inside[near], iterations=n_voxels), only)


def _keep_one_piece(ids: np.ndarray) -> None:
    """Keep only the largest piece of every organ, in place; what other organs have cut off becomes unlabelled."""
    boxes = ndimage.find_objects(ids)
    for i in (_IDS[name] for name in ORGAN_STRUCTURES):
        if i > len(boxes) or (box := boxes[i - 1]) is None:
            continue
        part = ids[box]
        mask = part == i
        pieces = cc3d.connected_components(mask, connectivity=26)
        counts = np.bincount(pieces.ravel())
        if counts.size > 2:
            counts[0] = 0
            part[mask & (pieces != counts.argmax())] = _IDS[UNLABELLED]
