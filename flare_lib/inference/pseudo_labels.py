"""Labels of a CT that nobody has labelled, to learn from: what several nets agree on, and nothing where they do not.

    CT -> foreground -> [each net, at each scale] -> mean -> resize + argmax -> clean-up -> unsure: ignored

A net that learns from the labels of others learns their mistakes, too. So a voxel whose winner has a mean probability
below `sure` becomes `IGNORED`: no loss is computed there. So does a voxel that the clean-up would take from an organ,
where nets and rules disagree. Of a small organ, nets are never as sure, and find a part: it counts from a lower
probability on, and soft tissue beside it is ignored rather than taught to be background. Views differ in scale only: a
mirrored abdomen has its liver on the wrong side, and these nets were never shown one.

References: Lee, Pseudo-Label, ICML Workshops 2013; Sohn et al., FixMatch, NeurIPS 2020 (only what is sure is learnt).
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from scipy import ndimage

from flare_lib.ct.labels import IGNORED, organ
from flare_lib.ct.preprocess import find_foreground
from flare_lib.ct.roi import crop_volume
from flare_lib.ct.volume import Volume, triple
from flare_lib.inference.coarse_to_fine import Run, Segmentation
from flare_lib.inference.postprocess import MIN_SHARE, postprocess
from flare_lib.inference.slice_interpolation import resize_argmax, resized_slices
from flare_lib.inference.stages import Stage, scale_of
from flare_lib.inference.thin_scans import lowered_if_thin
from flare_lib.machine.progress import StageProgress

SURE = 0.75
SURE_OF_SMALL = 0.73  # of `sure`: what is enough of a small organ
SMALL_ORGANS = tuple(
    organ(name).id
    for name in ("pancreas", "right adrenal gland", "left adrenal gland", "gallbladder", "esophagus", "duodenum")
)
BESIDE_MM, SOFT_HU = 6.0, -30  # soft tissue is denser; fat is no part of an organ
RULES = {  # for a folder of pseudo-labels: what decides, beside nets, scales and `sure`
    "sure_of_small": SURE_OF_SMALL,
    "small_organs": list(SMALL_ORGANS),
    "beside_mm": BESIDE_MM,
    "soft_hu": SOFT_HU,
}
SCALES = (1.0, 0.92, 1.08)


def pseudo_labels(
    ct: Volume,
    stages: Sequence[Stage],
    *,
    sure: float = SURE,
    tile_step: float = 0.5,
    progress: StageProgress | None = None,
) -> Segmentation:
    """Return a CT's labels, 0 to 13, or `IGNORED` where the stages together are not `sure` enough.

    Every stage looks at the whole foreground; what lies outside is background. The probabilities are averaged on the
    grid of the first stage's image. `sure`: the least mean probability of a voxel's winner, from 0 (no voxel is unsure)
    to 1; 0.73 of it is enough of `SMALL_ORGANS`, and soft tissue within 6 mm of these is ignored unless it is another
    organ. `tile_step` as in `sliding_window`. The notes are about the organs without the voxels that are ignored.
    Raises ValueError for no stages, for stages with other numbers of classes, and for a `sure` outside [0, 1].
    """
    if not stages:
        raise ValueError("pseudo-labels must come from one stage or more, got none")
    if not 0 <= sure <= 1:
        raise ValueError(f"sure must be from 0 to 1, got {sure}")
    run = Run(partial(postprocess, min_share=MIN_SHARE), progress)
    foreground = find_foreground(ct.array_zyx)
    body = crop_volume(ct, foreground)
    run.lap("foreground")
    scores = _mean_probabilities(run, body, stages, tile_step)
    n_classes = len(scores) - 1
    scores[n_classes] = sure  # wins wherever no class reaches it
    labels = resize_argmax(scores, body.shape_zyx)
    scores[n_classes] = SURE_OF_SMALL * sure
    easier = resize_argmax(scores, body.shape_zyx)
    del scores  # the largest thing here, and the clean-up needs memory, too
    np.copyto(labels, easier, where=np.isin(easier, SMALL_ORGANS) & (easier < n_classes))
    del easier
    run.lap("resize + argmax")
    unsure = labels == n_classes
    labels[unsure] = 0
    cleaned = run.clean_up(labels, body.spacing_zyx_mm, "nets")
    run.lap("clean-up")
    result = run.result(ct, cleaned, foreground, None, scale=scale_of(stages[0]))
    ignored = unsure | (cleaned != labels) | _beside_small_organs(cleaned, body)
    result.label_map_zyx[foreground.slices][ignored] = IGNORED
    return result


def _beside_small_organs(labels_zyx: np.ndarray, ct: Volume) -> np.ndarray:
    """Mark the soft tissue without a label in a box of `BESIDE_MM` around every voxel of a small organ."""
    reach = [int(BESIDE_MM / spacing) for spacing in ct.spacing_zyx_mm]
    beside = ndimage.maximum_filter(np.isin(labels_zyx, SMALL_ORGANS), [2 * n + 1 for n in reach], mode="constant")
    return beside & (labels_zyx == 0) & (ct.array_zyx > SOFT_HU)


def _mean_probabilities(run: Run, body: Volume, stages: Sequence[Stage], tile_step: float) -> torch.Tensor:
    """Return the mean of all stages' probabilities and room for one more channel, float32 (K + 1, Z, Y, X).

    Each view is added slice by slice as its slabs come: beside the sums, none exists as a whole.
    """
    sums, grid = torch.empty(0), (0, 0, 0)
    for k, stage in enumerate(stages, start=1):
        [stage] = lowered_if_thin(body, stage)
        image = stage.prepare(body)
        shape = triple(image.shape[1:])
        grid = grid if sums.numel() else shape
        slabs = run.slide(image, stage, tile_step, f"view {k}", weights="gaussian")
        for z, probabilities in resized_slices(slabs, shape, grid):
            if not sums.numel():
                sums = probabilities.new_zeros((len(probabilities) + 1, *grid))
            if len(probabilities) != len(sums) - 1:
                raise ValueError(f"all stages must have {len(sums) - 1} classes, got {len(probabilities)}")
            sums[:-1, z] += probabilities
        run.lap(f"view {k}")
    return sums.div_(len(stages))
