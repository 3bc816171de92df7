"""The course's ideas with sliders, one function each: the heads, the margin, the tiles, slabs, distance, tolerance.

Each function prepares once whatever no slider changes and returns an `Explorer`, whose first picture is shown where
sliders do not work. Arrays are canonical (RAS+) ZYX, label maps 0 to 13.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import MaxNLocator
from scipy.spatial import cKDTree

from flare_lib.ct.labels import ORGANS, as_label_map, label_counts, organ, present_organs
from flare_lib.ct.resample import resample_nearest
from flare_lib.ct.roi import Box, bounding_box
from flare_lib.ct.volume import Triple, Volume
from flare_lib.display.drawing import draw_legend, legend_layout, organ_borders
from flare_lib.display.figures import Panel, panel_figure
from flare_lib.display.slices import organ_center, organ_colormap
from flare_lib.display.surfaces import OrganSurfaces
from flare_lib.display.widgets import Explorer
from flare_lib.evaluation.metrics import dice_scores, shares_inside
from flare_lib.inference.postprocess import reference_point, region_distances
from flare_lib.inference.sliding_window import tile_starts

_WRONG, _TILE, _FAR, _SEAM = "#ff3030", "#d55e00", "#ffffff", "#aaaaaa"
_PAGE, _ONE_SURFACE = 11.0, 6.5  # inches: the width of a page, and of a body alone on it


def head_explorer(
    image: Volume,
    head_label_maps: Sequence[np.ndarray],
    reference_zyx: np.ndarray,
    *,
    window: tuple[float, float],
    z: int,
) -> Explorer:
    """Compare the labels that a net's heads give, finest first, each on its own grid, with the reference (paper 2.2).

    `image` is what the net saw, shown between the two ends of `window`; `reference_zyx` lies on its grid. Sliders: the
    head (1 is the finest) and the slice. Raises ValueError for a reference of another shape, or for no heads.
    """
    as_label_map(reference_zyx, shape=image.shape_zyx)
    answers = [resample_nearest(answer, image.shape_zyx) for answer in head_label_maps]
    if not answers:
        raise ValueError("there must be at least one head, got none")
    there = np.array([(reference_zyx == o.id).any() for o in ORGANS])
    organs = present_organs(reference_zyx, *answers)
    dice = [dice_scores(answer, reference_zyx)[there].mean() if there.any() else np.nan for answer in answers]

    def draw(head: int, z: int) -> Figure:
        answer = answers[head - 1]
        wrong = Volume((answer[z] != reference_zyx[z])[None].view(np.uint8), image.spacing_zyx_mm, image.affine)
        grid = " x ".join(map(str, head_label_maps[head - 1].shape))
        return panel_figure(
            [
                Panel("the reference", image, "axial", z, reference_zyx, window),
                Panel(f"head {head}: {grid}, mean Dice {dice[head - 1]:.2f}", image, "axial", z, answer, window),
                Panel(f"white: wrong, {wrong.array_zyx.mean():.1%}", wrong, "axial", 0, None, (0, 1)),
            ],
            organs=organs,
        )

    return Explorer(draw, head=(1, len(answers), 1), z=(0, image.shape_zyx[0] - 1, z))


def roi_explorer(
    ct: Volume, label_map_zyx: np.ndarray, box: Box, *, margin_mm: float = 20.0, longest_mm: int = 60
) -> Explorer:
    """Widen a box by a margin: how large does the region get, and how much of the worst-hit organ is in it?

    `label_map_zyx`: on the CT's grid, used to count the shares; `box`: what the margin is added to (paper 2).
    Slider: the margin in mm. Raises ValueError for a label map of another shape.
    """
    as_label_map(label_map_zyx, shape=ct.shape_zyx)
    _, y, x = organ_center(label_map_zyx)
    totals = label_counts(label_map_zyx)

    def draw(margin_mm: int) -> Figure:
        roi = box.widen(float(margin_mm), ct.spacing_zyx_mm, ct.shape_zyx)
        shares = shares_inside(label_map_zyx, roi, totals=totals)
        there = ((share, o.name) for share, o in zip(shares, ORGANS, strict=True) if not np.isnan(share))
        share, worst = min(there, default=(1.0, ""))
        lost = "all organs lie inside" if share == 1 else f"worst hit: {worst}, {share:.1%} inside"
        litres = np.prod(roi.shape_zyx) * ct.voxel_ml / 1000
        titles = (f"margin {margin_mm} mm: {litres:.1f} litres", lost)
        views = zip(titles, ("coronal", "sagittal"), (y, x), strict=True)
        return panel_figure([Panel(title, ct, plane, at, label_map_zyx, outlines=(roi,)) for title, plane, at in views])

    return Explorer(draw, margin_mm=_with_start(0, longest_mm, round(margin_mm)))


def tile_explorer(shape_zyx: Sequence[int], patch_size: Sequence[int], *, tile_step: float = 0.5) -> Explorer:
    """Show from the front how many tiles of a sliding window see each voxel, and where one tile lies (paper 4.6).

    `shape_zyx`, `patch_size` in voxels, ZYX. Sliders: the step, in patches, and the number of a tile in the front
    layer; after the last tile, numbers start over.
    """

    def draw(step: float, tile: int) -> Figure:
        starts = [tile_starts(n, p, round(step, 2)) for n, p in zip(shape_zyx, patch_size, strict=True)]
        seen_z, seen_x = (
            np.sum([((at := np.arange(shape_zyx[a])) >= s) & (at < s + patch_size[a]) for s in starts[a]], axis=0)
            for a in (0, 2)
        )
        counts = seen_z[:, None] * seen_x * len(starts[1])
        figure = Figure(figsize=(2.2 + min(8.8, 3.8 * shape_zyx[2] / shape_zyx[0]), 4.6), layout="constrained", dpi=80)
        axes = figure.subplots()
        picture = axes.imshow(counts, origin="lower", cmap="cividis", vmin=1, vmax=max(2, counts.max()))
        figure.colorbar(picture, label="tiles that see a voxel, at most").locator = MaxNLocator(integer=True)
        front = [(z, x) for z in starts[0] for x in starts[2]]
        z, x = front[tile % len(front)]
        axes.add_patch(Rectangle((x, z), patch_size[2], patch_size[0], fill=False, ec=_TILE, lw=3, clip_on=False))
        axes.xaxis.set_inverted(True)  # the patient's right is on the left, as in the slices
        title = f"step {step:g}: {np.prod([len(s) for s in starts])} tiles, seen from the front"
        axes.set(title=title, xlabel="R    x, voxels    L", ylabel="z, voxels")
        return figure

    return Explorer(draw, step=_with_start(0.2, 1.0, tile_step, 0.1), tile=(0, 8, 0))


def slab_explorer(
    labels_in_slabs: Callable[[int], np.ndarray], reference_zyx: np.ndarray, *, n_slabs: int = 4, most: int = 8
) -> Explorer:
    """Show the labels of a resize in N slabs, white wherever they differ from the reference (paper 2.5).

    `labels_in_slabs(N)` returns the label map; it is called once for every N. Organs are dimmed, so that white means
    nothing else. Dashed lines are the seams, where the output is cut into N parts of one height. Sliders: N and the
    coronal slice.
    """
    made: dict[int, np.ndarray] = {}
    n_slices, n_rows, n_columns = reference_zyx.shape
    organs = present_organs(reference_zyx)
    black = np.full((n_slices, 1, n_columns), -1000, np.int16)
    ground = Volume.from_array(black, (1.0, 1.0, 1.0))

    def draw(n: int, y: int) -> Figure:
        if n not in made:
            made[n] = labels_in_slabs(n)
        differs = made[n] != reference_zyx
        title = f"N = {n}: {differs.sum():,} voxels differ, {differs[:, y].sum():,} of them in this slice (white)"
        figure = panel_figure([Panel(title, ground, "coronal", 0)], height=7.0, organs=organs)
        axes = figure.axes[0]
        colors = organ_colormap()(made[n][:, y, ::-1]) * (1, 1, 1, 0.6)
        colors[differs[:, y, ::-1]] = 1.0
        axes.imshow(colors, origin="lower", extent=(0, n_columns, 0, n_slices), interpolation="nearest")
        for seam in np.linspace(0, n_slices, n + 1).round()[1:-1]:
            axes.axhline(seam, color=_SEAM, ls="--", lw=1, zorder=4)
        return figure

    return Explorer(draw, n=_with_start(1, most, n_slabs), y=(0, n_rows - 1, n_rows // 2))


def distance_explorer(ct: Volume, label_map_zyx: np.ndarray, *, y: int, max_distance_mm: float = 170.0) -> Explorer:
    """Show what the distance rule of the clean-up removes: coronal slice `y`, with the reference point as a cross.

    What it removes, outlined in white, are connected regions, of whatever organs; the title names each by its largest
    organ, with its distance. Slider: the threshold in mm, up to beyond the farthest region (paper 2.4). Raises
    ValueError for a label map of another shape, or for one without a point to measure from.
    """
    as_label_map(label_map_zyx, shape=ct.shape_zyx)
    origin = reference_point(label_map_zyx, ct.spacing_zyx_mm)
    if origin is None:
        raise ValueError("there must be aorta and vena cava, or a liver, to measure from, got neither")
    ids, distances_mm = region_distances(label_map_zyx, ct.spacing_zyx_mm)
    pieces = sorted(((far, _name(label_map_zyx[ids == k])) for k, far in enumerate(distances_mm) if k), reverse=True)
    organs = present_organs(label_map_zyx[:, y])
    here_mm = distances_mm[ids[:, y]]  # (z, x) of the slice
    z_mm, _, x_mm = origin.point_zyx_mm
    in_mm = (ct.spacing_zyx_mm[2], ct.spacing_zyx_mm[0])
    center = (ct.size_mm_zyx[2] - x_mm - ct.spacing_zyx_mm[2] / 2, z_mm + ct.spacing_zyx_mm[0] / 2)

    def draw(mm: int) -> Figure:
        kept = label_map_zyx[:, y : y + 1] * (here_mm <= mm)[:, None]
        gone = "; ".join([f"{name}, {far:.0f} mm away" for far, name in pieces if far > mm][:3]) or "nothing"
        slice_y = Volume(ct.array_zyx[:, y : y + 1], ct.spacing_zyx_mm, ct.affine)
        figure = panel_figure([Panel(f"{mm} mm; gone: {gone}", slice_y, "coronal", 0, kept)], height=6.5, organs=organs)
        lines, _ = organ_borders((label_map_zyx[:, y, ::-1] > 0) & (here_mm[:, ::-1] > mm))
        figure.axes[0].add_collection(LineCollection(list(lines * in_mm), colors=_FAR, linewidths=2))
        figure.axes[0].plot(*center, "+", color=_FAR, ms=14, mew=2)
        figure.axes[0].add_patch(Circle(center, mm, fill=False, ec=_FAR, ls="--"))
        return figure

    farthest_mm = max(300, 10 * int(distances_mm.max() // 10) + 20)
    return Explorer(draw, mm=_with_start(20, farthest_mm, round(max_distance_mm)))


def _with_start(first: float, last: float, start: float, *step: float) -> tuple[float, ...]:
    """Return a slider's range, widened to where it starts: a notebook's parameters may ask for more than it offers."""
    return (min(first, start), max(last, start), start, *step)


def _name(labels: np.ndarray) -> str:
    """Return the organ that most of a region's labels (n,) are, and whether there are others."""
    counts = label_counts(labels)
    others = " and others" if (counts[1:] > 0).sum() > 1 else ""
    return ORGANS[counts[1:].argmax()].name + others


