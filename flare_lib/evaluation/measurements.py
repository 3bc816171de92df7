"""What a label map says about a patient: volume, extent and density of each organ, and what to doubt.

A number from a segmentation is only as good as the segmentation, so an organ that the scan cuts off or that is in
several pieces is marked as such, and so is a liver with grey values that no liver has.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flare_lib.ct.border import cut_labels
from flare_lib.ct.hu import SANE_LIVER_HU
from flare_lib.ct.labels import N_ORGANS, ORGAN_NAMES, ORGANS, Organ, as_label_map, label_counts
from flare_lib.ct.volume import Volume
from flare_lib.evaluation.metrics import dice_scores
from flare_lib.machine.atomic_write import atomic_write

CUT, _ABSENT = "at least: cut by the border", "not found"
HEADER = ("organ", "volume_ml", "extent_z_mm", "extent_y_mm", "extent_x_mm", "mean_hu", "sd_hu", "pieces", "cut_off")


@dataclass(frozen=True)
class Measurement:
    """One organ of one patient: mL, mm along z, y and x (from edge to edge), HU, and two reasons to doubt them.

    `pieces`: number of connected pieces (26 neighbours); none of the 13 organs has more than one. `cut_off`: the organ
    touches the border of the scan, so part of it was probably not scanned and its true volume is larger.
    """

    organ: Organ
    volume_ml: float
    extent_zyx_mm: tuple[float, float, float]
    mean_hu: float
    sd_hu: float
    pieces: int
    cut_off: bool

    def row(self) -> list[str]:
        """Return the values of a table's row, in the order of `HEADER`."""
        numbers = (self.volume_ml, *self.extent_zyx_mm, self.mean_hu, self.sd_hu)
        return [self.organ.name, *(f"{n:z.2f}" for n in numbers), str(self.pieces), "yes" if self.cut_off else "no"]


def measure_organs(ct: Volume, label_map_zyx: np.ndarray) -> list[Measurement]:
    """Measure the organs in a label map (0 to 13, the CT's shape), in order; an empty label map gives an empty list.

    Raises TypeError for labels that are not integers, ValueError for labels outside 0 to 13 or another shape.
    """
    from scipy import ndimage  # slow to import, and the table of volumes needs none of it

    label_map_zyx = as_label_map(label_map_zyx, shape=ct.shape_zyx)
    cut = cut_labels(label_map_zyx, ct.array_zyx)
    measured = []
    for organ, box in zip(ORGANS, ndimage.find_objects(label_map_zyx, max_label=N_ORGANS), strict=True):
        if box is None:
            continue
        mask = label_map_zyx[box] == organ.id
        hu = ct.array_zyx[box][mask].astype(np.float64)
        extent = tuple((s.stop - s.start) * mm for s, mm in zip(box, ct.spacing_zyx_mm, strict=True))
        pieces = int(ndimage.label(mask, np.ones((3, 3, 3)))[1])
        volume_ml = float(hu.size * ct.voxel_ml)
        measured.append(
            Measurement(organ, volume_ml, extent, float(hu.mean()), float(hu.std()), pieces, organ.id in cut)
        )
    return measured


def measurement_table(measured: Sequence[Measurement]) -> str:
    """Return the measurements as lines of text for people to read, the last one naming the organs not found."""
    lines = [f"{'organ':22}{'mL':>10}{'z, y, x mm':>18}{'HU':>14}"]
    for m in measured:
        extent = " x ".join(f"{mm:.0f}" for mm in m.extent_zyx_mm)
        doubts = [CUT] * m.cut_off + [f"{m.pieces} pieces"] * (m.pieces > 1)
        if m.organ.name == "liver" and not SANE_LIVER_HU[0] <= m.mean_hu <= SANE_LIVER_HU[1]:
            doubts.append("no liver's HU: labels of another CT?")
        line = f"{m.organ.name:22}{_volume(m.volume_ml, m.cut_off):>10}{extent:>18}{m.mean_hu:z7.0f} ± {m.sd_hu:<4.0f}"
        lines.append(f"{line}  {', '.join(doubts)}".rstrip())
    if absent := [o.name for o in ORGANS if o not in [m.organ for m in measured]]:
        lines.append(f"{_ABSENT}: {', '.join(absent)}")
    return "\n".join(lines)


def volume_table(
    ct: Volume,
    label_map_zyx: np.ndarray,
    reference_zyx: np.ndarray | None = None,
    *,
    names: Mapping[int, str] = ORGAN_NAMES,
) -> str:
    """Return one line per organ: its volume, any doubts about it and, given a reference, its Dice score.

    `label_map_zyx`, `reference_zyx`: integers, the CT's shape, 0 to 13; `names`: {label: name}, 1 to their number, for
    label maps of other structures than FLARE's. Raises the errors of `as_label_map` and `dice_scores`.
    """
    n_classes = len(names) + 1
    label_map_zyx = as_label_map(label_map_zyx, shape=ct.shape_zyx, n_classes=n_classes)
    volumes_ml, cut = label_counts(label_map_zyx, n_classes) * ct.voxel_ml, cut_labels(label_map_zyx, ct.array_zyx)
    width = max(20, *(len(name) + 1 for name in names.values()))
    rows = [f"{'organ':{width}}{'mL':>10}  {'':{len(CUT)}}"]
    for label, name in names.items():
        ml = volumes_ml[label]
        doubt = CUT if label in cut else "" if ml else _ABSENT
        rows.append(f"{name:{width}}{_volume(ml, label in cut):>10}  {doubt:{len(CUT)}}")
    if reference_zyx is not None:
        dice, has = dice_scores(label_map_zyx, reference_zyx, n_classes), label_counts(reference_zyx, n_classes)[1:] > 0
        scores = [f"{dice[label - 1]:.3f}" if has[label - 1] else "not in it" for label in names]
        rows = [f"{row}{score:>22}" for row, score in zip(rows, ("Dice with reference", *scores), strict=True)]
        mean = dice[has].mean() if has.any() else math.nan
        rows.append(f"{f'mean of the {has.sum()} organs in it':{len(rows[0]) - 22}}{mean:22.3f}")
    return "\n".join(row.rstrip() for row in rows)


def _volume(ml: float, cut_off: bool) -> str:
    return f"{'>= ' if cut_off else ''}{ml:.1f}" if ml else "-"


def write_measurements(path: str | Path, measured: Sequence[Measurement]) -> None:
    """Write the measurements as CSV, complete or not at all."""
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(m.row() for m in measured)
