"""What a label map says of a patient: the volume, the extent and the density of each organ, and what to doubt.

A number from a segmentation is as good as the segmentation: an organ that the scan cuts off, or that lies in several
pieces, is named as such.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from flare_lib.ct.labels import N_ORGANS, ORGANS, Organ, as_label_map, label_counts
from flare_lib.ct.volume import Volume
from flare_lib.machine.atomic_write import atomic_write

_HEADER = ("organ", "volume_ml", "extent_z_mm", "extent_y_mm", "extent_x_mm", "mean_hu", "sd_hu", "pieces", "cut_off")


@dataclass(frozen=True)
class Measurement:
    """One organ of one patient: mL, mm along z, y and x (from edge to edge), HU, and two reasons to doubt them.

    `pieces`: connected ones (26 neighbours); more than one is anatomy in no organ of the 13. `cut_off`: it touches the
    first or the last slice of the scan, so that part of it was probably not scanned.
    """

    organ: Organ
    volume_ml: float
    extent_zyx_mm: tuple[float, float, float]
    mean_hu: float
    sd_hu: float
    pieces: int
    cut_off: bool


def measure_organs(ct: Volume, label_map_zyx: np.ndarray) -> list[Measurement]:
    """Measure the organs that a label map (0 to 13, the CT's shape) has, in their order; an empty one gives none.

    Raises TypeError for labels that are not integers, ValueError for others than 0 to 13 and for another shape.
    """
    label_map_zyx = as_label_map(label_map_zyx, shape=ct.shape_zyx)
    measured = []
    for organ, box in zip(ORGANS, ndimage.find_objects(label_map_zyx, max_label=N_ORGANS), strict=True):
        if box is None:
            continue
        mask = label_map_zyx[box] == organ.id
        hu = ct.array_zyx[box][mask].astype(np.float64)
        extent = tuple((s.stop - s.start) * mm for s, mm in zip(box, ct.spacing_zyx_mm, strict=True))
        pieces = int(ndimage.label(mask, np.ones((3, 3, 3)))[1])
        cut_off = box[0].start == 0 or box[0].stop == ct.shape_zyx[0]
        volume_ml = float(hu.size * ct.voxel_ml)
        measured.append(Measurement(organ, volume_ml, extent, float(hu.mean()), float(hu.std()), pieces, cut_off))
    return measured


def organ_volumes_ml(ct: Volume, label_map_zyx: np.ndarray) -> np.ndarray:
    """Return each organ's volume in mL, float64 (13,), organ 1 first, 0 for those that a label map (0 to 13) lacks.

    Quicker than `measure_organs`, and raises what it raises.
    """
    return label_counts(as_label_map(label_map_zyx, shape=ct.shape_zyx))[1:] * ct.voxel_ml


def measurement_table(measured: Sequence[Measurement]) -> str:
    """Return the measurements as lines that people read."""
    lines = [f"{'organ':22}{'mL':>8}{'z, y, x mm':>18}{'HU':>14}"]
    for m in measured:
        extent = " x ".join(f"{mm:.0f}" for mm in m.extent_zyx_mm)
        doubts = ["cut off by the scan"] * m.cut_off + [f"{m.pieces} pieces"] * (m.pieces > 1)
        line = f"{m.organ.name:22}{m.volume_ml:8.1f}{extent:>18}{m.mean_hu:7.0f} ± {m.sd_hu:<4.0f}"
        lines.append(f"{line}  {', '.join(doubts)}".rstrip())
    return "\n".join(lines)


def write_measurements(path: str | Path, measured: Sequence[Measurement]) -> None:
    """Write the measurements as CSV, complete or not at all."""
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_HEADER)
        for m in measured:
            numbers = (m.volume_ml, *m.extent_zyx_mm, m.mean_hu, m.sd_hu)
            writer.writerow([m.organ.name, *(f"{n:.2f}" for n in numbers), m.pieces, "yes" if m.cut_off else "no"])
