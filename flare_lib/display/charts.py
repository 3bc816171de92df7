"""Charts of times, scores and losses, as matplotlib `Figure` objects, with organs in their own colours."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from flare_lib.ct.labels import ORGANS
from flare_lib.evaluation.efficiency import Efficiency

_LOSS_COLORS = {"loss": "#333333", "supervised": "#0072b2", "consistency": "#d55e00"}


def timing_figure(seconds: Mapping[str, float], *, title: str = "Where the time goes") -> Figure:
    """Return a chart of one bar per step, {step: seconds}, the first step on top, its time beside it."""
    figure = Figure(figsize=(7, 0.6 + 0.3 * len(seconds)), layout="constrained", dpi=80)
    axes = figure.subplots()
    bars = axes.barh(list(seconds), list(seconds.values()), color="#4477aa")
    axes.bar_label(bars, fmt="%.2f s", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("seconds")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def dice_figure(series: Mapping[str, np.ndarray], *, title: str = "Dice per organ", ylabel: str = "Dice") -> Figure:
    """Return the Dice of 13 organs as bars in the organs' colours: a group per organ, a bar per series {name: (13,)}.

    One or two series have their scores written on the bars. NaN (an organ that the reference lacks) is "n/a", a score
    of about 0 is "0". Later series are hatched.
    """
    figure = Figure(figsize=(11, 3.2), layout="constrained", dpi=80)
    axes = figure.subplots()
    width = 0.8 / len(series)
    for k, (name, scores) in enumerate(series.items()):
        at = np.arange(len(ORGANS)) + (k - (len(series) - 1) / 2) * width
        colors = [organ.color for organ in ORGANS]
        axes.bar(at, scores, width, color=colors, edgecolor="#333333", hatch=("", "//", "xx")[k % 3], label=name)
        for x, score in zip(at, scores, strict=True):
            word = "n/a" if np.isnan(score) else f"{score:.2f}" if score >= 0.005 else "0"
            if len(series) < 3 or score < 0.005 or word == "n/a":
                foot, ink = np.nan_to_num(score) + 0.01, "#777777" if word == "n/a" else "#222222"
                axes.text(x, foot, word, ha="center", va="bottom", fontsize=8 if len(series) == 1 else 7, color=ink)
    axes.set_xticks(range(len(ORGANS)), [organ.abbreviation for organ in ORGANS])
    axes.set_ylim(0, 1.08)  # a number stands above the highest bar too
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:  # on top, where it hides no bar
        axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(series), frameon=False)
    return figure


def score_boxes_figure(dice: Sequence[np.ndarray], nsd: Sequence[np.ndarray]) -> Figure:
    """Return two box plots over cases, DSC and NSD, one box per organ; each case is (13,), and NaN is left out.

    The box holds the middle half of the cases, the line is their median, the whiskers reach 1.5 times as far; every
    case is a dot.
    """
    figure = Figure(figsize=(9, 5), layout="constrained", dpi=80)
    for axes, name, cases in zip(figure.subplots(2, 1, sharex=True), ("DSC", "NSD"), (dice, nsd), strict=True):
        scores = np.array(cases, float)
        per_organ = [column[~np.isnan(column)] for column in scores.T]
        boxes = axes.boxplot(
            per_organ, positions=range(len(ORGANS)), widths=0.6, patch_artist=True, showfliers=False, manage_ticks=False
        )
        for box, organ in zip(boxes["boxes"], ORGANS, strict=True):
            box.set_facecolor(organ.color)
        for line in boxes["medians"]:
            line.set_color("#000000")
        for k, column in enumerate(per_organ):
            axes.scatter(np.full(len(column), k) + np.linspace(-0.2, 0.2, len(column)), column, 6, "#333333", zorder=3)
        axes.set_ylim(0, 1.03)
        axes.set_ylabel(name)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks(range(len(ORGANS)), [organ.abbreviation for organ in ORGANS])
    return figure


def efficiency_figure(run: Efficiency, *, title: str = "") -> Figure:
    """Return CPU, memory and, if measured, GPU memory of a run against time, with its steps as grey, named bands.

    CPU and memory are those of the process and everything it started; GPU memory is that of the whole machine.
    """
    curves = [("CPU, % of a core", "process_cpu_percent"), ("memory, MiB", "process_ram_mib")]
    curves += [("GPU memory, MiB", "machine_gpu_mib")] if "machine_gpu_mib" in run.curves else []
    figure = Figure(figsize=(9, 1 + 1.6 * len(curves)), layout="constrained", dpi=80)
    rows = figure.subplots(len(curves), 1, sharex=True)
    times = np.concatenate([np.zeros(min(1, run.times_s.size)), run.times_s])
    for axes, (name, curve) in zip(rows, curves, strict=True):
        values = np.concatenate([run.curves[curve][:1], run.curves[curve]])  # the first sample holds from the start
        axes.fill_between(times, values, step="pre", color="#4477aa", alpha=0.35, linewidth=0)
        axes.step(times, values, where="pre", color="#4477aa")
        axes.set(ylabel=name, ylim=(0, None))
        axes.yaxis.label.set_fontsize(8)
        axes.spines[["top", "right"]].set_visible(False)
        for k, (_, start, end) in enumerate(run.steps):
            axes.axvspan(start, end, color="#999999" if k % 2 else "#dddddd", alpha=0.3, linewidth=0, zorder=0)
    for name, start, end in run.steps:
        if end - start > 0.03 * run.seconds:  # name the steps that have room for it
            x, top = (start + end) / 2, rows[0].get_xaxis_transform()
            rows[0].text(x, 1.02, name, rotation=20, ha="left", va="bottom", fontsize=7, transform=top)
    rows[-1].set_xlabel("seconds")
    rows[-1].set_xlim(0, run.seconds or 1)
    figure.suptitle(title, fontsize=10)
    return figure


def loss_figure(entries: Sequence[Mapping[str, float]], *, smooth: int = 10, title: str = "Training") -> Figure:
    """Return the losses of a run against its steps, "supervised" and "consistency", as far as its log has them.

    `entries` as `training.loop` logs them, one per step, each with "step"; a line is the running mean over `smooth`
    steps, or as many as there are. Raises ValueError for no entries.
    """
    if not entries:
        raise ValueError("a chart of losses needs at least one entry, got none")
    figure = Figure(figsize=(11, 2.8), layout="constrained", dpi=80)
    axes = figure.subplots()
    window = min(smooth, len(entries))
    names = [name for name in _LOSS_COLORS if name in entries[0]]
    if names == ["loss", "supervised"]:
        names = ["supervised"]  # without a second term, this is the total
    if len(names) == 3:
        names = names[1:]  # the total would hide the supervised loss, of which it is nearly all
    for name in names:
        means = np.convolve([entry[name] for entry in entries], np.ones(window) / window, mode="valid")
        axes.plot([entry["step"] for entry in entries][window - 1 :], means, color=_LOSS_COLORS[name], label=name)
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None), title=title)
    axes.title.set_fontsize(10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    return figure
