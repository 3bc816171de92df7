"""A net as one stage of the pipeline: how a CT becomes its input image, and what it predicts for one patch.

`coarse_to_fine` knows stages, not networks: anything that prepares an image and predicts patches can replace a net.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch

from flare_lib.ct.moments import Moments
from flare_lib.ct.preprocess import normalize
from flare_lib.ct.resample import resample_trilinear
from flare_lib.ct.volume import Shape, Triple, Volume, extent_mm, triple
from flare_lib.machine.device import choose_device, limits_of
from flare_lib.machine.precision import Precision, choose_precision
from flare_lib.network.engines import Predict, check_engine, compile_net
from flare_lib.network.in_place import finest_in_place
from flare_lib.network.kernels import inferring, plain_float32
from flare_lib.network.unet import UNet
from flare_lib.network.weights import TrainedNet, load_trained, stage_weights


class PatchPredictor(Protocol):
    """What can slide over an image: it gives scores for one patch of `patch_size` (z, y, x).

    If it also has a `precision`, as `NetStage` does, the result reports it; if it has a `device`, it is given patches
    there; if it has a `patch_mm`, the extent of a patch (z, y, x) in mm, a region is never smaller where the CT has
    more to show; if it has a `scale`, how much larger than it is the body looks, a body that looks small is noted; if
    it has `views`, the fine stage's answer is the mean of theirs.
    """

    patch_size: Shape

    def predict_patch(self, patch: torch.Tensor) -> torch.Tensor:
        """Return the scores of K classes (1, K, Z, Y, X) for a patch (1, C, Z, Y, X); a stage's are probabilities."""


@runtime_checkable
class ResizablePredictor(PatchPredictor, Protocol):
    """A predictor whose patch can have other sizes, so that its tiles can be fitted to an image."""

    @property
    def size_multiple(self) -> Shape:
        """What each side (z, y, x) of a patch must be a multiple of."""

    def with_patch(self, patch_size: Shape) -> Self:
        """Return the same predictor for patches of this size (z, y, x), a multiple of `size_multiple`."""
        other = copy.copy(self)
        other.patch_size = patch_size
        return other


class Stage(PatchPredictor, Protocol):
    """What coarse to fine needs from a net: how a CT becomes its input image, and 14 probabilities for one patch."""

    def prepare(self, ct: Volume) -> torch.Tensor:
        """Return the image (C, Z, Y, X) of a CT that the net sees, on any grid that has the CT's extent."""


def patch_mm_of(stage: Stage) -> Triple:
    """Return the extent (z, y, x) of a stage's patch in mm; 0 along every axis for one that does not know it."""
    return getattr(stage, "patch_mm", (0.0, 0.0, 0.0))


def scale_of(stage: Stage) -> float | None:
    """Return how much larger than it is a stage sees the body; None for one that does not know."""
    return getattr(stage, "scale", None)


def views_of(stage: Stage) -> Sequence[Stage]:
    """Return the stages whose answers are averaged where this one looks closely; itself alone for most."""
    return getattr(stage, "views", (stage,))


