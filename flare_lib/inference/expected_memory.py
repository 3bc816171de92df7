"""How much memory a case will need, told before its CT is read: as many run side by side as there is memory for.

Most of it grows with the CT: with its voxels and, where nets are shown a larger body or several nets look at all of it,
with their image and their scores, which follow from its size in mm.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from flare_lib.ct.nifti_file import SUFFIXES
from flare_lib.data.cohort import Case
from flare_lib.inference.methods import Ensemble, Settings, weights_stamp
from flare_lib.inference.sliding_window import SLAB_SLICES
from flare_lib.network.complexity import peak_bytes
from flare_lib.network.in_place import finest_in_place
from flare_lib.network.weights import load_trained, stage_weights

_PROCESS_MIB = 900.0  # torch, the nets and what they compute
_PATCH_MIB = 150.0  # for tiles of one patch more: 137 measured of the packaged fine net (benchmarks/README.md)
_BYTES_PER_VOXEL = 4  # the CT, its labels, and what exists for a moment
_BYTES_OF_WHOLE_BODY = 10  # the same where no region is chosen: labels before and after the clean-up, its components
_WIDEST_MM, _VOXEL_MM3 = 500.0, 1.5  # of a DICOM series before it is read: a scanner's field, a common voxel


def expected_memory_mib(case: Case, settings: Settings) -> float:
    """Return roughly how much memory a process needs for a case, in MiB; if it cannot be read, as if it were empty.

    Larger tiles, a larger `scale` and several views take more; the nets that make pseudo-labels hold the scores of the
    whole CT.
    """
    ct = _size_of(case.ct_path)
    mib = _PROCESS_MIB + _PATCH_MIB * (settings.fit_tiles - 1)
    if settings.ensemble is not None:
        nets = _nets_of(settings.ensemble, weights_stamp(settings))
        scores = nets.bytes_per_mm3 * ct.across_mm2 * (ct.along_mm + nets.patch_mm)  # the mean, a row of tiles' sums
        return mib + (nets.held_bytes + scores + _BYTES_OF_WHOLE_BODY * ct.n_voxels) / 2**20
    if settings.nnunet is not None:
        return mib + _BYTES_PER_VOXEL * ct.n_voxels / 2**20
    fine = _fine_net_of(settings.weights_dir, weights_stamp(settings))
    sizes = [settings.scale * scale for scale in (fine.scales[:1] if settings.fast else fine.scales)]
    per_mm2, per_mm3 = (sum(size**power for size in sizes) - 1 for power in (2, 3))  # one view is in the process's
    views = ct.across_mm2 * (fine.scores_per_mm2 * per_mm2 + ct.along_mm * fine.image_per_mm3 * per_mm3)
    return mib + (_BYTES_PER_VOXEL * ct.n_voxels + max(0.0, views)) / 2**20


class _Size(NamedTuple):
    n_voxels: float = 0.0
    across_mm2: float = 0.0  # the body
    along_mm: float = 0.0


def _size_of(path: Path) -> _Size:
    """Return how large a CT is, by the header of a NIfTI file or the bytes of a DICOM series; 0 if there is neither."""
    try:
        if path.name.lower().endswith(SUFFIXES):
            image = nib.Nifti1Image.from_filename(path)
            n_voxels = float(np.prod(image.shape, dtype=float))
            order = np.argsort([code in ("S", "I") for code in nib.aff2axcodes(image.affine)], stable=True)
            *across_mm, along_mm = (np.array(image.shape[:3]) * image.header.get_zooms()[:3])[order]
            return _Size(n_voxels, float(np.prod(across_mm)), float(along_mm))
        files = [path] if path.is_file() else path.rglob("*")
        n_voxels = float(sum(file.stat().st_size for file in files))  # 2 bytes per voxel, compressed by half
        return _Size(n_voxels, _WIDEST_MM**2, n_voxels * _VOXEL_MM3 / _WIDEST_MM**2)
    except Exception:  # whatever is wrong, segmenting the case will say so
        return _Size()


class _FineNet(NamedTuple):
    scores_per_mm2: float = 0.0  # bytes across the body, of one view: the sums of a row of tiles, their averages' slab
    image_per_mm3: float = 0.0
    scales: tuple[float, ...] = (1.0,)


@functools.lru_cache(maxsize=1)
def _fine_net_of(weights_dir: Path | None, _stamp: str) -> _FineNet:
    """Return what the fine net's views take; nothing if it cannot be read. Weights with another stamp are read anew."""
    try:
        fine = load_trained(stage_weights(weights_dir)["fine"])
    except (OSError, ValueError):  # opening the method will say so
        return _FineNet()
    z, y, x = fine.preprocessing.spacing_zyx_mm
    n_scores = fine.net.architecture["n_classes"] * (fine.patch_size[0] + SLAB_SLICES)  # of a column of voxels
    return _FineNet(4 * n_scores / (y * x), 4 / (z * y * x), fine.scales)


class _Nets(NamedTuple):
    held_bytes: float = 0.0  # weights, and the largest answer to a patch
    bytes_per_mm3: float = 0.0  # of scores, on the grid of the first view
    patch_mm: float = 0.0  # along the body


@functools.lru_cache(maxsize=1)
def _nets_of(ensemble: Ensemble, _stamp: str) -> _Nets:
    """Return what the nets of pseudo-labels hold; nothing for nets that cannot be read, another stamp: read anew."""
    weights, answer, first = 0, 0, None
    try:
        for path in ensemble.weights:  # one by one: together they could take more than the work
            trained = load_trained(path)
            own = 4 * trained.net.n_parameters
            weights += own
            answer = max(answer, peak_bytes(trained.net, trained.patch_size, finest_in_place) - own)
            first = first or trained
    except (OSError, ValueError):  # opening the method will say so
        return _Nets()
    if first is None:
        return _Nets()
    spacing = np.array(first.preprocessing.spacing_zyx_mm) / ensemble.scales[0]
    n_channels = first.net.architecture["n_classes"] + 1
    return _Nets(weights + answer, 4 * n_channels / float(np.prod(spacing)), float(first.patch_size[0] * spacing[0]))
