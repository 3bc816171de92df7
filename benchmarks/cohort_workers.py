"""How many cases per hour the packaged nets do on this computer: one process with all cores, or one per core.

    python benchmarks/cohort_workers.py             # 12 cases: the sample, and phantoms of three fields of view
    python benchmarks/cohort_workers.py CTS...      # your own, as flare segment takes them

Each way segments the same cases into a folder of its own, in the order A B B A ..., once its processes have loaded
their nets (with phantoms that do not count). The labels of all ways are compared voxel by voxel. Then the arithmetic:
2,000 cases take their mean seconds in one of n workers, times 2,000 / n; the same is worked out for the measured run,
and compared with what it took. Results go to `benchmarks/results/cohort_workers.json`.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import torch
from measure import machine, store

from flare_lib.ct.files import load_label_map, save_ct
from flare_lib.data.cohort import Case
from flare_lib.data.listing import list_cts
from flare_lib.data.sources import sample_or_phantom
from flare_lib.inference.cohort_run import label_path, segment_cohort
from flare_lib.machine.processes import Processes, n_cores
from flare_lib.synthetic.phantom import phantom_case

RESULTS = Path(__file__).parent / "results" / "cohort_workers.json"
FIELDS = ("abdomen", "half_body", "whole_body")
ARCHIVE, MANY = 2000, (1, 16, 64)
HERE = 0  # no worker: this process


def ways(cores: int) -> list[tuple[int, int]]:
    """Return (workers, threads of each) to compare: this process with all cores, and one process per core."""
    return [(HERE, cores), (cores, 1)]


def default_cases(folder: Path, n_cases: int = 12) -> list[Case]:
    """Return the sample and phantoms made into the folder, of three fields of view in turn."""
    cases = [Case("sample", sample_or_phantom().ct_path)]
    for k in range(n_cases - 1):
        field = FIELDS[k % len(FIELDS)]
        cases.append(Case(f"{field}_{k}", folder / f"{field}_{k}.nii.gz"))
        save_ct(cases[-1].ct_path, phantom_case(7100 + k, field_of_view=field)[0])
    return cases


def measured(cases: Sequence[Case], warm: Sequence[Case], folder: Path, workers: int, threads: int) -> dict[str, Any]:
    """Return what a run of all cases took: seconds in all, and of every case within its process."""
    torch.set_num_threads(threads if workers == HERE else 1)
    pool = nullcontext() if workers == HERE else Processes(workers, n_threads=threads)
    with pool as opened:
        segment_cohort(warm, folder / "warm", pool=opened)
        cpu_s, all_s, began = _cpu_s(), _cpu_s_of_all(), time.perf_counter()
        entries = segment_cohort(cases, folder, pool=opened)
        took = time.perf_counter() - began
        cpu_s, all_s = _cpu_s() - cpu_s, _cpu_s_of_all() - all_s
    return {
        "workers": workers,
        "threads": threads,
        "s": round(took, 2),
        "cases_an_hour": round(3600 * len(cases) / took),
        "cpu_s": round(cpu_s, 2),
        "cpu_s_of_others": round(all_s - cpu_s, 2),  # 0 on a quiet machine; else the seconds are upper bounds
        "case_s": {entry["name"]: entry["total_s"] for entry in entries},
        "peak_mib": max(entry["peak_mib"] for entry in entries),
        "failed": [entry["name"] for entry in entries if entry["state"] == "failed"],
    }


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of those it has started."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def _cpu_s_of_all() -> float:
    """Return the CPU seconds of everything on this computer."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def voxels_that_differ(cases: Sequence[Case], one: Path, other: Path) -> int:
    """Return how many voxels of all cases have other labels in another folder."""
    found = 0
    for case in cases:
        mine, others = (load_label_map(label_path(folder, case.name)).array_zyx for folder in (one, other))
        found += int(np.count_nonzero(mine != others))
    return found


def hours(run: dict[str, Any], n_cases: int, n_workers: int) -> float:
    """Return what n_cases take n_workers like those of a run, in hours: a case's mean, shared out."""
    mean_s = float(np.mean(list(run["case_s"].values())))
    return n_cases * mean_s / n_workers / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cts", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    cores = n_cores()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cases = list_cts(options.cts) if options.cts else default_cases(folder)
        warm = [Case(f"warm{k}", folder / f"warm{k}.nii.gz") for k in range(cores)]
        for k, case in enumerate(warm):
            save_ct(case.ct_path, phantom_case(k)[0])
        runs, there_and_back = [], [ways(cores), ways(cores)[::-1]]
        order = [way for k in range(options.rounds) for way in there_and_back[k % 2]]
        for k, (workers, threads) in enumerate(order):
            runs.append(measured(cases, warm, folder / f"run{k}", workers, threads))
            print({name: value for name, value in runs[-1].items() if name != "case_s"}, flush=True)
        differ = [voxels_that_differ(cases, folder / "run0", folder / f"run{k}") for k in range(1, len(runs))]
    best = max(runs, key=lambda run: run["cases_an_hour"])
    n_best = max(1, best["workers"])
    found = {
        "machine": machine(),
        "shapes_xyz": {case.name: _shape(case) for case in cases},
        "runs": runs,
        "voxels_that_differ": differ,
        "expected_s": round(3600 * hours(best, len(cases), n_best), 2),
        "took_s": best["s"],
        "hours_for_2000": {str(n): round(hours(best, ARCHIVE, n), 2) for n in MANY},
    }
    store(options.out, found)
    print({name: value for name, value in found.items() if name != "runs"})


def _shape(case: Case) -> list[int]:
    return list(nib.Nifti1Image.from_filename(case.ct_path).shape)


if __name__ == "__main__":
    main()
