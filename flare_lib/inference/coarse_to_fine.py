"""The whole way for one CT: find the organs at low resolution, look closely, return labels on the CT's own grid.

    CT -> foreground -> coarse net -> clean-up -> region of interest -> fine net -> resize + argmax -> clean-up -> paste

Paper section 2 and Fig. 1; the margin of the region and the clean-up's distance follow the authors' engine.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from flare_lib.ct.hu import hu_doubts
from flare_lib.ct.preprocess import find_foreground
from flare_lib.ct.resample import place_resampled
from flare_lib.ct.roi import Box, bounding_box, check_margin, crop_volume, paste
from flare_lib.ct.volume import Triple, Volume, check_volume
from flare_lib.inference.plausibility import anatomy_doubts
from flare_lib.inference.postprocess import MAX_DISTANCE_MM, MIN_SHARE, Report, check_rules, postprocess, without_specks
from flare_lib.inference.slice_interpolation import mean_slabs, resize_argmax
from flare_lib.inference.sliding_window import Slab, Weights, fitted_patch, sliding_window
from flare_lib.inference.stages import PatchPredictor, ResizablePredictor, Stage, patch_mm_of, scale_of, views_of
from flare_lib.inference.thin_scans import lowered_if_thin
from flare_lib.machine.progress import StageProgress, of_stage

Predictor = TypeVar("Predictor", bound=PatchPredictor)
# what `postprocess` does once its settings are chosen
CleanUp = Callable[[np.ndarray, Triple], tuple[np.ndarray, Report]]


@dataclass(frozen=True)
class Segmentation:
    """What `segment` returns.

    `label_map_zyx`: uint8, the CT's shape. `coarse`: the coarse stage's labels, cleaned up, on its own grid; the result
    itself if there was no coarse stage. `roi`: the box of the CT that the fine stage looked at. `seconds`: {step: wall
    time}. `notes`: what anyone who uses the result should know: a fallback that was taken, grey values that may not be
    HU, doubtful anatomy. `clean_up`: {stage: what its clean-up removed}. `precision`: {stage: the number format its net
    computed in}.
    """

    label_map_zyx: np.ndarray
    coarse: Volume
    roi: Box
    seconds: dict[str, float]
    notes: tuple[str, ...]
    clean_up: dict[str, Report] = field(default_factory=dict)
    precision: dict[str, str] = field(default_factory=dict)


def segment(
    ct: Volume,
    coarse: Stage,
    fine: Stage,
    *,
    margin_mm: float = 20.0,
    max_distance_mm: float = MAX_DISTANCE_MM,
    min_share: float = MIN_SHARE,
    tile_steps: tuple[float, float] = (1.0, 0.5),
    fit_tiles: float = 1.0,
    clean_up: bool = True,
    progress: StageProgress | None = None,
) -> Segmentation:
    """Segment the 13 organs of one CT, coarse to fine.

    `margin_mm` widens the box around the organs that the coarse stage found; where that is smaller than one patch of
    the fine stage, it grows to the patch. `max_distance_mm` is how far from the great vessels a region may lie; of thin
    organs and the stomach, pieces of at least `min_share` of the largest one's size stay (1: the paper's rule);
    `clean_up=False` skips the post-processing after both stages. `tile_steps` are those of the coarse and the fine
    sliding window, in patches. `fit_tiles`: the most voxels of a tile of the fine stage, in patches; above 1, tiles are
    fitted to the region (`fitted_patch`), unless the stage cannot change its patch. `progress(stage, tiles done, tiles
    in total)` is called along the way. If the coarse stage finds nothing, the fine stage looks at the whole foreground,
    and the notes say so. A body no higher than a quarter of the fine stage's patch is shown in lower ones
    (`thin_scans`). Raises the errors of `check_volume`, `check_rules` and `check_margin` before any work is done,
    ValueError for a step outside (0, 1] or a `fit_tiles` below 1, and MemoryError if a device is full.
    """
    check_margin(margin_mm)
    check_volume(ct, "ct")
    run = Run(_rules(max_distance_mm, min_share) if clean_up else None, progress, no_specks=clean_up)
    foreground = find_foreground(ct.array_zyx)
    body = crop_volume(ct, foreground)
    run.lap("foreground")
    coarse, fine = lowered_if_thin(body, coarse, fine)
    seen, roi = run.find_region(body, coarse, tile_steps[0], margin_mm)
    # a patch that reaches beyond a small region shows what lies there, not air: a neck is known by its jaw
    roi = roi.grow(np.max([patch_mm_of(view) for view in views_of(fine)], axis=0), body.spacing_zyx_mm, body.shape_zyx)
    fine_labels = run.segment_region(crop_volume(body, roi), fine, tile_steps[1], "fine", fit_tiles)
    return run.result(ct, fine_labels, roi.shift(foreground.start_zyx), seen, scale=scale_of(fine))


def segment_in_one_stage(
    ct: Volume,
    stage: Stage,
    *,
    tile_step: float = 0.5,
    fit_tiles: float = 1.0,
    max_distance_mm: float = MAX_DISTANCE_MM,
    min_share: float = MIN_SHARE,
    clean_up: bool = True,
    progress: StageProgress | None = None,
) -> Segmentation:
    """Segment a CT with one net that looks at the whole foreground, as plain nnU-Net does (paper 4, the baseline).

    Arguments and errors as in `segment`; the region of interest is the foreground.
    """
    check_volume(ct, "ct")
    run = Run(_rules(max_distance_mm, min_share) if clean_up else None, progress, no_specks=clean_up)
    foreground = find_foreground(ct.array_zyx)
    body = crop_volume(ct, foreground)
    run.lap("foreground")
    [stage] = lowered_if_thin(body, stage)
    labels = run.segment_region(body, stage, tile_step, "one stage", fit_tiles)
    return run.result(ct, labels, foreground, None, scale=scale_of(stage))


def _rules(max_distance_mm: float, min_share: float) -> CleanUp:
    """Return the clean-up with these settings, checked before any work is done."""
    check_rules(max_distance_mm, min_share)
    return partial(postprocess, max_distance_mm=max_distance_mm, min_share=min_share)


def fitted(stage: Predictor, image: torch.Tensor, tile_step: float, fit_tiles: float) -> Predictor:
    """Return the stage with tiles fitted to an image (C, Z, Y, X), as `segment` says; itself if it cannot change."""
    if fit_tiles == 1 or not isinstance(stage, ResizablePredictor):
        return stage
    multiple = stage.size_multiple
    return stage.with_patch(
        fitted_patch(image.shape[1:], stage.patch_size, tile_step, multiple_of=multiple, cap=fit_tiles)
    )


class Run:
    """One case in progress: what its steps share, and what they note along the way.

    `rules`: the clean-up after each stage; `no_specks`: whether the result goes `without_specks`.
    """

    def __init__(self, rules: CleanUp | None, progress: StageProgress | None, *, no_specks: bool = False) -> None:
        self.rules, self.progress, self.no_specks = rules, progress, no_specks
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.removed: dict[str, Report] = {}
        self.precision: dict[str, str] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        """Note the time since the last lap as that of `step`, which ends now."""
        now = time.perf_counter()
        self.seconds[step] = now - self._last
        self._last = now

    def slide(
        self,
        image: torch.Tensor,
        stage: PatchPredictor,
        tile_step: float,
        name: str,
        *,
        weights: Weights = "uniform",
        pad_value: float | None = None,
    ) -> Iterator[Slab]:
        """Slide the stage's net over the image and return averaged scores in finished slabs.

        `pad_value`: what fills a patch beyond the image; None is the image's lowest value, air.
        """
        if precision := getattr(stage, "precision", None):
            self.precision[name] = precision.name
        return sliding_window(
            image,
            stage.predict_patch,
            patch_size=stage.patch_size,
            tile_step=tile_step,
            weights=weights,
            pad_value=float(image.min()) if pad_value is None else pad_value,
            device=getattr(stage, "device", None),
            progress=of_stage(self.progress, name),
        )

    def find_region(self, body: Volume, coarse: Stage, tile_step: float, margin_mm: float) -> tuple[Volume, Box]:
        """Return what the coarse stage sees in a body, cleaned up on its own grid, and the box to look at closely."""
        image = coarse.prepare(body)
        self.lap("coarse preprocessing")
        slabs = [slab.scores.argmax(dim=0) for slab in self.slide(image, coarse, tile_step, "coarse")]
        coarse_labels = torch.cat(slabs).to(torch.uint8).cpu().numpy()
        self.lap("coarse net")
        seen = place_resampled(body, coarse_labels)
        seen = seen.with_array(self.clean_up(coarse_labels, seen.spacing_zyx_mm, "coarse"))
        found = bounding_box(seen.array_zyx)
        if found is None:
            self.notes.append("the coarse stage found no organ, so the fine stage looked at the whole foreground")
            found = Box((0, 0, 0), seen.shape_zyx)
        roi = found.rescale(seen.shape_zyx, body.shape_zyx).widen(margin_mm, body.spacing_zyx_mm, body.shape_zyx)
        self.lap("coarse clean-up")
        return seen, roi

    def segment_region(self, region: Volume, stage: Stage, tile_step: float, name: str, fit_tiles: float) -> np.ndarray:
        """Return the labels of a region on its own grid, cleaned up."""
        images = [view.prepare(region) for view in views_of(stage)]
        views = views_of(fitted(stage, images[0], tile_step, fit_tiles))  # of one patch: views share a compiled net
        self.lap(f"{name} preprocessing")
        names = [name, *(f"{name}, view {k}" for k in range(2, len(views) + 1))]
        (slabs, shape), *others = [
            (self.slide(image, view, tile_step, its_name), image.shape[1:])
            for image, view, its_name in zip(images, views, names, strict=True)
        ]
        labels = resize_argmax(mean_slabs(slabs, shape, others), region.shape_zyx, in_shape_zyx=shape)
        self.lap(f"{name} net, resize + argmax")
        labels = self.clean_up(labels, region.spacing_zyx_mm, name)
        self.lap(f"{name} clean-up")
        return labels

    def clean_up(self, label_map_zyx: np.ndarray, spacing_zyx_mm: Triple, name: str) -> np.ndarray:
        """Return the label map cleaned up, noting what was removed; unchanged if there are no rules."""
        if self.rules is None:
            return label_map_zyx
        cleaned, self.removed[name] = self.rules(label_map_zyx, spacing_zyx_mm)
        return cleaned

    def result(
        self,
        ct: Volume,
        labels_zyx: np.ndarray,
        roi: Box,
        coarse: Volume | None,
        *,
        organs: bool = True,
        scale: float | None = None,
    ) -> Segmentation:
        """Paste the region's labels into the CT's grid and return them with everything that was noted.

        `organs`: whether the labels are FLARE's, whose anatomy is known well enough to be doubted; `scale`: see
        `anatomy_doubts`.
        """
        label_map = paste(labels_zyx, roi, ct.shape_zyx)
        self.lap("paste")
        if self.no_specks:
            label_map, removed_ml = without_specks(label_map, ct, box=roi)
            self.notes += [
                f"the {ml:.1f} mL labelled {name} were removed: the scan does not cut them, and a newborn's is larger"
                for name, ml in removed_ml.items()
            ]
        self.notes += [
            *ct.notes,
            *hu_doubts(ct.array_zyx),
            *(anatomy_doubts(ct, label_map, scale=scale) if organs else ()),
        ]
        self.lap("doubts")
        coarse = ct.with_array(label_map) if coarse is None else coarse
        return Segmentation(label_map, coarse, roi, self.seconds, tuple(self.notes), self.removed, self.precision)
