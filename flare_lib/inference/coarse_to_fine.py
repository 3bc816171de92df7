"""The whole way for one CT: find the organs coarsely, look at them finely, return labels on the CT's own grid.

    CT -> foreground -> coarse net -> clean-up -> region of interest -> fine net -> resize + argmax -> clean-up -> paste

Paper section 2 and Fig. 1; the margin of the region and the clean-up's distance follow the authors' engine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from flare_lib.ct.preprocess import find_foreground
from flare_lib.ct.resample import place_resampled
from flare_lib.ct.roi import Box, bounding_box, crop_volume, paste
from flare_lib.ct.volume import Triple, Volume
from flare_lib.inference.postprocess import MAX_DISTANCE_MM, Report, postprocess
from flare_lib.inference.slice_interpolation import resize_argmax
from flare_lib.inference.sliding_window import sliding_window
from flare_lib.machine.device import choose_device
from flare_lib.network.weights import TrainedNet, load_trained, packaged_weights

Progress = Callable[[str, int, int], None]


class Stage(Protocol):
    """What coarse to fine needs of a net: how a CT becomes its image, and what it says of one patch."""

    patch_size: tuple[int, int, int]

    def prepare(self, ct: Volume) -> torch.Tensor:
        """Return the image (C, Z, Y, X) that the net sees of a CT, on any grid of the CT's extent."""

    def predict_patch(self, patch: torch.Tensor) -> torch.Tensor:
        """Return probabilities (1, 14, Z, Y, X) for a patch (1, C, Z, Y, X)."""


class NetStage:
    """A trained UNet as a stage: loaded once, used for many cases."""

    def __init__(self, trained: TrainedNet, *, device: str | torch.device = "cpu") -> None:
        self.net = trained.net.to(device).eval()
        self.preprocessing, self.patch_size = trained.preprocessing, trained.patch_size
        self.device = torch.device(device)

    def prepare(self, ct: Volume) -> torch.Tensor:
        """Clip, resample and normalise as in training."""
        return torch.from_numpy(self.preprocessing.apply(ct).array_zyx)[None]

    def predict_patch(self, patch: torch.Tensor) -> torch.Tensor:
        """Softmax of the finest head; bfloat16 inside, float32 out."""
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits = self.net.finest(patch.to(self.device))
        return logits.float().softmax(dim=1)


@dataclass(frozen=True)
class Segmentation:
    """What `segment` returns.

    `label_map_zyx`: uint8, the CT's shape. `coarse`: what the coarse stage saw, cleaned up, on its own grid. `roi`: the
    box of the CT that the fine stage looked at.
    `seconds`: {step: wall time}. `notes`: what a reader of the result must know (a fallback that was taken).
    `clean_up`: {stage: what its clean-up removed}.
    """

    label_map_zyx: np.ndarray
    coarse: Volume
    roi: Box
    seconds: dict[str, float]
    notes: tuple[str, ...]
    clean_up: dict[str, Report] = field(default_factory=dict)


def load_stages(folder: str | Path | None = None, *, device: str | torch.device = "auto") -> tuple[NetStage, NetStage]:
    """Load the coarse and the fine net: `coarse.safetensors` and `fine.safetensors` of a folder, or the packaged ones.

    Raises what `load_trained` and `choose_device` raise.
    """
    device = choose_device(device)
    paths = [packaged_weights(name) if folder is None else Path(folder) / name for name in ("coarse", "fine")]
    coarse, fine = (NetStage(load_trained(path), device=device) for path in paths)
    return coarse, fine


