"""Figures of CTs and organs: slices side by side, label maps compared row by row; and how a figure is saved.

Each is a matplotlib `Figure` of slices as `drawing` draws them. Arrays are canonical (RAS+) ZYX.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flare_lib.ct.labels import as_label_map, present_organs
from flare_lib.ct.preprocess import find_foreground
from flare_lib.ct.roi import Box
from flare_lib.ct.volume import Volume, extent_mm
from flare_lib.display.drawing import INK, PAPER, draw_box, draw_legend, draw_slice, legend_layout
from flare_lib.display.slices import DISPLAY_WINDOW_HU, PLANES, in_plane, organ_center
from flare_lib.machine.atomic_write import atomic_write

_OUTLINES = ("#e69f00", "#56b4e9", "#f0e442")
_ROOM_MM = 10.0  # space around the body
_PAGE, _TALLEST = 11.0, 4.2  # inches: the width of a page, and the most that one row of slices takes of its height


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
    organs = present_organs(*(panel.label_map_zyx for panel in panels)) if organs is None else organs
    legend_columns, legend = legend_layout(len(organs), width)
    total = len(rows) * (tall + above + below) + legend
    figure = Figure(figsize=(width, total), facecolor=PAPER, dpi=80)
    for k, (row, ratios) in enumerate(zip(rows, in_row, strict=True)):
        bottom = total - (k + 1) * (tall + above + below) + below
        left = gap
        for panel, ratio in zip(row, ratios, strict=True):
            axes = figure.add_axes((left / width, bottom / total, tall * ratio / width, tall / total))
            _draw_panel(axes, panel)
            if panel.scale:
                wide, under = 0.8 * tall * ratio, bottom - 0.3
                place = ((left + 0.1 * tall * ratio) / width, under / total, wide / width, 0.08 / total)
                _draw_scale(figure.add_axes(place), axes, panel)
            left += tall * ratio + gap
    draw_legend(figure, organs, columns=legend_columns)
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
        draw_box(axes, box, volume, panel.plane, color, line)
    axes.set_title(panel.title, color=INK, fontsize=9)


def _draw_scale(bar: Axes, axes: Axes, panel: Panel) -> None:
    """Draw into `bar` which colours of the panel in `axes` stand for which values."""
    colors = bar.figure.colorbar(axes.images[0], cax=bar, orientation="horizontal")
    colors.set_label(panel.scale, color=INK, fontsize=8)
    bar.tick_params(colors=INK, labelsize=7, pad=1)
    if np.issubdtype(panel.volume.array_zyx.dtype, np.integer):
        bar.xaxis.set_major_locator(MaxNLocator(integer=True))


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
    figure = Figure(figsize=(11, 0.8 + len(label_maps) * 11 * height / sum(widths)), facecolor=PAPER, dpi=80)
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
            row[0].set_title(f"{title}: {row[0].get_title()}", color=INK, fontsize=9)
    draw_legend(figure, present_organs(*given))
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
