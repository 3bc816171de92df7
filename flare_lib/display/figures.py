"""Figures of CTs and organs: matplotlib `Figure` objects, with the same organ colours everywhere.

Slices are drawn in mm, oriented as in `slices`. Arrays are canonical (RAS+) ZYX.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from flare_lib.ct.labels import N_CLASSES, ORGANS, as_label_map
from flare_lib.ct.preprocess import find_foreground
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Triple, Volume
from flare_lib.display.slices import (
    DISPLAY_WINDOW_HU,
    PLANES,
    SIDES,
    in_plane,
    organ_center,
    organ_colormap,
    plane_axis,
    plane_slice,
)
from flare_lib.machine.atomic_write import atomic_write

_INK, _PAPER = "#e8e8e8", "#111111"
_OUTLINES = ("#e69f00", "#56b4e9", "#f0e442")
_ROOM_MM = 10.0  # space around the body


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
) -> None:
    """Draw one slice of a CT (HU, ZYX) into `axes`, in mm, overlaid with labels (0 to 13, same shape, or None).

    `box`: the part of the volume to show, by default all of it.
    """
    picture = plane_slice(ct_zyx, plane, index)
    rows_mm, columns_mm = in_plane(spacing_zyx_mm, plane)
    extent = (0, picture.shape[1] * columns_mm, 0, picture.shape[0] * rows_mm)
    low, high = window_hu
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, interpolation="nearest")
    if label_map_zyx is not None:
        labels = plane_slice(label_map_zyx, plane, index)
        axes.imshow(
            labels,
            cmap=organ_colormap(),
            vmin=-0.5,
            vmax=N_CLASSES - 0.5,
            alpha=opacity,
            origin="lower",
            extent=extent,
            interpolation="nearest",
        )
    if box is not None:
        (first_row, first), (last_row, last) = in_plane(box.start_zyx, plane), in_plane(box.stop_zyx, plane)
        axes.set_xlim((picture.shape[1] - last) * columns_mm, (picture.shape[1] - first) * columns_mm)
        axes.set_ylim(first_row * rows_mm, last_row * rows_mm)
    left, right = SIDES[plane]
    for text, x, align in ((left, 0.02, "left"), (right, 0.98, "right")):
        axes.text(x, 0.5, text, transform=axes.transAxes, ha=align, va="center", color=_INK, fontsize=9)
    axes.set_axis_off()
    axes.set_title(f"{plane}, {'zyx'[plane_axis(plane)]} = {index}", color=_INK, fontsize=9)


@dataclass(frozen=True)
class Panel:
    """One slice in a row of slices: its volume, its position and its title.

    `label_map_zyx` (0 to 13, the volume's shape) is drawn over it; `outlines` are boxes drawn around regions, the first
    solid, the second dashed, the third dotted.
    """

    title: str
    volume: Volume
    plane: str
    index: int
    label_map_zyx: np.ndarray | None = None
    window_hu: tuple[float, float] = DISPLAY_WINDOW_HU
    outlines: Sequence[Box] = ()


def panel_figure(panels: Sequence[Panel], *, height: float = 3.2) -> Figure:
    """Return a figure of slices side by side, in true proportions, `height` inches high; ValueError for no slices."""
    if not panels:
        raise ValueError("a figure must have at least one panel, got none")
    sizes_mm = [in_plane(panel.volume.size_mm_zyx, panel.plane) for panel in panels]
    ratios = [columns / rows for rows, columns in sizes_mm]
    room = 0.3  # inches for the titles
    figure = Figure(figsize=((height - room) * sum(ratios) + 0.1, height), facecolor=_PAPER, dpi=80)
    grid = figure.subplots(1, len(panels), squeeze=False, gridspec_kw={"width_ratios": ratios, "wspace": 0.03})[0]
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - room / height, bottom=0.01)
    for axes, panel in zip(grid, panels, strict=True):
        volume = panel.volume
        draw_slice(
            axes,
            volume.array_zyx,
            panel.label_map_zyx,
            volume.spacing_zyx_mm,
            panel.plane,
            panel.index,
            window_hu=panel.window_hu,
        )
        for box, color, style in zip(panel.outlines, _OUTLINES, ("-", "--", ":"), strict=False):
            _draw_box(axes, box, volume, panel.plane, color, style)
        axes.set_title(panel.title, color=_INK, fontsize=9)
    return figure


def _draw_box(axes: Axes, box: Box, volume: Volume, plane: str, color: str, style: str) -> None:
    """Outline a box on a slice drawn in mm; columns are mirrored, as in `plane_slice`."""
    row_mm, column_mm = in_plane(volume.spacing_zyx_mm, plane)
    _, n_columns = in_plane(volume.shape_zyx, plane)
    (first_row, _), (_, last_column) = in_plane(box.start_zyx, plane), in_plane(box.stop_zyx, plane)
    rows, columns = in_plane(box.shape_zyx, plane)
    corner = ((n_columns - last_column) * column_mm, first_row * row_mm)
    axes.add_patch(Rectangle(corner, columns * column_mm, rows * row_mm, fill=False, ec=color, ls=style, lw=2))


def overlay_figure(
    ct: Volume,
    label_map_zyx: np.ndarray | None = None,
    *,
    center_zyx: Sequence[int] | None = None,
    window_hu: tuple[float, float] = DISPLAY_WINDOW_HU,
    opacity: float = 0.45,
    title: str | None = None,
) -> Figure:
    """Return a CT in three planes with its organs drawn over it and a legend of those that are present.

    `label_map_zyx` (0 to 13, the CT's shape) or None; `center_zyx`: the slices to show, by default those with the most
    organs. The air around the body is cut off.
    """
    return comparison_figure(
        ct, {title or "": label_map_zyx}, center_zyx=center_zyx, window_hu=window_hu, opacity=opacity
    )


def comparison_figure(
    ct: Volume,
    label_maps: Mapping[str, np.ndarray | None],
    *,
    center_zyx: Sequence[int] | None = None,
    window_hu: tuple[float, float] = DISPLAY_WINDOW_HU,
    opacity: float = 0.45,
) -> Figure:
    """Return the same three slices of a CT in one row per label map: {title: label map (0 to 13) or None}.

    Raises ValueError if a label map differs from the CT in shape.
    """
    given = [labels for labels in label_maps.values() if labels is not None]
    for labels in given:
        as_label_map(labels, shape=ct.shape_zyx)
    body = find_foreground(ct.array_zyx).widen(_ROOM_MM, ct.spacing_zyx_mm, ct.shape_zyx)
    if center_zyx is None:
        middle = tuple((a + b) // 2 for a, b in zip(body.start_zyx, body.stop_zyx, strict=True))
        center_zyx = organ_center(given[0]) if given else middle
    z_mm, y_mm, x_mm = (n * s for n, s in zip(body.shape_zyx, ct.spacing_zyx_mm, strict=True))
    widths, height = (x_mm, x_mm, y_mm), max(z_mm, y_mm)
    figure = Figure(figsize=(11, 0.8 + len(label_maps) * 11 * height / sum(widths)), facecolor=_PAPER, dpi=80)
    grid = figure.subplots(
        len(label_maps), 3, squeeze=False, gridspec_kw={"width_ratios": widths, "wspace": 0.03, "hspace": 0.15}
    )
    figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.09)
    for row, (title, label_map) in zip(grid, label_maps.items(), strict=True):
        for axes, plane, index in zip(row, PLANES, center_zyx, strict=True):
            draw_slice(
                axes,
                ct.array_zyx,
                label_map,
                ct.spacing_zyx_mm,
                plane,
                index,
                box=body,
                window_hu=window_hu,
                opacity=opacity,
            )
            axes.set_anchor("N")
        if title:
            row[0].set_title(f"{title}: {row[0].get_title()}", color=_INK, fontsize=9)
    present = {organ.id for organ in ORGANS for labels in given if (labels == organ.id).any()}
    patches = [Patch(color=o.color, label=f"{o.abbreviation}  {o.name}") for o in ORGANS if o.id in present]
    if patches:
        figure.legend(
            handles=patches, loc="lower center", ncols=min(7, len(patches)), frameon=False, labelcolor=_INK, fontsize=8
        )
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Save a figure, complete or not at all, in the format of its suffix; ValueError if the folder does not exist."""
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"the figure's folder must exist, got {path.parent}")
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, facecolor=figure.get_facecolor())
