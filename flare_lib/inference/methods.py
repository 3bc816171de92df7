"""Ways from a CT to labels: two nets, coarse to fine, an nnU-Net, or several nets that may leave voxels open.

Settings say which; a process opens it once. They are plain values that can be sent to another process, and the SHA-256
of the weights says whether two runs would use the same nets.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from flare_lib.ct.labels import ORGAN_NAMES
from flare_lib.ct.resample import resample_trilinear
from flare_lib.inference import coarse_to_fine, postprocess, pseudo_labels, stages
from flare_lib.inference.coarse_to_fine import Segmentation
from flare_lib.inference.components import erase, find_components
from flare_lib.inference.slice_interpolation import resize_argmax
from flare_lib.inference.sliding_window import Slab
from flare_lib.machine.compiled import compiling_ahead
from flare_lib.machine.device import choose_device
from flare_lib.machine.fingerprint import sha256_of, stamp_of
from flare_lib.network.weights import load_trained, pair_of, stage_weights


@dataclass(frozen=True)
class Ensemble:
    """The nets of pseudo-labels: paths of their `weights` (see `load_trained`), the scales of what each is shown.

    `sure`: see `inference.pseudo_labels`.
    """

    weights: tuple[Path, ...]
    scales: tuple[float, ...] = pseudo_labels.SCALES
    sure: float = pseudo_labels.SURE


@dataclass(frozen=True)
class Settings:
    """How CTs are segmented.

    `weights_dir`: a folder of coarse and fine weights, and of those for thin scans if there are any; None for the
    packaged ones. `nnunet`: a results folder of nnU-Net whose nets give the labels; `folds`: which of them, or
    every one if empty; `roi`: only within the coarse net's box. `margin_mm`: how far beyond the organs the last net
    looks. `tile_step`: how far apart its tiles lie, in patches; `fit_tiles`: how many patches a tile fitted to the
    CT may hold. `scale`: how much larger than it is the two nets see the body; `fast`: whether the fine one sees it
    at the first of its `scales` only. `device`, `precision`, `engine`: see
    `load_stages`. `ensemble`: make pseudo-labels with these nets instead, whose tiles are patches.
    """

    weights_dir: Path | None = None
    nnunet: Path | None = None
    folds: tuple[str, ...] = ()
    roi: bool = False
    margin_mm: float = 20.0
    device: str = "auto"
    precision: str = "auto"
    engine: str = "torch"
    tile_step: float = 0.5
    fit_tiles: float = 1.0
    scale: float = 1.0
    fast: bool = False
    ensemble: Ensemble | None = None


FITTED = 2.0  # `Settings.fit_tiles` as `flare segment --fit-tiles` has it: see benchmarks/README.md, fitted tiles


class Method(NamedTuple):
    """An opened way: its function, its labels' names, the stage whose number format is reported, and notes on it."""

    segment: Callable[..., Segmentation]  # (ct, progress=...)
    names: Mapping[int, str]
    stage: str
    notes: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def open_method(settings: Settings, stamp: str = "") -> Method:
    """Load the nets, once per process as long as the `stamp` of their files (`weights_stamp`) is the same.

    Raises the errors of `load_stages`, `load_nnunet_folder` and `choose_device`.
    """
    numbers = {"device": choose_device(settings.device), "precision": settings.precision, "engine": settings.engine}
    if settings.ensemble is not None:
        return _several_nets(settings, settings.ensemble, numbers)
    if settings.nnunet is not None:
        return _nnunet(settings, settings.nnunet, numbers)
    return _two_nets(settings, numbers)


def _two_nets(settings: Settings, numbers: Mapping[str, Any]) -> Method:
    coarse, fine = stages.load_stages(settings.weights_dir, **numbers)
    if settings.fast:
        fine = fine.with_scales(fine.scales[0])
    if settings.scale != 1:
        coarse, fine = coarse.scaled(settings.scale), fine.scaled(settings.scale)
    both = partial(
        coarse_to_fine.segment,
        coarse=coarse,
        fine=fine,
        margin_mm=settings.margin_mm,
        tile_steps=(1.0, settings.tile_step),
        fit_tiles=settings.fit_tiles,
    )
    return Method(both, ORGAN_NAMES, "fine")


