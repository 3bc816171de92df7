"""An nnU-Net as one stage that looks at a whole CT, or at the region that a coarse net found, in nnU-Net's own way.

    CT -> the net's axes -> splines -> scaled -> [folds in sliding_window, Gaussian weights] -> resize + argmax -> back

The labels are those that nnU-Net's predictor would give: the same preprocessing, tiles, weights, interpolation and, for
v1, clean-up. Two things differ. Scores are summed in float32, not in float16; and test-time mirroring, which nnU-Net
applies by default to nets trained with it and which takes eight times as long, is left out.

The region makes the difference in speed: most tiles of a whole CT hold none of the organs (paper 2).

References: nnU-Net 2.8, `DefaultPreprocessor`, `nnUNetPredictor`, `export_prediction`; for v1, see `nnunet_v1`.
"""

from functools import partial

import numpy as np
import torch

from flare_lib.ct.axes import Axes
from flare_lib.ct.preprocess import find_foreground
from flare_lib.ct.resample import resample_nearest, resampled_shape
from flare_lib.ct.roi import Box, bounding_box, check_margin, crop, crop_volume
from flare_lib.ct.spline import resample_spline, thick_axis
from flare_lib.ct.volume import Shape, Triple, Volume, extent_mm, triple
from flare_lib.inference.coarse_to_fine import Run, Segmentation, fitted
from flare_lib.inference.components import keep_largest_piece
from flare_lib.inference.postprocess import MIN_SHARE, postprocess
from flare_lib.inference.slice_interpolation import resize_argmax
from flare_lib.inference.stages import ResizablePredictor, Stage
from flare_lib.machine.device import limits_of
from flare_lib.machine.precision import Precision, choose_precision
from flare_lib.machine.progress import StageProgress
from flare_lib.network.engines import Predict, check_engine, compile_net
from flare_lib.network.kernels import inferring, plain_float32
from flare_lib.network.nnunet_folder import NnunetModel
from flare_lib.network.nnunet_plans import Plans, Scaling

NAME = "nnU-Net"


class NnunetStage(ResizablePredictor):
    """The nets of a results folder as a stage: loaded once, used for many cases. The nets are moved to its device.

    `precision` and `engine`: see `choose_precision`, `check_engine` and, for the nets that OpenVINO can compute,
    `compile_net`, whose errors it raises.
    """

    def __init__(
        self,
        model: NnunetModel,
        *,
        device: str | torch.device = "cpu",
        precision: str | Precision = "auto",
        engine: str = "torch",
    ) -> None:
        self.plans, self.patch_size, self.rules = model.plans, model.plans.patch_size, model.rules
        self.device = torch.device(device)
        self.precision = choose_precision(precision, device=self.device)
        check_engine(engine, self.device)
        if engine == "openvino":
            self.folds = [compile_net(fold.net, self.patch_size, self.precision) for fold in model.folds]
        else:
            for fold in model.folds:
                fold.net.to(self.device)
            self.folds = [fold.predict for fold in model.folds]
        if self.plans.version == 1:
            self.folds = [partial(_probabilities, predict) for predict in self.folds]

    @property
    def patch_mm(self) -> Triple:
        """The extent of one patch in mm, along the net's axes."""
        return extent_mm(self.patch_size, self.plans.spacing_mm)

    @property
    def size_multiple(self) -> Shape:
        """What each side of a patch must be a multiple of, along the net's axes."""
        return self.plans.size_multiple

    def prepare(self, array: np.ndarray, spacing_mm: Triple, scaling: Scaling) -> torch.Tensor:
        """Return the image that the nets see of a CT: clipped, resampled and scaled, float32 (1, ...).

        nnU-Net v1 resamples before it clips. Array, spacing and image are in the order of the net's axes.
        """
        clips_first = self.plans.version > 1
        image = resample_spline(
            array,
            resampled_shape(array.shape, spacing_mm, self.plans.spacing_mm),
            order=self.plans.ct_order,
            thick=thick_axis(spacing_mm, self.plans.spacing_mm),
            window_hu=scaling.window_hu if clips_first else (-np.inf, np.inf),
        )
        if not clips_first:
            np.clip(image, *map(np.float32, scaling.window_hu), out=image)
        image -= np.float32(scaling.shift)
        image /= np.float32(scaling.divisor)
        return torch.from_numpy(image)[None]

    def predict_patch(self, patch: torch.Tensor) -> torch.Tensor:
        """Return the mean logits (v1: probabilities) of all folds, float32 (1, n_classes, ...).

        Raises MemoryError for a full device.
        """
        with limits_of(self.device), inferring(self.device, self.precision):
            patch = patch.to(self.device)
            logits = plain_float32(self.folds[0](patch))
            if len(self.folds) > 1:
                logits = logits.clone()  # they may lie in a map of more channels, which would be there beside the next
            for predict in self.folds[1:]:
                logits += predict(patch)
            return logits.div_(len(self.folds))