def tolerance_explorer(
    ct: Volume,
    prediction_zyx: np.ndarray,
    reference_zyx: np.ndarray,
    *,
    z: int,
    organs: Sequence[str] = ("liver", "stomach"),
    tolerance_mm: float = 2.0,
) -> Explorer:
    """Show organ borders in axial slice `z`, white edged with red where the reference's is farther than a tolerance.

    Borders are voxels with a neighbour outside, and distances are between their centres in 3-D: an illustration of NSD
    rather than NSD itself. Slider: the tolerance in mm. Raises ValueError for label maps of another shape or an unknown
    organ.
    """
    for labels in (prediction_zyx, reference_zyx):
        as_label_map(labels, shape=ct.shape_zyx)
    borders = {}
    for name in organs:
        found, true = (_border(labels == organ(name).id) for labels in (prediction_zyx, reference_zyx))
        here = found[found[:, 0] == z]
        tree = cKDTree(true * ct.spacing_zyx_mm) if len(true) else None
        far_mm = np.full(len(here), np.inf) if tree is None else tree.query(here * ct.spacing_zyx_mm)[0]
        borders[name] = (here, far_mm)
    _, height_mm, width_mm = ct.size_mm_zyx

    def draw(mm: float) -> Figure:
        figure = panel_figure([Panel("", ct, "axial", z)], height=6.5, organs=[organ(name).id for name in organs])
        axes, shares = figure.axes[0], []
        for name, (here, far_mm) in borders.items():
            wrong = far_mm > mm + 1e-6
            x, y = ((here[:, a] + 0.5) * ct.spacing_zyx_mm[a] for a in (2, 1))
            axes.scatter(width_mm - x, y, 14, organ(name).color, marker="s", linewidths=0)
            axes.scatter(width_mm - x[wrong], y[wrong], 14, "#ffffff", marker="s", linewidths=1.2, edgecolors=_WRONG)
            shares.append(f"{name} {1 - wrong.mean():.0%}" if len(here) else f"{name}: not in this slice")
        axes.set_xlim(0, width_mm)
        axes.set_ylim(0, height_mm)
        axes.title.set_text(f"within {mm:g} mm in this slice: {', '.join(shares)}")
        return figure

    return Explorer(draw, mm=_with_start(0.0, 12.0, tolerance_mm, 0.1))


