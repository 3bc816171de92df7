"""The paper's five augmentations: rotation, scale, blur, contrast, gamma (paper 3.2), drawn here, applied by MONAI.

Rotation and scale are a single resampling: image and labels are read once, at rotated and scaled positions. Whatever
comes in from outside the image is air without a label. There is no mirroring, although nnU-Net mirrors by default: a
mirrored abdomen has its liver on the left, and what looks like its left kidney is labelled as the right one.

Drawing is separate from applying, so that a figure can show one augmentation at a time and a test can repeat one.
Where the paper gives no range, nnU-Net's is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from flare_lib.ct.volume import triple
from flare_lib.machine.extras import extra


@dataclass(frozen=True)
class Augmentation:
    """What is done to one patch; the defaults change nothing.

    `rotation_rad` about z, y, x; `scale` above 1 makes the body larger; `blur_voxels` is the SD of a Gaussian;
    `contrast` above 1 spreads grey values around their mean; `gamma` below 1 lifts dark ones (mean and SD are kept).
    """

    rotation_rad: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    blur_voxels: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0


def draw_augmentation(
    rng: np.random.Generator,
    *,
    scale_range: tuple[float, float] = (0.6, 1.8),
    max_rotation_rad: float = 0.52,
    probability: float = 0.2,
) -> Augmentation:
    """Draw an augmentation; each of its five parts is used with `probability` and otherwise does nothing.

    `scale_range` is the paper's; its lower and upper halves are equally likely. `max_rotation_rad`: 30 degrees.
    """
    parts: dict[str, Any] = {
        "rotation_rad": tuple(rng.uniform(-max_rotation_rad, max_rotation_rad, 3).tolist()),
        "scale": float(rng.uniform(scale_range[0], 1.0) if rng.random() < 0.5 else rng.uniform(1.0, scale_range[1])),
        "blur_voxels": float(rng.uniform(0.5, 1.0)),
        "contrast": float(rng.uniform(0.75, 1.25)),
        "gamma": float(rng.uniform(0.7, 1.5)),
    }
    there = rng.random(len(parts)) < probability
    return Augmentation(**{name: value for (name, value), t in zip(parts.items(), there, strict=True) if t})


def room_for(what: Augmentation, shape_zyx: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape (z, y, x) of a region that holds everything a patch of `shape_zyx` shows after augmentation."""
    turn = np.abs(Rotation.from_euler("xyz", what.rotation_rad).as_matrix())
    reach = np.maximum(turn, turn.T) @ np.asarray(shape_zyx) / what.scale
    return triple(int(n) for n in np.maximum(np.ceil(reach), shape_zyx))


def augment(
    image: np.ndarray, labels: np.ndarray, what: Augmentation, *, shape_zyx: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return image (float32) and labels (same dtype), both (Z, Y, X), after one augmentation; the inputs are kept.

    Only rotation and scale affect the labels, by nearest neighbour. `shape_zyx`: shape of the middle part to return, by
    default the image's; see `room_for`. Raises ValueError if the two shapes differ, if the image is smaller than the
    part to return, or if scale, gamma or contrast is not above 0.
    """
    shape_zyx = image.shape if shape_zyx is None else tuple(shape_zyx)
    if image.shape != labels.shape or image.ndim != 3:
        raise ValueError(f"image and labels must have one shape (Z, Y, X), got {image.shape} and {labels.shape}")
    if not min(what.scale, what.contrast, what.gamma) > 0:
        raise ValueError(f"scale, contrast and gamma must be above 0, got {what}")
    if any(wanted > n for wanted, n in zip(shape_zyx, image.shape, strict=True)):
        raise ValueError(f"shape_zyx must not be larger than the image's, {image.shape}, got {shape_zyx}")
    image = image.astype(np.float32)
    if any(what.rotation_rad) or what.scale != 1:
        image, labels = _turn_and_scale(image, labels, what, shape_zyx)
    else:
        middle = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(image.shape, shape_zyx, strict=True))
        image, labels = image[middle], labels[middle]
    if what.blur_voxels:
        image = _applied("GaussianSmooth", image, sigma=what.blur_voxels)
    if what.contrast != 1:
        image = _applied("ScaleIntensityFixedMean", image, factor=what.contrast - 1, preserve_range=True)
    if what.gamma != 1:
        image = _applied("AdjustContrast", image, gamma=what.gamma, retain_stats=True)
    return image, labels.copy()


def _turn_and_scale(
    image: np.ndarray, labels: np.ndarray, what: Augmentation, shape_zyx: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Read image (trilinear) and labels (nearest) at rotated and scaled positions; outside is air, label 0."""
    air = image.min()
    place = {"rotate_params": what.rotation_rad, "scale_params": (1 / what.scale,) * 3, "padding_mode": "zeros"}
    place["spatial_size"] = tuple(shape_zyx)
    turned = _applied("Affine", image - air, mode="bilinear", image_only=True, **place) + air
    moved = _applied("Affine", labels.astype(np.float32), mode="nearest", image_only=True, **place)
    return turned, np.rint(moved).astype(labels.dtype)


def _applied(transform: str, array: np.ndarray, **settings: object) -> np.ndarray:
    """Apply one of MONAI's transforms, which need a channel axis and return a tensor."""
    with extra("train"):  # imported here: it takes seconds, and only training augments
        from monai import transforms

    out = getattr(transforms, transform)(**settings)(array[None])
    return np.asarray(out, dtype=np.float32)[0]