def _nnunet(settings: Settings, folder: Path, numbers: Mapping[str, Any]) -> Method:
    from flare_lib.inference import nnunet_stage  # its splines take scipy a while to import
    from flare_lib.network.nnunet_folder import load_nnunet_folder

    stage = nnunet_stage.NnunetStage(load_nnunet_folder(folder, settings.folds), **numbers)
    alone = partial(
        nnunet_stage.segment_with_nnunet, stage=stage, tile_step=settings.tile_step, fit_tiles=settings.fit_tiles
    )
    if not settings.roi:
        return Method(alone, stage.plans.names, nnunet_stage.NAME)
    coarse, _ = stages.load_stages(settings.weights_dir, **numbers)
    known = stage.plans.has_flares_organs
    notes = () if known else ("--roi looks only near FLARE's 13 organs; anything far from them is missed",)
    near = partial(alone, coarse=coarse, margin_mm=settings.margin_mm)
    return Method(near, stage.plans.names, nnunet_stage.NAME, notes)


def _several_nets(settings: Settings, ensemble: Ensemble, numbers: Mapping[str, Any]) -> Method:
    nets = [stages.NetStage(load_trained(path), **numbers) for path in ensemble.weights]
    views = [net.scaled(scale) for net in nets for scale in ensemble.scales]
    together = partial(pseudo_labels.pseudo_labels, stages=views, sure=ensemble.sure, tile_step=settings.tile_step)
    return Method(together, ORGAN_NAMES, "view 1")


def compiling() -> AbstractContextManager[None]:
    """Return a context in which the loops of every way are compiled in a thread, while the CT and the nets are read.

    On a fresh installation that takes seconds; later, they are only loaded.
    """
    ct, labels = np.zeros((2, 2, 3), np.int16)[..., :2], np.ones((1, 1, 1), np.uint8)  # of the kinds that a real CT has
    slab = Slab(0, torch.eye(2).reshape(2, 1, 1, 2))  # two classes in two voxels: a mixed cell

    def resize(method: str) -> np.ndarray:
        return resize_argmax([slab], (1, 1, 2), in_shape_zyx=(1, 1, 2), method=method)

    return compiling_ahead(  # in the order in which a case needs them: whoever needs one waits for those before it
        lambda: resample_trilinear(ct, (1, 1, 1)),
        lambda: erase(labels, find_components(labels).ids, np.ones(2, bool)),
        lambda: resize("numba_pruned"),
        lambda: resize("numba_dense"),
    )


def weights_sha256(settings: Settings) -> dict[str, str]:
    """Return {name: SHA-256} of the files that hold the nets' weights, plans and cards; OSError if one is missing."""
    return {name: sha256_of(path) for name, path in _weight_files(settings).items()}


def weights_stamp(settings: Settings) -> str:
    """Return text that changes when one of these files does, without reading them; empty if one is missing."""
    try:
        return " ".join(map(stamp_of, _weight_files(settings).values()))
    except OSError:  # loading the nets will say so
        return ""


def clean_up_rules(settings: Settings) -> dict[str, Any]:
    """Return the numbers and names that decide what is removed from labels, and which pseudo-labels are ignored.

    There are none for an nnU-Net's labels of a CT.
    """
    if settings.nnunet is not None and not settings.roi:
        return {}
    rules = {
        "max_distance_mm": postprocess.MAX_DISTANCE_MM,
        "min_share": postprocess.MIN_SHARE,
        "organs_in_pieces": [organ.name for organ in postprocess.ORGANS_IN_PIECES],
    }
    if settings.ensemble is not None:
        return rules | pseudo_labels.RULES
    specks = {"least_ml": postprocess.LEAST_ML, "never_specks": [organ.name for organ in postprocess.NEVER_SPECKS]}
    return rules if settings.nnunet is not None else rules | specks


def _weight_files(settings: Settings) -> dict[str, Path]:
    found = {}
    if settings.ensemble is not None:
        for k, path in enumerate(settings.ensemble.weights, start=1):
            found[f"net {k}"], found[f"net {k}, card"] = pair_of(path)
        return found
    if settings.nnunet is not None:
        from flare_lib.network.nnunet_folder import model_files

        found = {path.relative_to(settings.nnunet).as_posix(): path for path in model_files(settings.nnunet)}
    if settings.nnunet is None or settings.roi:
        for name, stem in stage_weights(settings.weights_dir).items():
            found[name], found[f"{name}, card"] = pair_of(stem)  # the card: spacing, window, patch size
    return found