class NetStage(ResizablePredictor):
    """A trained UNet as a stage: loaded once, used for many cases. It works on a copy, so the net stays unchanged.

    `thin`: the net as it went on learning from scans of a few centimetres; it computes patches with fewer slices than
    `trained` was taught with. `scale`: how much larger than it is the net sees the body (`scaled`); `scales`: times
    that, the sizes at which its `views` do (`TrainedNet`). `precision` and `engine`: see `choose_precision` and
    `check_engine`, whose errors it raises. ValueError if the two nets would not see a CT alike or do not give the same
    classes.
    """

    def __init__(
        self,
        trained: TrainedNet,
        *,
        thin: TrainedNet | None = None,
        device: str | torch.device = "cpu",
        precision: str | Precision = "auto",
        engine: str = "torch",
    ) -> None:
        self.scale, self.scales = 1.0, trained.scales
        self.preprocessing, self.patch_size = trained.preprocessing, trained.patch_size
        self.device = torch.device(device)
        self.precision = choose_precision(precision, device=self.device)
        check_engine(engine, self.device)
        if thin is not None:
            _check_alike(trained, thin)
        ready = partial(_ready, device=self.device, precision=self.precision, compiled=engine == "openvino")
        self._taught_slices = trained.patch_size[0]
        self._own = self.net, self._finest = ready(trained)
        self._thin = None if thin is None else cache(partial(ready, thin))  # compiled once a thin scan comes

    @property
    def patch_mm(self) -> Triple:
        """The extent (z, y, x) of one patch in mm."""
        return extent_mm(self.patch_size, self.preprocessing.spacing_zyx_mm)

    @property
    def size_multiple(self) -> Shape:
        """What each side (z, y, x) of a patch must be a multiple of: the net's strides together."""
        return self.net.size_multiple_zyx

    @property
    def views(self) -> "Sequence[NetStage]":
        """The same stage at each of the `scales` at which its net should see a CT."""
        return [self if scale == 1 else self.scaled(scale) for scale in self.scales]

    def with_scales(self, *scales: float) -> Self:
        """Return the same stage with other `scales`: one is faster than several."""
        other = copy.copy(self)
        other.scales = scales
        return other

    def scaled(self, scale: float) -> "NetStage":
        """Return a stage whose net is shown bodies `scale` times as large as now; ValueError unless above 0."""
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        spacing = triple(s / scale for s in self.preprocessing.spacing_zyx_mm)
        other = copy.copy(self)
        other.scale = self.scale * scale
        other.preprocessing = replace(self.preprocessing, spacing_zyx_mm=spacing)
        return other

    def with_patch(self, patch_size: Shape) -> Self:
        """Return the same stage for patches of this size (z, y, x); lower ones are the `thin` net's if it has one."""
        other = super().with_patch(patch_size)
        low = patch_size[0] < self._taught_slices
        other.net, other._finest = self._thin() if low and self._thin is not None else self._own
        return other

    def prepare(self, ct: Volume) -> torch.Tensor:
        """Return the CT clipped, resampled and normalised as in training, float32 (1, Z, Y, X)."""
        return torch.from_numpy(self.preprocessing.apply(ct).array_zyx)[None]

    def predict_patch(self, patch: torch.Tensor) -> torch.Tensor:
        """Return the finest head's softmax as float32, from the stage's precision; MemoryError for a full device."""
        with limits_of(self.device):
            with inferring(self.device, self.precision):
                logits = self._finest(patch.to(self.device))
            return plain_float32(logits).softmax(dim=1)


def _ready(trained: TrainedNet, *, device: torch.device, precision: Precision, compiled: bool) -> tuple[UNet, Predict]:
    """Return a copy of a net that infers on `device`, and what computes its finest logits."""
    net = copy.deepcopy(trained.net).to(device).eval()
    finest = compile_net(net, trained.patch_size, precision) if compiled else partial(finest_in_place, net)
    return net, finest


def _check_alike(trained: TrainedNet, thin: TrainedNet) -> None:
    """Raise ValueError unless the net of thin scans can compute what the other would."""
    for what, of in (
        ("preprocessing", lambda t: t.preprocessing),
        ("scales", lambda t: t.scales),
        ("strides", lambda t: t.net.size_multiple_zyx),
        ("number of classes", lambda t: t.net.architecture["n_classes"]),
    ):
        if of(trained) != of(thin):
            raise ValueError(
                f"the net of thin scans must have the {what} {of(trained)} of the fine one, got {of(thin)}"
            )


class SqueezedStage(NetStage):
    """A net that sees all of a CT at once, squeezed into one patch, whatever its extent (paper 4.6)."""

    def prepare(self, ct: Volume) -> torch.Tensor:
        """Return the CT clipped, squeezed to the patch size and normalised by its own mean and SD: (1, *patch_size)."""
        image = resample_trilinear(ct.array_zyx, self.patch_size, window_hu=self.preprocessing.window_hu)
        own = Moments.of(image)
        return torch.from_numpy(normalize(image, own.mean, own.sd or 1.0))[None]


def load_stages(
    folder: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    precision: str | Precision = "auto",
    engine: str = "torch",
) -> tuple[NetStage, NetStage]:
    """Load the coarse and the fine net: `coarse.safetensors` and `fine.safetensors` in a folder, or the packaged ones.

    The fine stage has the net of thin scans, too, if `thin.safetensors` lies beside its own.
    Raises the errors of `load_trained`, `NetStage`, `choose_device`, `choose_precision` and `check_engine`.
    """
    device = choose_device(device)
    precision = choose_precision(precision, device=device)
    check_engine(engine, device)
    coarse, fine, *thin = (load_trained(path) for path in stage_weights(folder).values())
    settings: dict[str, Any] = {"device": device, "precision": precision, "engine": engine}
    return NetStage(coarse, **settings), NetStage(fine, thin=thin[0] if thin else None, **settings)