def _probabilities(predict: Predict, patch: torch.Tensor) -> torch.Tensor:
    return predict(patch).float().softmax(dim=1)


def segment_with_nnunet(
    ct: Volume,
    stage: NnunetStage,
    *,
    coarse: Stage | None = None,
    margin_mm: float = 20.0,
    tile_step: float = 0.5,
    fit_tiles: float = 1.0,
    progress: StageProgress | None = None,
) -> Segmentation:
    """Segment a CT with an nnU-Net: all of it, or the box that a coarse stage finds around the 13 organs.

    `coarse`, `margin_mm` and `fit_tiles` as in `segment`, `tile_step` as in `sliding_window`, with their errors. A box
    smaller than one patch grows to it, as far as the CT reaches. Labels are those of the net's data set, cleaned up
    only as the model's own rules say. In a box, tiles lie elsewhere and see less around them, so labels can differ a
    little from those in the whole CT; what lies outside is background. Grey values are scaled as in the whole CT.
    """
    check_margin(margin_mm)
    run = Run(None if coarse is None else partial(postprocess, min_share=MIN_SHARE), progress)
    whole = Box((0, 0, 0), ct.shape_zyx)
    scanned = bounding_box(ct.array_zyx != 0) or whole  # as nnU-Net crops; 0 HU is water, 0 all around is padding
    scaling = stage.plans.normalisation.scaling_of(crop(ct.array_zyx, scanned))
    run.lap("grey values")
    axes = stage.plans.axes(ct.grid)
    seen, region = None, scanned
    if coarse is not None:
        foreground = find_foreground(ct.array_zyx)
        seen, roi = run.find_region(crop_volume(ct, foreground), coarse, 1.0, margin_mm)
        # what a patch holds beyond a small box is the CT, not padding: beyond a whole CT there is none to be had
        patch_mm = axes.turn_size_back(stage.patch_mm)
        region = roi.shift(foreground.start_zyx).grow(patch_mm, ct.spacing_zyx_mm, ct.shape_zyx)
    labels = _segment_region(run, axes, crop_volume(ct, region), stage, scaling, tile_step, fit_tiles)
    if stage.rules:
        for rule in stage.rules:
            keep_largest_piece(labels, rule.labels, rule.min_mm3 / (1000 * ct.voxel_ml))
        run.lap(f"{NAME} clean-up")
    return run.result(ct, labels, region, seen, organs=stage.plans.has_flares_organs)


def _thick_on_the_way_back(plans: Plans, spacing_mm: Triple) -> int | None:
    """Return the net's axis along which no logits are interpolated, of a CT with this spacing along the net's axes.

    v2 asks the net's spacing first. v1 asks the CT's, and in the file's order of axes: when it then falls back on the
    net's spacing, it takes an axis of the net for the file's axis of that number, which is another one where the net's
    axes are transposed.
    """
    if plans.version > 1:
        return thick_axis(plans.spacing_mm, spacing_mm)
    net_axis_of = plans.transpose_forward.index
    in_file = thick_axis(triple(spacing_mm[net_axis_of(axis)] for axis in range(3)), plans.spacing_mm)
    return None if in_file is None else net_axis_of(in_file)


def _segment_region(
    run: Run,
    axes: Axes,
    region: Volume,
    stage: NnunetStage,
    scaling: Scaling,
    tile_step: float,
    fit_tiles: float,
) -> np.ndarray:
    """Return the labels of a region on its own grid, canonical; `axes`: the net's."""
    array, spacing_mm = axes.turn(region.array_zyx), axes.turn_spacing(region.spacing_zyx_mm)
    image = stage.prepare(array, spacing_mm, scaling)
    run.lap(f"{NAME} preprocessing")
    stage = fitted(stage, image, tile_step, fit_tiles)
    slabs = run.slide(image, stage, tile_step, NAME, weights="gaussian", pad_value=0.0)
    small = triple(image.shape[1:])
    thick = _thick_on_the_way_back(stage.plans, spacing_mm)
    # between thick slices nothing is interpolated: every new slice gets the labels of the nearest one
    shape = triple(small[a] if a == thick else n for a, n in enumerate(array.shape))
    labels = resample_nearest(resize_argmax(slabs, shape, in_shape_zyx=small), array.shape)
    run.lap(f"{NAME} net, resize + argmax")
    return axes.turn_back(labels)
