"""What a fresh installation's first `flare segment` takes longer than its second: the loops that numba compiles.

    python benchmarks/first_run.py                   # the sample, three fresh installations: a few minutes
    python benchmarks/first_run.py --ct a.nii.gz     # a CT of your own instead

Each pair of runs has an empty folder for compiled code, which the first fills and the second reads. Every run is a
process of its own, from the command to the label file; before them, one run that is not counted brings the files into
memory. Wall and CPU seconds go to `benchmarks/results/first_run.json` and, as a table, to the terminal.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from measure import machine, store

from flare_lib.data.sources import Cache, sample_or_phantom

RESULTS = Path(__file__).parent / "results" / "first_run.json"


def run(ct: Path, cache: str) -> dict[str, float]:
    """Segment a CT in a process that keeps its compiled code in this folder; return what it took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "flare_lib.cli", "segment", str(ct), "-o", f"{folder}/labels.nii.gz"]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, env=os.environ | {"NUMBA_CACHE_DIR": cache}, check=True, capture_output=True)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": seconds, "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def pair(ct: Path) -> dict[str, dict[str, float]]:
    """Run twice with a folder that is empty at first."""
    with tempfile.TemporaryDirectory() as cache:
        return {"first": run(ct, cache), "second": run(ct, cache)}


def table(pairs: list[dict]) -> str:
    """Return the medians as a Markdown table."""
    lines = ["| | s | CPU s |", "|---|---|---|"]
    middle = {name: [median(p[name][kind] for p in pairs) for kind in ("seconds", "cpu_seconds")] for name in pairs[0]}
    middle["difference"] = [median(p["first"][k] - p["second"][k] for p in pairs) for k in ("seconds", "cpu_seconds")]
    return "\n".join([*lines, *(f"| {name} | {s:.1f} | {cpu_s:.1f} |" for name, (s, cpu_s) in middle.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", type=Path, help="a CT to use instead of the sample")
    parser.add_argument("--pairs", type=int, default=3, help="how many fresh installations (default: 3)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to store the results instead")
    chosen = parser.parse_args()
    ct = chosen.ct or sample_or_phantom(Cache()).ct_path
    with tempfile.TemporaryDirectory() as cache:
        run(ct, cache)  # not counted: files come into memory
    pairs = [pair(ct) for _ in range(chosen.pairs)]
    store(chosen.output, {"machine": machine(), "ct": ct.name, "pairs": pairs})
    print(table(pairs))


if __name__ == "__main__":
    main()