def _border(mask: np.ndarray) -> np.ndarray:
    """Return the voxels (n, 3) of a mask with at least one of their six neighbours outside it."""
    box = bounding_box(mask)
    if box is None:
        return np.empty((0, 3), int)
    inside = np.pad(mask[box.slices], 1)
    core = inside[1:-1, 1:-1, 1:-1].copy()
    for axis in range(3):
        for side in (slice(None, -2), slice(2, None)):
            core &= inside[tuple(side if a == axis else slice(1, -1) for a in range(3))]
    return np.argwhere(mask[box.slices] & ~core) + box.start_zyx


def surface_explorer(
    label_maps: Mapping[str, np.ndarray], spacing_zyx_mm: Triple, *, pixel_mm: float = 1.5, degrees: int = 20
) -> Explorer:
    """Turn label maps, {title: labels}, shown side by side as solid surfaces (in the style of the paper's Fig. 5 to 7).

    They share a frame: what lies in the same place in two maps lies in the same place in their pictures. Slider: the
    side they are seen from, in degrees; 0 is the front. Raises ValueError for no maps, or for maps of several shapes.
    """
    shapes = {labels.shape for labels in label_maps.values()}
    if len(shapes) != 1:
        raise ValueError(f"label maps side by side must have one shape, got {sorted(shapes)}")
    box = bounding_box(np.any([labels > 0 for labels in label_maps.values()], axis=0))
    surfaces = {
        title: OrganSurfaces(labels, spacing_zyx_mm, pixel_mm=pixel_mm, box=box) for title, labels in label_maps.items()
    }
    organs = present_organs(*label_maps.values())

    def draw(degrees: int) -> Figure:
        return surface_figure({title: surface.picture(degrees) for title, surface in surfaces.items()}, organs)

    return Explorer(draw, degrees=(-180, 180, degrees))


def surface_figure(pictures: Mapping[str, np.ndarray], organs: Sequence[int]) -> Figure:
    """Return pictures of surfaces, {title: RGB of one shape}, side by side above the legend of `organs`, their ids."""
    wide = min(_ONE_SURFACE, _PAGE / len(pictures))
    rows, columns = next(iter(pictures.values())).shape[:2]
    tall, title = wide * rows / columns, 0.4
    legend_columns, legend = legend_layout(len(organs), wide * len(pictures))
    figure = Figure(figsize=(wide * len(pictures), title + tall + legend), dpi=80)
    for k, (name, picture) in enumerate(pictures.items()):
        bottom, height = (part / (title + tall + legend) for part in (legend, tall))
        axes = figure.add_axes((k / len(pictures), bottom, 1 / len(pictures), height))
        axes.imshow(picture, interpolation="bilinear")
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    draw_legend(figure, organs, columns=legend_columns, ink="#222222")
    return figure
