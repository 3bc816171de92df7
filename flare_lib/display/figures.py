"""Figures of CTs and organs: matplotlib `Figure` objects, with the same organ colours everywhere.

Slices are drawn in mm, oriented as in `slices`. An organ is filled with its colour, through which the CT shows,
darkened, and outlined in it, opaque, so that even the two kidneys differ on any grey. Arrays are canonical (RAS+) ZYX.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from flare_lib.ct.labels import N_CLASSES, ORGANS, as_label_map, label_counts
from flare_lib.ct.preprocess import find_foreground
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Triple, Volume, extent_mm
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
_PAGE, _TALLEST = 11.0, 4.2  # inches: the width of a page, and the most that one row of slices takes of its height


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
        labels = plane_slice(label_map_zyx, plane, index)
        where: dict[str, Any] = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
        shade = np.where(labels > 0, opacity, 0.0)
        axes.imshow(labels, cmap=organ_colormap(), vmin=-0.5, vmax=N_CLASSES - 0.5, alpha=opacity, zorder=0.2, **where)
        axes.imshow(np.zeros_like(shade), cmap="gray", alpha=shade, zorder=0.1, **where)  # beneath, as in `slices`
        segments, ids = organ_borders(labels)
        colors = np.array([organ.color for organ in ORGANS])[ids - 1]
        axes.add_collection(LineCollection(list(segments * (columns_mm, rows_mm)), colors=colors, linewidths=1.1))
    if box is not None:
        (first_row, first), (last_row, last) = in_plane(box.start_zyx, plane), in_plane(box.stop_zyx, plane)
        axes.set_xlim((picture.shape[1] - last) * columns_mm, (picture.shape[1] - first) * columns_mm)
        axes.set_ylim(first_row * rows_mm, last_row * rows_mm)
    left, right = SIDES[plane]
    for text, x, align in ((left, 0.0, "left"), (right, 1.0, "right")):
        axes.text(x, -0.01, text, transform=axes.transAxes, ha=align, va="top", color=_INK, fontsize=9)
    axes.set_axis_off()
    axes.set_title(f"{plane}, {'zyx'[plane_axis(plane)]} = {index}", color=_INK, fontsize=9)


@dataclass(frozen=True)
class Panel:
    """One slice in a row of slices: its volume, its position and its title.

    `label_map_zyx` (0 to 13, the volume's shape) is drawn over it; `outlines` are boxes drawn around regions, the first
    solid, the second dashed, the third dotted. `scale` names the values of a volume that is not a CT: it is drawn in
    colours between the ends of `window_hu`, with a colour bar below, marked at whole numbers if the values are whole.
    """

    title: str
    volume: Volume
    plane: str
    index: int
    label_map_zyx: np.ndarray | None = None
    window_hu: tuple[float, float] = DISPLAY_WINDOW_HU
    outlines: Sequence[Box] = ()
    scale: str = ""


def panel_figure(
    panels: Sequence[Panel], *, height: float | None = None, columns: int = 4, organs: Sequence[int] | None = None
) -> Figure:
    """Return a figure of slices in true proportions, in rows of up to `columns`, with a legend of their organs.

    It is as wide as a page, 11 inches, unless its rows would then be too tall; `height`, in inches, sets the height of
    a row instead, and the width follows. `organs`: the ids in the legend, by default those of the organs that are
    present. Raises ValueError for no slices.
    """
    if not panels:
        raise ValueError("a figure must have at least one panel, got none")
    rows = [panels[k : k + columns] for k in range(0, len(panels), columns)]
    gap, above, below = 0.1, 0.3, 0.65 if any(panel.scale for panel in panels) else 0.25  # inches
    in_row = [
        [np.divide(*in_plane(p.volume.size_mm_zyx, p.plane)[::-1]) for p in row] for row in rows
    ]  # width / height
    wanted = _TALLEST if height is None else height - above - below
    room = _PAGE if height is None else np.inf
    tall = min(wanted, *((room - gap * (len(ratios) + 1)) / sum(ratios) for ratios in in_row))
    width = max(tall * sum(ratios) + gap * (len(ratios) + 1) for ratios in in_row)
    organs = present([panel.label_map_zyx for panel in panels]) if organs is None else organs
    lines = -(-len(organs) // max(1, int(width / 1.55)))
    legend = 0.2 * lines + 0.05
    total = len(rows) * (tall + above + below) + legend
    figure = Figure(figsize=(width, total), facecolor=_PAPER, dpi=80)
    for k, (row, ratios) in enumerate(zip(rows, in_row, strict=True)):
        bottom = total - (k + 1) * (tall + above + below) + below
        left = gap
        for panel, ratio in zip(row, ratios, strict=True):
            axes = figure.add_axes((left / width, bottom / total, tall * ratio / width, tall / total))
            _draw_panel(axes, panel)
            if panel.scale:
                bar = figure.add_axes(
                    (
                        (left + 0.1 * tall * ratio) / width,
                        (bottom - 0.3) / total,
                        0.8 * tall * ratio / width,
                        0.08 / total,
                    )
                )
                colors = figure.colorbar(axes.images[0], cax=bar, orientation="horizontal")
                colors.set_label(panel.scale, color=_INK, fontsize=8)
                bar.tick_params(colors=_INK, labelsize=7, pad=1)
                if np.issubdtype(panel.volume.array_zyx.dtype, np.integer):
                    bar.xaxis.set_major_locator(MaxNLocator(integer=True))
            left += tall * ratio + gap
    draw_legend(figure, organs, columns=-(-len(organs) // max(1, lines)))
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    volume = panel.volume
    draw_slice(
        axes,
        volume.array_zyx,
        panel.label_map_zyx,
        volume.spacing_zyx_mm,
        panel.plane,
        panel.index,
        window_hu=panel.window_hu,
        cmap="magma" if panel.scale else "gray",
    )
    for box, color, line in zip(panel.outlines, _OUTLINES, ("-", "--", ":"), strict=False):
        _draw_box(axes, box, volume, panel.plane, color, line)
    axes.set_title(panel.title, color=_INK, fontsize=9)


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


def present(label_maps: Sequence[np.ndarray | None]) -> list[int]:
    """Return the numbers of the organs that are in at least one of several label maps."""
    counted = [label_counts(labels) for labels in label_maps if labels is not None]
    return [organ.id for organ in ORGANS if any(counts[organ.id] for counts in counted)]


def draw_legend(figure: Figure, organ_ids: Sequence[int], *, columns: int = 7, ink: str = _INK) -> None:
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
    z_mm, y_mm, x_mm = extent_mm(body.shape_zyx, ct.spacing_zyx_mm)
    widths, height = (x_mm, x_mm, y_mm), max(z_mm, y_mm)
    figure = Figure(figsize=(11, 0.8 + len(label_maps) * 11 * height / sum(widths)), facecolor=_PAPER, dpi=80)
    grid = figure.subplots(
        len(label_maps), 3, squeeze=False, gridspec_kw={"width_ratios": widths, "wspace": 0.03, "hspace": 0.15}
    )
    figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.12)
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
    draw_legend(figure, present(given))
    return figure


@contextmanager
def plain_style() -> Iterator[None]:
    """Draw in the block as matplotlib does by itself, whatever the user's matplotlibrc asks for, such as LaTeX."""
    with style.context("default"):
        yield


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Save a figure, complete or not at all, in the format of its suffix; ValueError if the folder does not exist."""
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"the figure's folder must exist, got {path.parent}")
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, facecolor=figure.get_facecolor())
