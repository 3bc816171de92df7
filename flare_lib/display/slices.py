"""Slices of a CT as radiologists look at them: which voxel goes where, and the organs' colours over the grey.

Arrays are canonical (RAS+) ZYX: z grows to the head, y to the front, x to the patient's right. A picture has its first
row at the top, so every axis is turned: the patient's right is on the left of the picture, as if seen from the feet
(axial) or from the front (coronal); the front is up in axial slices, the head in the two others; in sagittal slices
the patient looks to the left.
"""

from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_rgb

from flare_lib.ct.labels import N_CLASSES, N_ORGANS, ORGANS
from flare_lib.ct.volume import Shape, Triple, Volume

SOFT_TISSUE_HU = (-160.0, 240.0)  # what abdominal CTs are read with: width 400, level 40
# RGB 0..255 of labels 0 to 13; the background's is never used
ORGAN_RGB = np.array([(0, 0, 0), *(np.multiply(255, to_rgb(organ.color)) for organ in ORGANS)], dtype=np.float32)


class Plane(NamedTuple):
    """One of the three planes: the axis of ZYX it cuts across, and what lies at the picture's four sides."""

    name: str
    axis: int
    left: str
    right: str
    top: str
    bottom: str

    def cut(self, array_zyx: np.ndarray, index: int) -> np.ndarray:
        """Return slice `index` as a picture, a view: (Y, X), (Z, X) or (Z, Y), every axis turned.

        Raises ValueError for an index that is not in the array.
        """
        if not 0 <= index < array_zyx.shape[self.axis]:
            size = array_zyx.shape[self.axis]
            raise ValueError(f"the {self.name} slice must be 0 to {size - 1}, got {index}")
        return np.take(np.moveaxis(array_zyx, self.axis, 0), index, axis=0)[::-1, ::-1]

    def size_mm(self, spacing_zyx_mm: Triple, shape_zyx: Shape) -> tuple[float, float]:
        """Return a picture's height and width in mm, outer face to outer face."""
        rows, columns = (s * n for axis, (s, n) in enumerate(zip(spacing_zyx_mm, shape_zyx, strict=True)) if axis != self.axis)
        return rows, columns

    def position_mm(self, volume: Volume, index: int) -> float:
        """Return the world coordinate (RAS) of a slice's centre along the axis that is cut."""
        center_xyz = [(n - 1) / 2 for n in volume.shape_zyx[::-1]]
        center_xyz[2 - self.axis] = index
        return float((volume.affine @ [*center_xyz, 1.0])[2 - self.axis])


AXIAL = Plane("axial", 0, left="R", right="L", top="A", bottom="P")
CORONAL = Plane("coronal", 1, left="R", right="L", top="H", bottom="F")
SAGITTAL = Plane("sagittal", 2, left="A", right="P", top="H", bottom="F")
PLANES = (AXIAL, CORONAL, SAGITTAL)


def organ_center(label_map_zyx: np.ndarray) -> Shape:
    """Return the z, y, x of the slices that show the most of the organs; the middle when there are none.

    Every organ counts by how large it is in the slice, as a fraction of its own largest cross-section: an adrenal
    gland as much as the liver. `label_map_zyx` 0 to 13.
    """
    where = np.nonzero(label_map_zyx)
    organs = label_map_zyx[where].astype(np.int64)
    center = []
    for n, indices in zip(label_map_zyx.shape, where, strict=True):
        areas = np.bincount(organs * n + indices, minlength=N_CLASSES * n).reshape(N_CLASSES, n)
        shown = (areas / np.maximum(areas.max(axis=1, keepdims=True), 1)).sum(axis=0)
        center.append(int(shown.argmax()) if organs.size else n // 2)
    return tuple(center)


def organs_present(*label_maps: np.ndarray) -> list[int]:
    """Return the ids of the organs with at least one voxel in any of these label maps (0 to 13), ascending."""
    present = np.zeros(N_CLASSES, bool)
    for label_map in label_maps:
        for part in label_map:  # slice by slice: bincount makes 8 bytes of every voxel
            present |= np.bincount(part.ravel(), minlength=N_CLASSES) > 0
    return [int(i) for i in np.flatnonzero(present) if i]


def check_label_map(label_map_zyx: np.ndarray, shape_zyx: Shape) -> np.ndarray:
    """Return a label map as an array; TypeError unless integers, ValueError unless 0 to 13 and of the CT's shape."""
    label_map_zyx = np.asarray(label_map_zyx)
    if label_map_zyx.shape != tuple(shape_zyx):
        raise ValueError(f"a label map must have the CT's shape {tuple(shape_zyx)}, got {label_map_zyx.shape}")
    if label_map_zyx.dtype.kind not in "ui":
        raise TypeError(f"a label map must hold integers, got {label_map_zyx.dtype}")
    lowest, highest = label_map_zyx.min(), label_map_zyx.max()
    if lowest < 0 or highest > N_ORGANS:
        raise ValueError(f"labels must be 0 to {N_ORGANS}, got {lowest} to {highest}")
    return label_map_zyx


def blend(
    values: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    window: tuple[float, float] = SOFT_TISSUE_HU,
    opacity: float = 0.45,
) -> np.ndarray:
    """Return a picture, uint8 RGB (rows, columns, 3): grey values, and over them the organs' colours.

    `values` (rows, columns) HU or whatever unit `window` has: black at its low end and below, white at its high end
    and above. `labels` the same shape, 0 to 13, or None; where there is an organ, the pixel is
    (1 - opacity) * grey + opacity * colour. Raises ValueError for an empty window or an opacity outside 0 to 1.
    """
    low, high = window
    if not low < high:
        raise ValueError(f"window must be (low, high) with low < high, got {tuple(window)}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be 0 to 1, got {opacity}")
    grey = np.clip((values.astype(np.float32) - low) * (255 / (high - low)), 0, 255)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    if labels is not None:
        organ = labels > 0
        picture[organ] += opacity * (ORGAN_RGB[labels[organ]] - picture[organ])
    return np.rint(picture).astype(np.uint8)
