"""Time and memory of the whole way: one CT, coarse to fine, with the packaged nets or with the paper's grids.

    python benchmarks/whole_way.py                      # a 512 x 512 x 400 and a 512 x 512 x 900 phantom, packaged nets
    python benchmarks/whole_way.py --ct a.nii.gz ...    # CTs of your own instead
    python benchmarks/whole_way.py --fast               # the fine net with one view of the CT instead of two
    python benchmarks/whole_way.py --paper-grid         # the paper's spacings and patch, a stub in place of its net

Each CT runs in a process of its own. Peak memory is the process's largest resident set, minus what it held with the CT
loaded; "CT" is only the CT's array. Results go to `benchmarks/results/whole_way.json` and, as a table, to the terminal.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measure import extra_mib_of, in_a_process, machine, store, timed

from flare_lib.ct.files import load_ct
from flare_lib.ct.labels import N_CLASSES
from flare_lib.ct.preprocess import COARSE, FINE, Preprocessing
from flare_lib.ct.resample import resample_nearest
from flare_lib.ct.volume import Volume
from flare_lib.inference.coarse_to_fine import segment
from flare_lib.inference.stages import Stage, load_stages
from flare_lib.synthetic.phantom import phantom_case

RESULTS = Path(__file__).parent / "results" / "whole_way.json"
PAPER_PATCH = (96, 128, 160)
PACKAGED, FAST, PAPER_GRID = "packaged", "packaged, --fast", "stub, paper's grids"


@dataclass
class Stub:
    """A stage with the paper's grids and no net: bright tissue is liver, so that the region of interest is large."""

    preprocessing: Preprocessing
    patch_size: tuple[int, int, int] = PAPER_PATCH

    def prepare(self, ct: Volume) -> torch.Tensor:
        return torch.from_numpy(self.preprocessing.apply(ct).array_zyx)[None]

    def predict_patch(self, patch: torch.Tensor) -> torch.Tensor:
        scores = torch.full((1, N_CLASSES, *patch.shape[2:]), 0.01)
        scores[:, 0] = (patch[:, 0] <= 0).float()
        scores[:, 1] = (patch[:, 0] > 0).float()
        return scores


def big_phantom(n_slices: int) -> Volume:
    """A whole-body phantom, 512 x 512 x n_slices at 1.5 x 0.9 x 0.9 mm, enlarged from a coarser one to save time."""
    ct, _ = phantom_case(0, spacing_zyx_mm=(4.0, 3.0, 3.0), field_of_view="whole_body")
    return Volume.from_array(resample_nearest(ct.array_zyx, (n_slices, 512, 512)), (1.5, 0.9, 0.9))


def stages_of(nets: str) -> tuple[Stage, Stage]:
    """Return the coarse and the fine stage that a row of the table calls so."""
    if nets == PAPER_GRID:
        return Stub(COARSE), Stub(FINE)
    coarse, fine = load_stages(device="cpu")
    return coarse, fine.with_scales(fine.scales[0]) if nets == FAST else fine


def measure(case: str, nets: str) -> dict:
    """Segment one CT in this process and return time, memory and the steps' times."""
    ct = big_phantom(int(case)) if case.isdigit() else load_ct(case)
    stages = stages_of(nets)
    results = []
    extra, (seconds,) = timed(lambda: extra_mib_of(lambda: results.append(segment(ct, *stages))))
    (result,) = results
    return {
        "case": case if not case.isdigit() else f"phantom 512 x 512 x {case}",
        "nets": nets,
        "shape_zyx": list(ct.shape_zyx),
        "roi_shape_zyx": list(result.roi.shape_zyx),
        "seconds": round(seconds, 1),
        "ct_mib": round(ct.array_zyx.nbytes / 2**20),
        "extra_mib": round(extra),
        "organs_found": int(np.unique(result.label_map_zyx).size - 1),
        "steps": {step: round(s, 2) for step, s in result.seconds.items()},
        "notes": list(result.notes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", nargs="+", help="CTs to segment instead of the phantoms")
    parser.add_argument("--slices", nargs="+", default=["400", "900"], help="heights of the phantoms")
    parser.add_argument("--paper-grid", action="store_true", help="the paper's spacings and patch, no net")
    parser.add_argument("--fast", action="store_true", help="one view of the CT instead of two")
    arguments = parser.parse_args()
    nets = PAPER_GRID if arguments.paper_grid else FAST if arguments.fast else PACKAGED
    rows = []
    for case in arguments.ct or arguments.slices:
        rows.append(in_a_process(measure, case, nets))
        row = rows[-1]
        memory = f"CT {row['ct_mib']} MiB, extra {row['extra_mib']} MiB"
        print(f"{row['case']:<28} {row['nets']:<20} {row['seconds']:7.1f} s  {memory}")
        print("    " + ", ".join(f"{step} {s} s" for step, s in row["steps"].items()))
    earlier = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    replaced = {(row["case"], row["nets"]) for row in rows}
    rows = [row for row in earlier if (row["case"], row["nets"]) not in replaced] + rows
    RESULTS.parent.mkdir(exist_ok=True)
    store(RESULTS, {"machine": machine(), "rows": rows})
    print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
