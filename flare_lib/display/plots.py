"""Plain charts of the course: lines, bars, dots and the histogram of a CT, as wide as a page, one look for all.

A number that was not measured is NaN: it is written as "not measured", never drawn as 0.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from flare_lib.ct.labels import ORGANS
from flare_lib.ct.preprocess import WINDOW_HU

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")  # Okabe and Ito's
_ORGAN_COLORS = {o.name: o.color for o in ORGANS}
_EDGE = (Stroke(linewidth=3, foreground="#555555"), Normal())  # as bars have: white and yellow are seen on white, too
_TISSUES = {"air": -1000, "lung, stool": -700, "fat": -100, "water": 0, "organs, muscle": 60, "bone": 400}


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(11, height), layout="constrained", dpi=80)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def lines_figure(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    marks: Mapping[str, Sequence[float]] | None = None,
    style: str = "-",
    log: str = "",
    ylim: tuple[float | None, float | None] | None = None,
    height: float = 3.2,
    leftwards: bool = False,
) -> Figure:
    """Return lines, {name: (x, y)}, with vertical dashed `marks`, {name: positions}.

    A line that is named after an organ has the organ's colour, with an edge. `style` as in matplotlib ("o-" shows the
    points); `log`: the axes that are logarithmic, "x", "y" or "xy"; `leftwards`: x grows to the left, as on an axial
    slice.
    """
    figure, axes = _axes(height)
    for k, (name, (x, y)) in enumerate(series.items()):
        color, edge = _ORGAN_COLORS.get(name, COLORS[k % len(COLORS)]), _EDGE if name in _ORGAN_COLORS else None
        axes.plot(x, y, style, color=color, lw=2, label=name, path_effects=edge)
    for name, positions in (marks or {}).items():
        for k, at in enumerate(positions):
            axes.axvline(at, color="#999999", ls="--", lw=1, zorder=0, label=None if k else name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if ylim is not None:
        axes.set_ylim(*ylim)
    axes.set_title(title, fontsize=10, loc="left")
    for letter in log:
        axes.set(**{f"{letter}scale": "log"})
        _plain_ticks({"x": axes.xaxis, "y": axes.yaxis}[letter])
    axes.xaxis.set_inverted(leftwards)
    if len(series) + len(marks or {}) > 1:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _plain_ticks(axis: Axis) -> None:
    """Mark a logarithmic axis at 1, 2 and 5 times the powers of ten, and write these as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def bars_figure(
    series: Mapping[str, Mapping[str, float]],
    *,
    xlabel: str,
    title: str = "",
    log: bool = False,
    fmt: str = "{:.2f}",
    marks: Mapping[str, float] | None = None,
    stacked: bool = False,
) -> Figure:
    """Return horizontal bars, {series: {row: value}}, the first row on top, with each value beside its bar.

    Rows are those of the first series; a row that another lacks, and a value that is NaN, is "not measured"; a series
    without a single number has no bars, and the legend says so. `marks`: vertical lines, {name: position}. `stacked`:
    the series' bars follow each other, without values beside them.
    """
    rows = list(next(iter(series.values())))
    empty = [name for name, values in series.items() if np.isnan([values.get(row, np.nan) for row in rows]).all()]
    named, series = len(series) > 1, {name: values for name, values in series.items() if name not in empty}
    n_bars = max(1, len(series))
    figure, axes = _axes(0.9 + (0.32 if stacked else 0.22 * n_bars + 0.12) * len(rows))
    width, left = (0.7 if stacked else 0.8 / n_bars), np.zeros(len(rows))
    axes.use_sticky_edges = False  # else a bar of length 0 at the end of a stack would be the end of the axis
    known = [v for values in (*series.values(), marks or {}) for v in values.values() if v > 0]
    start = min(known, default=1.0) / 2 if log else 0.0
    for k, (name, values) in enumerate(series.items()):
        heights = np.array([values.get(row, np.nan) for row in rows])
        at = np.arange(len(rows)) + (0 if stacked else (k - (len(series) - 1) / 2) * width)
        axes.barh(at, np.nan_to_num(heights), width * 0.9, left=left if stacked else None, color=COLORS[k], label=name)
        if stacked:
            left += np.nan_to_num(heights)
            continue
        for y, value in zip(at, heights, strict=True):
            word = "not measured" if np.isnan(value) else fmt.format(value)
            x = start if np.isnan(value) else max(value, start)
            axes.annotate(word, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    for name, position in (marks or {}).items():
        axes.axvline(position, color="#999999", ls="--", lw=1)
        axes.text(position, -0.6, f" {name}", fontsize=8, color="#555555", va="bottom")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_xlabel(xlabel)
    if log:
        axes.set_xscale("log")
        axes.set_xlim(start, 3 * max(known, default=1.0))
        _plain_ticks(axes.xaxis)
    else:
        axes.margins(x=0.12)
        if not any(v < 0 for values in series.values() for v in values.values()):
            axes.set_xlim(left=0)
    axes.set_title(title, fontsize=10, loc="left", pad=14 if marks else 6)
    for name in empty:
        axes.plot([], [], " ", label=f"{name}: not measured")
    if named:
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda k: labels[k] not in series)  # bars first
        handles, labels = ([those[k] for k in order] for those in (handles, labels))
        axes.legend(handles, labels, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def dots_figure(series: Mapping[str, Sequence[float]], *, xlabel: str) -> Figure:
    """Return a row of dots for each arm of a study, {name: a value for each seed}, with a bar at their mean.

    The first arm is on top. If all arms have as many seeds, thin lines join the dots of each: they show what that seed
    says about the difference.
    """
    figure, axes = _axes(1.1 + 0.35 * len(series))
    title = "a dot: one seed; the bar: their mean"
    if len({len(values) for values in series.values()}) == 1 < len(series):
        title += "; a line: the same seed in every arm"
        axes.plot(list(series.values()), range(len(series)), "-", color="#bbbbbb", lw=1, zorder=0)
    for k, values in enumerate(series.values()):
        axes.plot(values, np.full(len(values), k), "o", color=COLORS[0], alpha=0.7)
        axes.plot(np.mean(values), k, "|", color=COLORS[1], ms=18, mew=3)
    axes.set_yticks(range(len(series)), list(series))
    axes.set_ylim(len(series) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.set_title(title, fontsize=9, loc="left")
    return figure


def hu_figure(array_zyx: np.ndarray, *, window_hu: tuple[float, float] = WINDOW_HU, title: str = "") -> Figure:
    """Return the histogram of a CT's HU (any shape), with what lies where; the window that the nets see is shaded."""
    figure, axes = _axes(3.0)
    counts, edges = np.histogram(array_zyx, bins=np.arange(-1050, 1050, 10))
    axes.stairs(counts / 1000, edges, fill=True, color="#8899aa")
    axes.axvspan(*window_hu, color="#e69f00", alpha=0.15)
    axes.set(yscale="log", xlabel="HU", ylabel="thousand voxels", xlim=(-1050, 1000))
    for name, hu in _TISSUES.items():
        box = {"fc": "white", "ec": "none", "alpha": 0.8}
        height = 0.17 if name == "organs, muscle" else 0.04  # beside "water" there is no room
        axes.text(
            hu, height, name, ha="center", va="bottom", fontsize=8, bbox=box, transform=axes.get_xaxis_transform()
        )
    axes.set_title(title, fontsize=10, loc="left")
    return figure
