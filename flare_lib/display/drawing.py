"""Slices drawn in matplotlib: the CT in mm, its organs, a box around a region, and the legend that names organs.

Oriented as in `slices`. An organ is filled with its colour, through which the CT shows, darkened, and outlined in it,
opaque, so that even the two kidneys differ on any grey. Arrays are canonical (RAS+) ZYX.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from flare_lib.ct.labels import N_CLASSES, ORGANS
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Triple, Volume
from flare_lib.display.slices import DISPLAY_WINDOW_HU, SIDES, in_plane, organ_colormap, plane_axis, plane_slice

_LEGEND_ENTRY, _LEGEND_LINE = 1.55, 0.2  # inches: its width, its height
INK, PAPER = "#e8e8e8", "#111111"  # of whatever is written beside a CT, and what it is written on


def draw_slice(
    axes: Axes,
    ct_zyx: np.ndarray,
    label_map_zyx: np.ndarray | None,
    spacing_zyx_mm: Triple,
    plane: str,
    index: int,
    *,
    box: Box | None = None,
    window_hu: tuple[float, float] = DISPLAY_WINDOW_HU,
    opacity: float = 0.45,
    cmap: str = "gray",
) -> None:
    """Draw one slice of a CT (HU, ZYX) into `axes`, in mm, overlaid with labels (0 to 13, same shape, or None).

    `box`: the part of the volume to show, by default all of it. The letters of the sides stand below the picture.
    """
    picture = plane_slice(ct_zyx, plane, index)
    rows_mm, columns_mm = in_plane(spacing_zyx_mm, plane)
    extent = (0, picture.shape[1] * columns_mm, 0, picture.shape[0] * rows_mm)
    low, high = window_hu
    axes.imshow(picture, cmap=cmap, vmin=low, vmax=high, origin="lower", extent=extent, interpolation="nearest")
    if label_map_zyx is not None:
        _draw_organs(axes, plane_slice(label_map_zyx, plane, index), (columns_mm, rows_mm), extent, opacity)
    if box is not None:
        (first_row, first), (last_row, last) = in_plane(box.start_zyx, plane), in_plane(box.stop_zyx, plane)
        axes.set_xlim((picture.shape[1] - last) * columns_mm, (picture.shape[1] - first) * columns_mm)
        axes.set_ylim(first_row * rows_mm, last_row * rows_mm)
    left, right = SIDES[plane]
    for text, x, align in ((left, 0.0, "left"), (right, 1.0, "right")):
        axes.text(x, -0.01, text, transform=axes.transAxes, ha=align, va="top", color=INK, fontsize=9)
    axes.set_axis_off()
    axes.set_title(f"{plane}, {'zyx'[plane_axis(plane)]} = {index}", color=INK, fontsize=9)


def _draw_organs(
    axes: Axes,
    labels: np.ndarray,
    pixel_mm: tuple[float, float],
    extent: tuple[float, float, float, float],
    opacity: float,
) -> None:
    """Draw the labels of a slice (rows, columns) over it, filled and outlined; `pixel_mm`: (width, height)."""
    where: dict[str, Any] = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
    shade = np.where(labels > 0, opacity, 0.0)
    axes.imshow(labels, cmap=organ_colormap(), vmin=-0.5, vmax=N_CLASSES - 0.5, alpha=opacity, zorder=0.2, **where)
    axes.imshow(np.zeros_like(shade), cmap="gray", alpha=shade, zorder=0.1, **where)  # beneath, as in `slices`
    segments, ids = organ_borders(labels)
    colors = np.array([organ.color for organ in ORGANS])[ids - 1]
    axes.add_collection(LineCollection(list(segments * pixel_mm), colors=colors, linewidths=1.1))


def draw_box(axes: Axes, box: Box, volume: Volume, plane: str, color: str, style: str) -> None:
    """Outline a box on a slice drawn in mm; columns are mirrored, as in `plane_slice`."""
    row_mm, column_mm = in_plane(volume.spacing_zyx_mm, plane)
    _, n_columns = in_plane(volume.shape_zyx, plane)
    (first_row, _), (_, last_column) = in_plane(box.start_zyx, plane), in_plane(box.stop_zyx, plane)
    rows, columns = in_plane(box.shape_zyx, plane)
    corner = ((n_columns - last_column) * column_mm, first_row * row_mm)
    axes.add_patch(Rectangle(corner, columns * column_mm, rows * row_mm, fill=False, ec=color, ls=style, lw=2))


def organ_borders(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the outlines of organs in a slice of labels (rows, columns), as lines along the voxels' edges.

    The lines are (n, 2 ends, column and row), in voxels; with them come the organs they belong to, (n,). Between two
    organs the larger number counts.
    """
    padded = np.pad(labels, 1)
    lines, ids = [], []
    for axis in (0, 1):
        before, after = (np.delete(padded, end, axis) for end in (-1, 0))
        row, column = np.nonzero(before != after)
        ids.append(np.maximum(before, after)[row, column])
        edge = (column - 1, row) if axis == 0 else (column, row - 1)  # one voxel of padding in front of the other axis
        ends = [np.stack(edge, axis=1), np.stack(edge, axis=1) + ((1, 0) if axis == 0 else (0, 1))]
        lines.append(np.stack(ends, axis=1))
    return np.concatenate(lines), np.concatenate(ids).astype(int)


def legend_layout(n_organs: int, width: float) -> tuple[int, float]:
    """Return the columns of a legend of organs in a figure `width` inches wide, about equally full, and its height."""
    n_lines = math.ceil(n_organs / max(1, int(width / _LEGEND_ENTRY)))
    return math.ceil(n_organs / max(1, n_lines)), _LEGEND_LINE * n_lines + 0.05


def draw_legend(figure: Figure, organ_ids: Sequence[int], *, columns: int = 7, ink: str = INK) -> None:
    """Draw the one legend of organs below a figure, its words in the colour `ink`; none if there are no organs."""
    patches = [
        Patch(fc=o.color, ec="#888888", lw=0.5, label=f"{o.abbreviation}  {o.name}")  # white on white has an edge too
        for o in ORGANS
        if o.id in organ_ids
    ]
    if patches:
        figure.legend(
            handles=patches,
            loc="lower center",
            ncols=min(columns, len(patches)),
            frameon=False,
            labelcolor=ink,
            fontsize=8,
            borderpad=0.1,
            columnspacing=1.2,
        )
