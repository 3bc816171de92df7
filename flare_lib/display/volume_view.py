"""A CT with its organs in 3-D, to turn with the mouse: WebGL if ipyniivue is installed, else a picture with a slider.

ipyniivue (https://github.com/niivue/ipyniivue) is an extra: `pip install "flare-lib[niivue]"`.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from flare_lib.ct.files import save_ct, save_label_map
from flare_lib.ct.labels import ORGANS, as_label_map, present_organs
from flare_lib.ct.resample import resample_nearest, resample_trilinear, resampled_shape
from flare_lib.ct.volume import Volume, triple
from flare_lib.display.explorers import surface_explorer, surface_figure
from flare_lib.display.slices import DISPLAY_WINDOW_HU
from flare_lib.display.surfaces import OrganSurfaces
from flare_lib.display.widgets import Viewer, pixels

_LEAST_MM = 2.0  # voxels sent to the browser are at least this large: a CT of 512 x 512 x 400 would be 200 MB


class VolumeView(Viewer):
    """A CT (HU) with its organs (0 to 13, the CT's shape) as a body to turn; without ipyniivue, only its organs.

    `in_webgl` says which of the two it is. Where widgets do not work, a picture of the organs is shown. Raises
    ValueError for labels of another shape.
    """

    def __init__(self, ct: Volume, label_map_zyx: np.ndarray, *, height_px: int = 420) -> None:
        as_label_map(label_map_zyx, shape=ct.shape_zyx)
        self._surfaces = OrganSurfaces(label_map_zyx, ct.spacing_zyx_mm, pixel_mm=1.0)
        self._organs = present_organs(label_map_zyx)
        try:
            body = _in_webgl(ct, label_map_zyx, height_px)
            self.in_webgl = True
        except ImportError:
            body = surface_explorer({"": label_map_zyx}, ct.spacing_zyx_mm)
            self.in_webgl = False
        super().__init__([body])

    def static_picture(self) -> np.ndarray:
        """Return the organs from the front, turned a little, with their legend: RGB uint8 (rows, columns, 3)."""
        title = "the organs from the front, turned a little to the side"
        return pixels(surface_figure({title: self._surfaces.picture(20)}, self._organs))


def _in_webgl(ct: Volume, label_map_zyx: np.ndarray, height_px: int) -> Any:
    """Return NiiVue's widget with both volumes; ImportError without ipyniivue."""
    from ipyniivue import NiiVue, SliceType

    spacing = triple(max(s, _LEAST_MM) for s in ct.spacing_zyx_mm)
    shape = resampled_shape(ct.shape_zyx, ct.spacing_zyx_mm, spacing)
    reached = triple(n * s / m for n, s, m in zip(ct.shape_zyx, ct.spacing_zyx_mm, shape, strict=True))
    hu = resample_trilinear(ct.array_zyx.astype(np.float32), shape)
    seen = Volume.from_array(np.rint(hu).astype(np.int16), reached)
    labels = resample_nearest(label_map_zyx, shape)
    view = NiiVue(height=height_px)
    view.opts.slice_type = SliceType.RENDER
    with tempfile.TemporaryDirectory() as folder:  # NiiVue reads files
        save_ct(Path(folder) / "ct.nii.gz", seen)
        save_label_map(Path(folder) / "organs.nii.gz", labels, seen)
        low, high = DISPLAY_WINDOW_HU
        grey = {"path": Path(folder) / "ct.nii.gz", "cal_min": low, "cal_max": high, "opacity": 0.3}
        view.load_volumes([grey, {"path": Path(folder) / "organs.nii.gz", "opacity": 1.0}])
    view.volumes[1].set_colormap_label(_organ_table())
    return view


def _organ_table() -> dict[str, list]:
    """Return the organs' colours in NiiVue's form; the background is transparent."""
    rgb = [tuple(int(o.color[k : k + 2], 16) for k in (1, 3, 5)) for o in ORGANS]
    red, green, blue = ([0, *channel] for channel in zip(*rgb, strict=True))
    names = ["", *(o.abbreviation for o in ORGANS)]
    return {"R": red, "G": green, "B": blue, "A": [0] + [255] * len(ORGANS), "labels": names}