def segment(
    ct: Volume,
    coarse: Stage,
    fine: Stage,
    *,
    margin_mm: float = 20.0,
    max_distance_mm: float = MAX_DISTANCE_MM,
    tile_steps: tuple[float, float] = (1.0, 0.5),
    clean_up: bool = True,
    progress: Progress | None = None,
) -> Segmentation:
    """Segment the 13 organs of one CT, coarse to fine.

    `margin_mm` widens the box of the organs that the coarse stage found; `max_distance_mm` is how far from the great
    vessels a region may lie; `tile_steps` of the coarse and the fine sliding window, in patches;
    `clean_up` False leaves out the post-processing after either stage.
    `progress(stage, tiles done, tiles in all)`. When the coarse stage finds nothing, the fine stage looks at the whole
    foreground, and the notes say so.
    """
    lap = _Laps()
    notes: list[str] = []
    reports: dict[str, Report] = {}
    limit_mm = max_distance_mm if clean_up else None
    foreground = find_foreground(ct.array_zyx)
    body = crop_volume(ct, foreground)
    lap("foreground")

    coarse_image = coarse.prepare(body)
    lap("coarse preprocessing")
    coarse_labels = np.concatenate(
        [
            slab.scores.argmax(dim=0).to(torch.uint8).cpu().numpy()
            for slab in _slabs(coarse_image, coarse, tile_steps[0], "coarse", progress)
        ]
    )
    lap("coarse net")
    seen = place_resampled(body, coarse_labels)
    coarse_labels = _clean(coarse_labels, seen.spacing_zyx_mm, limit_mm, "coarse", reports)
    found = bounding_box(coarse_labels)
    if found is None:
        notes.append("the coarse stage found no organ, so the fine stage looked at the whole foreground")
        found = Box((0, 0, 0), coarse_labels.shape)
    roi = found.rescale(coarse_labels.shape, body.shape_zyx).widen(margin_mm, body.spacing_zyx_mm, body.shape_zyx)
    lap("coarse clean-up")

    fine_labels = _segment_region(crop_volume(body, roi), fine, "fine", tile_steps[1], limit_mm, lap, reports, progress)
    roi = roi.shift(foreground.start_zyx)
    label_map = paste(fine_labels, roi, ct.shape_zyx)
    lap("paste")
    return Segmentation(label_map, seen.with_array(coarse_labels), roi, lap.seconds, tuple(notes), reports)


def segment_in_one_stage(
    ct: Volume,
    stage: Stage,
    *,
    tile_step: float = 0.5,
    max_distance_mm: float = MAX_DISTANCE_MM,
    clean_up: bool = True,
    progress: Progress | None = None,
) -> Segmentation:
    """Segment a CT with one net that looks at the whole foreground, as plain nnU-Net does (paper 4, the baseline).

    Arguments as `segment`; the region of interest is the foreground.
    """
    lap = _Laps()
    reports: dict[str, Report] = {}
    foreground = find_foreground(ct.array_zyx)
    body = crop_volume(ct, foreground)
    lap("foreground")
    limit_mm = max_distance_mm if clean_up else None
    labels = _segment_region(body, stage, "one stage", tile_step, limit_mm, lap, reports, progress)
    label_map = paste(labels, foreground, ct.shape_zyx)
    lap("paste")
    return Segmentation(label_map, ct.with_array(label_map), foreground, lap.seconds, (), reports)


def _segment_region(
    region: Volume,
    stage: Stage,
    name: str,
    tile_step: float,
    max_distance_mm: float | None,
    lap: "_Laps",
    reports: dict[str, Report],
    progress: Progress | None,
) -> np.ndarray:
    """Return the labels of a region on its own grid, cleaned up."""
    image = stage.prepare(region)
    lap(f"{name} preprocessing")
    labels = resize_argmax(
        _slabs(image, stage, tile_step, name, progress), region.shape_zyx, in_shape_zyx=image.shape[1:]
    )
    lap(f"{name} net, resize + argmax")
    labels = _clean(labels, region.spacing_zyx_mm, max_distance_mm, name, reports)
    lap(f"{name} clean-up")
    return labels


def _clean(
    label_map_zyx: np.ndarray,
    spacing_zyx_mm: Triple,
    max_distance_mm: float | None,
    name: str,
    reports: dict[str, Report],
) -> np.ndarray:
    """Return the label map cleaned up, and note what was removed; as it is where no distance is given."""
    if max_distance_mm is None:
        return label_map_zyx
    cleaned, reports[name] = postprocess(label_map_zyx, spacing_zyx_mm, max_distance_mm=max_distance_mm)
    return cleaned


def _slabs(image: torch.Tensor, stage: Stage, tile_step: float, name: str, progress: Progress | None):
    """Slide the stage's net over the image: averaged probabilities in finished slabs."""
    return sliding_window(
        image,
        stage.predict_patch,
        patch_size=stage.patch_size,
        tile_step=tile_step,
        pad_value=float(image.min()),  # air
        progress=None if progress is None else lambda done, total: progress(name, done, total),
    )


class _Laps:
    """A stopwatch: called at the end of a step, it notes how long the step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._last
        self._last = now
