"""Pictures with sliders, for notebooks.

Every picture is a PNG in an `ipywidgets.Image`, redrawn when a slider moves: it needs no figure window and works
wherever widgets work. Where nothing drives them (an executed notebook on the web, a printout), the first picture is
shown instead. The slider with the focus moves with the arrow keys.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from flare_lib.ct.labels import as_label_map, present_organs
from flare_lib.ct.volume import Volume, triple
from flare_lib.display.drawing import INK, draw_legend
from flare_lib.display.slices import (
    DISPLAY_WINDOW_HU,
    PLANES,
    SIDES,
    in_plane,
    organ_center,
    plane_axis,
    slice_picture,
)
from flare_lib.machine.extras import extra

with extra("notebooks"):
    import ipywidgets as w

_CROSS = np.array((255, 210, 60), np.uint8)
_AXES = ("z", "y", "x")


def png(picture: np.ndarray) -> bytes:
    """Return an RGB picture, uint8 (rows, columns, 3), as a PNG, compressed for speed rather than size."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


class Viewer(w.VBox):
    """A box of widgets that leaves a static picture where widgets cannot be drawn. Subclasses say which picture."""

    def static_picture(self) -> np.ndarray:
        """Return the current view as one RGB picture, uint8 (rows, columns, 3)."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, *metadata = bundle if isinstance(bundle, tuple) else (bundle,)
        data = {**data, "image/png": png(self.static_picture())}
        return (data, *metadata) if metadata else data


class Explorer(Viewer):
    """One picture that a function draws from the sliders' values: `Explorer(draw, z=(0, 40, 12), mm=(0, 9, 2, 0.5))`.

    `draw(**values)` returns an RGB picture, uint8 (rows, columns, 3), or a matplotlib `Figure`. `ranges` gives one
    slider each, {name: (first, last, start)} in whole numbers, or with a step as the fourth value. A picture that was
    drawn once is kept. Raises ValueError for no ranges, or for a start outside its range.
    """

    def __init__(self, draw: Callable[..., np.ndarray | Figure], **ranges: tuple[float, ...]) -> None:
        if not ranges or not all(low <= at <= high for low, high, at, *_ in ranges.values()):
            raise ValueError(f"every range must be (first, last, start) with start from first to last, got {ranges}")
        self._draw = draw
        self._drawn: dict[tuple[float, ...], np.ndarray] = {}
        self.sliders = {name: _slider(name.replace("_", " "), *values) for name, values in ranges.items()}
        # at its own size: a box would stretch it to the width of the page
        own_size = w.Layout(align_self="flex-start", max_width="100%")
        self.image = w.Image(value=png(self.static_picture()), format="png", layout=own_size)
        for slider in self.sliders.values():
            slider.observe(self._show, names="value")
        super().__init__([self.image, w.HBox(list(self.sliders.values()))])

    def static_picture(self) -> np.ndarray:
        """Return the picture for the sliders' current values, RGB uint8 (rows, columns, 3)."""
        values = tuple(slider.value for slider in self.sliders.values())
        if values not in self._drawn:
            drawn = self._draw(**dict(zip(self.sliders, values, strict=True)))
            self._drawn[values] = pixels(drawn) if isinstance(drawn, Figure) else drawn
        return self._drawn[values]

    def _show(self, _change: object) -> None:
        self.image.value = png(self.static_picture())


def _slider(description: str, first: float, last: float, at: float, step: float | None = None) -> w.Widget:
    """Return a slider for whole numbers, or for steps, wide enough to read its whole name."""
    look = {
        "min": first,
        "max": last,
        "value": at,
        "description": description,
        "style": {"description_width": "initial"},
    }
    return w.IntSlider(**look) if step is None else w.FloatSlider(**look, step=step, readout_format=".1f")


