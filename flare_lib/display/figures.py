"""Figures of CTs and organs, as matplotlib `Figure` objects.

Everything is drawn in mm, all panels of a figure at one scale; what is left, right, up and down is said in `slices`.
Nothing here touches pyplot or its global state, so that figures are the same in a notebook, a script and a test.
"""

import io
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from flare_lib.ct.labels import ORGANS
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Shape, Triple, Volume
from flare_lib.display.slices import (
    AXIAL,
    CORONAL,
    PLANES,
    SAGITTAL,
    SOFT_TISSUE_HU,
    Plane,
    blend,
    check_label_map,
    organ_center,
    organs_present,
)

_INK, _DIM, _PAPER = "#f2f2f2", "#a8a8a8", "#0b0b0d"
_HALO = [withStroke(linewidth=2.2, foreground="black", alpha=0.75)]


class Picture(Figure):
    """A figure that a notebook shows as PNG without pyplot having been imported."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


def organ_colormap() -> ListedColormap:
    """Return the colours of labels 0 to 13; the background is transparent."""
    return ListedColormap(["#00000000", *(organ.color for organ in ORGANS)], name="flare organs")


def draw_slice(
    axes: Axes,
    ct: Volume,
    label_map_zyx: np.ndarray | None,
    plane: Plane,
    index: int,
    *,
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
    opacity: float = 0.45,
    outlines: bool = True,
    marks: bool = True,
) -> None:
    """Draw one slice into `axes`: x and y in mm from the picture's upper left corner.

    `label_map_zyx` (0 to 13, the CT's shape) or None. `outlines` adds a line around every organ, `marks` the letters
    of the four sides (Right, Left, Anterior, Posterior, Head, Feet) and where the slice lies.
    """
    labels = None if label_map_zyx is None else plane.cut(label_map_zyx, index)
    picture = blend(plane.cut(ct.array_zyx, index), labels, window=window_hu, opacity=opacity)
    height, width = plane.size_mm(ct.spacing_zyx_mm, ct.shape_zyx)
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="bicubic")
    if labels is not None and outlines:
        _draw_outlines(axes, labels, height, width)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.set_axis_off()
    if marks:
        sides = ((0.0, 0.5, plane.left), (1.0, 0.5, plane.right), (0.5, 1.0, plane.top), (0.5, 0.0, plane.bottom))
        for x, y, letter in sides:
            _write(axes, x, y, letter, weight="bold")
        _write(axes, 0.0, 1.0, f"{plane.name}  {'zyx'[plane.axis]} {plane.position_mm(ct, index):.0f} mm", color=_INK)


def overlay_figure(
    ct: Volume,
    label_map_zyx: np.ndarray | None = None,
    *,
    center_zyx: Shape | None = None,
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
    opacity: float = 0.45,
    outlines: bool = True,
    roi: Box | None = None,
    title: str | None = None,
    legend: bool = True,
) -> Figure:
    """Return a CT in three planes, the organs over it, and a legend of those that are there.

    `label_map_zyx` (0 to 13, the CT's shape) or None. `center_zyx`: where the planes cut, by default where they show
    the most of the organs. `roi`: a box to be outlined. Raises ValueError and TypeError for labels or slices that do
    not fit the CT.
    """
    given, center_zyx = _checked(ct, [label_map_zyx], center_zyx)
    z_mm, y_mm, x_mm = ct.size_mm_zyx
    figure, grid = _mm_grid((z_mm, y_mm), (x_mm, y_mm), title=title)
    for cell, plane in ((grid[0, 0], CORONAL), (grid[0, 1], SAGITTAL), (grid[1, 0], AXIAL)):
        axes = figure.add_subplot(cell, label=plane.name)
        index = center_zyx[plane.axis]
        draw_slice(axes, ct, label_map_zyx, plane, index, window_hu=window_hu, opacity=opacity, outlines=outlines)
        if roi is not None:
            _draw_box(axes, roi, ct, plane)
        if plane is AXIAL:
            _draw_scale_bar(axes)
    corner = figure.add_subplot(grid[1, 1], label="legend")
    corner.set_axis_off()
    if legend and given:
        _draw_legend(corner, organs_present(*given))
    return figure


def comparison_figure(
    ct: Volume,
    label_maps: Mapping[str, np.ndarray | None],
    *,
    planes: Sequence[Plane] = (AXIAL, CORONAL),
    center_zyx: Shape | None = None,
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
    opacity: float = 0.45,
    outlines: bool = True,
    title: str | None = None,
) -> Figure:
    """Return the same slices of a CT under several label maps side by side: {heading: label map or None}.

    For a prediction beside its reference, a result before and after clean-up. A row a plane, a column a label map, one
    legend. The slices are by default those that show the most of the organs of the last label map. Raises as
    `overlay_figure` does, and ValueError for no label maps or no planes.
    """
    if not label_maps or not planes:
        raise ValueError(f"at least one label map and one plane must be given, got {list(label_maps)}, {list(planes)}")
    given, center_zyx = _checked(ct, list(label_maps.values()), center_zyx)
    heights, widths = zip(*(plane.size_mm(ct.spacing_zyx_mm, ct.shape_zyx) for plane in planes), strict=True)
    present = organs_present(*given)
    figure, grid = _mm_grid(heights, [max(widths)] * len(label_maps), title=title, side_in=1.9 if present else 0, top_in=0.3)
    for row, plane in enumerate(planes):
        for column, (heading, label_map) in enumerate(label_maps.items()):
            axes = figure.add_subplot(grid[row, column])
            index = center_zyx[plane.axis]
            draw_slice(axes, ct, label_map, plane, index, window_hu=window_hu, opacity=opacity, outlines=outlines)
            if row == 0:
                axes.set_title(heading, color=_INK, fontsize=11, pad=6)
    _draw_scale_bar(figure.axes[0])
    if present:
        _draw_legend(figure.add_subplot(grid[:, -1], label="legend"), present)
    return figure
