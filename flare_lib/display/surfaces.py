"""Organs as solid surfaces, seen from any side, in the style of the paper's Fig. 5 to 7, without WebGL.

Parallel rays run through the label map; where a ray first meets an organ, it shows the organ's colour, the brighter the
more the surface faces the light. A surface's direction is the gradient of its organ, slightly smoothed.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from scipy import ndimage

from flare_lib.ct.labels import N_CLASSES, ORGANS
from flare_lib.ct.resample import resample_nearest, resampled_shape
from flare_lib.ct.roi import Box, bounding_box, crop
from flare_lib.ct.volume import triple

_SMOOTH_VOXELS = 1.5
# from above, in front and the viewer's left: z is up, depth away from the viewer, x right
_LIGHT_ZDX = np.array((0.45, -0.8, -0.35))
_AMBIENT = 0.3


class OrganSurfaces:
    """The surfaces of a label map (0 to 13, canonical ZYX), sampled at `pixel_mm`: `picture` draws them from any side.

    Make it once and draw it often: a picture takes a fraction of the time that the preparation takes. `box`: the part
    of the map to show, by default the box of its organs; with one box, the pictures of several maps have one frame.
    Raises ValueError for labels outside 0 to 13 and shapes without three axes.
    """

    def __init__(
        self,
        label_map_zyx: np.ndarray,
        spacing_zyx_mm: Sequence[float],
        *,
        pixel_mm: float = 2.0,
        box: Box | None = None,
    ) -> None:
        label_map_zyx = np.asarray(label_map_zyx)
        if label_map_zyx.ndim != 3 or label_map_zyx.min(initial=0) < 0 or label_map_zyx.max(initial=0) >= N_CLASSES:
            raise ValueError(f"a label map must be (Z, Y, X) of 0 to {N_CLASSES - 1}, got {label_map_zyx.shape}")
        box = box or bounding_box(label_map_zyx)
        inside = np.zeros((1, 1, 1), np.uint8) if box is None else crop(label_map_zyx, box)
        shape = resampled_shape(inside.shape, triple(spacing_zyx_mm), (pixel_mm,) * 3)
        self._labels = np.pad(resample_nearest(inside.astype(np.uint8), shape), 3)
        self._normals = _outward(self._labels)

    def picture(self, azimuth_deg: float = 0.0) -> np.ndarray:
        """Return RGB, uint8 (rows, columns, 3), on white; 0 degrees is the front, 90 the patient's left, 180 the back.

        At 0 the patient's right is on the left of the picture and the head is up. All pictures have the same size.
        """
        _, n_y, n_x = self._labels.shape
        width = int(np.ceil(np.hypot(n_y, n_x)))
        turn = np.deg2rad(azimuth_deg)
        # for the picture's grid (depth away from the viewer, column to the right), the position in the label map (y, x)
        depth, column = np.meshgrid(*[np.arange(width) - (width - 1) / 2] * 2, indexing="ij")
        # (slightly off the middle: exact halves would be rounded now up, now down along a ray)
        y = np.rint(-np.cos(turn) * depth - np.sin(turn) * column + (n_y - 1) / 2 + 1e-4).astype(int)
        x = np.rint(np.sin(turn) * depth - np.cos(turn) * column + (n_x - 1) / 2 + 1e-4).astype(int)
        outside = (y < 0) | (y >= n_y) | (x < 0) | (x >= n_x)
        seen = self._labels[:, np.where(outside, 0, y), np.where(outside, 0, x)]  # (z, depth, column); 0 is padding
        hit = (seen > 0).argmax(axis=1)  # (z, column)
        z_at, column_at = np.indices(hit.shape)
        labels = seen[z_at, hit, column_at]
        normal = self._normals[:, z_at, y[hit, column_at].clip(0, n_y - 1), x[hit, column_at].clip(0, n_x - 1)]
        to_depth = -np.cos(turn) * normal[1] + np.sin(turn) * normal[2]
        to_column = -np.sin(turn) * normal[1] - np.cos(turn) * normal[2]
        light = _LIGHT_ZDX / np.linalg.norm(_LIGHT_ZDX)
        facing = np.clip(light[0] * normal[0] + light[1] * to_depth + light[2] * to_column, 0, 1)
        colors = np.array([(1, 1, 1), *(to_rgb(organ.color) for organ in ORGANS)])
        shade = np.where(labels > 0, _AMBIENT + (1 - _AMBIENT) * facing, 1.0)
        return (255 * colors[labels] * shade[..., None]).round().astype(np.uint8)[::-1]


def _outward(label_map_zyx: np.ndarray) -> np.ndarray:
    """Return the outward direction of each organ at its voxels: unit vectors, float32 (3, Z, Y, X)."""
    normals = np.zeros((3, *label_map_zyx.shape), np.float32)
    for organ, found in enumerate(ndimage.find_objects(label_map_zyx, max_label=N_CLASSES - 1), start=1):
        if found is None:
            continue
        box = tuple(slice(max(0, s.start - 3), s.stop + 3) for s in found)
        mask = label_map_zyx[box] == organ
        smooth = ndimage.gaussian_filter(mask.astype(np.float32), _SMOOTH_VOXELS)
        for axis in range(3):
            normals[axis][box][mask] = -np.gradient(smooth, axis=axis)[mask]
    return normals / np.maximum(np.linalg.norm(normals, axis=0), 1e-6)