def pixels(figure: Figure) -> np.ndarray:
    """Return a figure as RGB uint8 (rows, columns, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _caption(width_px: int, sides: dict[tuple[int, int], tuple[str, str]], organs: Sequence[int]) -> np.ndarray:
    """Return what stands below slices, RGB uint8 (rows, `width_px`, 3): the letters of their sides and a legend.

    `sides`: {(left, right) in pixels: (R, L)}; `organs`: the ids in the legend.
    """
    columns = max(1, width_px // 125)
    height = (18 if sides else 0) + 18 * -(-len(organs) // columns) + 4
    figure = Figure(figsize=(width_px / 80, height / 80), facecolor="black", dpi=80)
    for (left, right), letters in sides.items():
        for x, letter, align in ((left, letters[0], "left"), (right, letters[1], "right")):
            figure.text(x / width_px, 0.98, letter, color=INK, fontsize=9, ha=align, va="top")
    draw_legend(figure, organs, columns=columns)
    return pixels(figure)


class SliceViewer(Viewer):
    """A CT in three planes with its organs drawn over it, and sliders for slice, window, level and opacity.

    `ct` in HU; `label_map_zyx` 0 to 13 on its grid, or None; `center_zyx`: the slices to start with (default: those
    with the most organs, or the middle); `width_px`: of all three planes together. Pixels are square in mm whatever the
    spacing; a thin cross shows where the other two planes cut. Raises ValueError if the label map has another shape.
    """

    def __init__(
        self,
        ct: Volume,
        label_map_zyx: np.ndarray | None = None,
        *,
        center_zyx: tuple[int, int, int] | None = None,
        window_hu: tuple[float, float] = DISPLAY_WINDOW_HU,
        opacity: float = 0.45,
        width_px: int = 900,
    ) -> None:
        if label_map_zyx is not None:
            as_label_map(label_map_zyx, shape=ct.shape_zyx)
        self._ct, self._labels = ct, label_map_zyx
        if center_zyx is None:
            middle = triple(n // 2 for n in ct.shape_zyx)
            center_zyx = middle if label_map_zyx is None else organ_center(label_map_zyx)
        _, y_mm, x_mm = ct.size_mm_zyx
        self._pixel_mm = (2 * x_mm + y_mm) / width_px
        self.slices = [
            w.IntSlider(value=at, min=0, max=n - 1, description=f"{plane}, {axis}")
            for at, n, plane, axis in zip(center_zyx, ct.shape_zyx, PLANES, _AXES, strict=True)
        ]
        low, high = window_hu
        self.level = w.IntSlider(value=round((low + high) / 2), min=-1000, max=1000, step=10, description="level, HU")
        self.width = w.IntSlider(value=round(high - low), min=10, max=2000, step=10, description="width, HU")
        self.opacity = w.FloatSlider(value=opacity, min=0, max=1, step=0.05, description="opacity")
        self.images = [w.Image(format="png") for _ in PLANES]
        look = [self.level, self.width, *([] if label_map_zyx is None else [self.opacity])]
        for slider in (*self.slices, *look):
            slider.observe(self._draw, names="value")
        self._draw()
        columns = [w.VBox([image, slider]) for image, slider in zip(self.images, self.slices, strict=True)]
        self._organs = present_organs(label_map_zyx)
        legend = [w.Image(value=png(_caption(width_px, {}, self._organs)), format="png")] if self._organs else []
        super().__init__([w.HBox(columns), *legend, w.HBox(look)])

    def pictures(self) -> list[np.ndarray]:
        """Return the three planes as currently shown, RGB uint8 (rows, columns, 3)."""
        half = self.width.value / 2
        window_hu = (self.level.value - half, self.level.value + half)
        return [self._picture(plane, window_hu) for plane in PLANES]

    def static_picture(self) -> np.ndarray:
        """Return the three planes side by side, with their upper edges aligned, their sides and a legend below."""
        pictures = self.pictures()
        tallest = max(picture.shape[0] for picture in pictures)
        row = np.hstack([np.pad(p, [(0, tallest - p.shape[0]), (0, 4), (0, 0)]) for p in pictures])
        sides, left = {}, 0
        for picture, plane in zip(pictures, PLANES, strict=True):
            sides[left, left + picture.shape[1]] = SIDES[plane]
            left += picture.shape[1] + 4
        return np.vstack([row, _caption(row.shape[1], sides, self._organs)])

    def _draw(self, _change: object = None) -> None:
        for image, picture in zip(self.images, self.pictures(), strict=True):
            image.value = png(picture)

    def _picture(self, plane: str, window_hu: tuple[float, float]) -> np.ndarray:
        """Return one plane with a cross that marks the other two."""
        at = [slider.value for slider in self.slices]
        picture = slice_picture(
            self._ct.array_zyx,
            self._labels,
            self._ct.spacing_zyx_mm,
            plane,
            at[plane_axis(plane)],
            pixel_mm=self._pixel_mm,
            window_hu=window_hu,
            opacity=self.opacity.value,
        )
        for direction, a in enumerate(in_plane(range(3), plane)):
            n = picture.shape[direction]
            line = n - 1 - int((at[a] + 0.5) / self._ct.shape_zyx[a] * n)  # both directions of a slice are reversed
            across = np.moveaxis(picture, direction, 0)
            across[line] = across[line] // 2 + _CROSS // 2
        return picture
