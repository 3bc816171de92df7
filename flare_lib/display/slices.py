"""One slice of a CT as a picture: which voxels, which way up, which colours.

Slices are shown as radiologists view them: the patient's right on the left of the picture, the front up in axial
slices, the head up in coronal and sagittal ones; in sagittal slices the patient faces left. Arrays are canonical (RAS+)
ZYX.
"""

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from matplotlib.colors import ListedColormap, to_rgb

from flare_lib.ct.labels import N_CLASSES, ORGANS
from flare_lib.ct.volume import Triple, triple

DISPLAY_WINDOW_HU = (-160.0, 240.0)  # soft tissue: width 400, level 40
PLANES = ("axial", "coronal", "sagittal")
SIDES = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}  # what is left and right in the picture
_Value = TypeVar("_Value")


def organ_colormap() -> ListedColormap:
    """Return the colours of labels 0 to 13; the background is transparent."""
    return ListedColormap(["#00000000", *(organ.color for organ in ORGANS)], name="flare organs")


def organ_center(label_map_zyx: np.ndarray) -> tuple[int, int, int]:
    """Return, for each axis, the slice with the most organs and, among those, the most voxels; the middle if empty."""
    center = []
    for axis in range(3):
        counts = np.stack([np.bincount(s.ravel(), minlength=N_CLASSES) for s in np.moveaxis(label_map_zyx, axis, 0)])
        organs = (counts[:, 1:] > 0).sum(axis=1)
        voxels = counts[:, 1:].sum(axis=1)
        center.append(int(np.lexsort((voxels, organs))[-1]) if voxels.any() else label_map_zyx.shape[axis] // 2)
    return triple(center)


def plane_slice(array_zyx: np.ndarray, plane: str, index: int) -> np.ndarray:
    """Return one slice, first row at the bottom: (Y, X), (Z, X) or (Z, Y), the patient's right or front on the left.

    Raises ValueError for an unknown plane.
    """
    axis = plane_axis(plane)
    return np.take(array_zyx, index, axis=axis)[:, ::-1]  # x and y grow to the right and the front: both are reversed


def plane_axis(plane: str) -> int:
    """Return the axis (of ZYX) perpendicular to a plane; ValueError for an unknown plane."""
    if plane not in PLANES:
        raise ValueError(f"plane must be one of {', '.join(PLANES)}, got {plane!r}")
    return PLANES.index(plane)


def in_plane(zyx: Iterable[_Value], plane: str) -> tuple[_Value, _Value]:
    """Return the two of a triple's values (spacing, shape, a corner, ...) that belong to a plane's rows and columns."""
    axis = plane_axis(plane)
    rows, columns = (value for a, value in enumerate(zyx) if a != axis)
    return rows, columns


def slice_picture(
    ct_zyx: np.ndarray,
    label_map_zyx: np.ndarray | None,
    spacing_zyx_mm: Triple,
    plane: str,
    index: int,
    *,
    pixel_mm: float,
    window_hu: tuple[float, float] = DISPLAY_WINDOW_HU,
    opacity: float = 0.45,
) -> np.ndarray:
    """Return one slice as pixels: RGB uint8 (rows, columns, 3), the first row on top, every pixel `pixel_mm` square.

    `ct_zyx` in HU; `label_map_zyx` 0 to 13 of the same shape, or None, is drawn over it with `opacity` 0 to 1, and
    with twice that in the organs' outermost pixels. The CT is darkened by as much beneath: bright tissue would wash the
    colours out, and the left kidney's dark blue would look like the right one's light blue. Nearest neighbour: you see
    what is stored, in its true proportions.
    """
    rows_mm, columns_mm = in_plane(spacing_zyx_mm, plane)
    hu = plane_slice(ct_zyx, plane, index)[::-1]
    at = np.ix_(_nearest(hu.shape[0], rows_mm, pixel_mm), _nearest(hu.shape[1], columns_mm, pixel_mm))
    low, high = window_hu
    grey = (np.clip((hu[at].astype(np.float32) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    if label_map_zyx is not None:
        labels = plane_slice(label_map_zyx, plane, index)[::-1][at]
        where = labels > 0
        colors = np.array([(0, 0, 0), *(to_rgb(organ.color) for organ in ORGANS)], np.float32) * 255
        strength = np.where(_outermost(labels), min(1.0, 2 * opacity), opacity)[where][:, None]
        picture[where] = (1 - strength) ** 2 * picture[where] + strength * colors[labels[where]]
    return picture


def _outermost(labels: np.ndarray) -> np.ndarray:
    """Return the pixels (rows, columns) with another label above, below, left or right of them."""
    padded = np.pad(labels, 1, mode="edge")
    beside = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.any([labels != other for other in beside], axis=0)


def _nearest(n: int, spacing_mm: float, pixel_mm: float) -> np.ndarray:
    """Return the voxel under the centre of every pixel along an axis of n voxels."""
    n_pixels = max(1, round(n * spacing_mm / pixel_mm))
    return np.minimum(((np.arange(n_pixels) + 0.5) * n / n_pixels).astype(int), n - 1)
