"""Scans of a few centimetres, shown to nets in patches that are hardly higher than they are.

Such a scan fills a small part of a patch, and the rest would be air, by which a net that normalises what it sees is
misled. In a patch as low as the net's strides allow, there is little of it. Measured: benchmarks/README.md, `weights`.
"""

import math
from collections.abc import Sequence

from flare_lib.ct.volume import Volume
from flare_lib.inference.stages import ResizablePredictor, Stage, patch_mm_of

THIN_SHARE = 0.25  # of a patch's height: bodies up to this are thin


def lowered_if_thin(body: Volume, *stages: Stage) -> Sequence[Stage]:
    """Return all stages `lowered` if the body is thin for the last one, which looks closest; else as they are."""
    return [lowered(stage, body) for stage in stages] if is_thin(body, stages[-1]) else stages


def is_thin(body: Volume, stage: Stage) -> bool:
    """Return whether a body's slices fill at most a `THIN_SHARE` of the stage's patch; False without a `patch_mm`."""
    return body.size_mm_zyx[0] <= THIN_SHARE * patch_mm_of(stage)[0]


def lowered(stage: Stage, body: Volume) -> Stage:
    """Return the stage with a patch no higher than the body, or as it is if its patch cannot change."""
    height_mm = patch_mm_of(stage)[0]
    if not height_mm or not isinstance(stage, ResizablePredictor):
        return stage
    z, y, x = stage.patch_size
    multiple = stage.size_multiple[0]
    n_slices = max(1, round(body.size_mm_zyx[0] / height_mm * z))  # of the stage's image
    return stage.with_patch((min(z, math.ceil(n_slices / multiple) * multiple), y, x))
