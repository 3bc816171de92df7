"""The paper's comparisons on a synthetic cohort of five centres; notebook 09 shows the results.

    python benchmarks/ablations.py study     # 24 nets, about an hour on 2 cores; resumes if stopped
    python benchmarks/ablations.py timing    # one stage against coarse to fine, skimage against slabs: minutes

Results of both parts go to `benchmarks/results/ablations.json`, with seeds, commit, machine and time. The timing part
uses the packaged nets, needs an idle machine and reports the medians of its runs.
"""

import argparse
import json
import subprocess
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from measure import extra_mib_of, give_memory_back_at_once, in_a_process, machine, store, timed
from tqdm import tqdm

from flare_lib.ct.preprocess import find_foreground
from flare_lib.ct.roi import crop_volume
from flare_lib.data.centres import CENTRES, write_centres
from flare_lib.evaluation.ablations import run_study
from flare_lib.evaluation.metrics import dice_scores
from flare_lib.inference.coarse_to_fine import Segmentation, segment, segment_in_one_stage
from flare_lib.inference.slice_interpolation import resize_argmax
from flare_lib.inference.stages import load_stages
from flare_lib.synthetic.phantom import phantom_case

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "ablations.json"


def circumstances() -> dict:
    """Return machine, commit and time."""
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    return {"machine": machine(), "commit": commit, "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}


def study(options: argparse.Namespace) -> dict:
    """Train and score all arms for all seeds."""
    began = time.perf_counter()
    cohort = write_centres(options.work / "cohort", options.labelled, options.unlabelled, options.test)
    bars: dict[str, tqdm] = {}

    def progress(what: str, done: int, total: int) -> None:
        bar = bars.setdefault(what, tqdm(total=total, desc=what, disable=None))
        bar.update(done - bar.n)
        if done == total:
            bars.pop(what).close()

    results = run_study(
        cohort,
        options.work / f"{options.coarse_steps}+{options.fine_steps}",
        seeds=options.seeds,
        n_coarse_steps=options.coarse_steps,
        n_fine_steps=options.fine_steps,
        progress=progress,
    )
    plain = {arm: {seed: [asdict(r) for r in rows] for seed, rows in of.items()} for arm, of in results.items()}
    return {
        **circumstances(),
        "minutes_of_this_run": round((time.perf_counter() - began) / 60, 1),
        "seeds": options.seeds,
        "steps": {"coarse": options.coarse_steps, "fine": options.fine_steps},
        "cases": {"labelled": options.labelled, "unlabelled": options.unlabelled, "test": options.test},
        "centres": [asdict(centre) for centre in CENTRES],
        "arms": plain,
    }


def timing(options: argparse.Namespace) -> dict:
    """Time the comparisons that need no training, each way in a process of its own."""
    scans = [
        {"field": field, "seed": seed}
        | {way: in_a_process(one_way, field, seed, way, options.runs) for way in ("one stage", "coarse to fine")}
        for field in ("abdomen", "half_body", "whole_body")
        for seed in (40_000, 40_001, 40_002)
    ]
    return {**circumstances(), "runs": options.runs, "scans": scans, "resize": in_a_process(resize_in_the_whole_way)}


def one_way(field: str, seed: int, way: str, runs: int) -> dict:
    """Return median seconds, memory beside the CT and mean Dice of one way to segment a phantom (packaged nets)."""
    torch.set_num_threads(2)
    coarse, fine = load_stages(device="cpu")
    ct, labels = phantom_case(seed, spacing_zyx_mm=(2.5, 1.5, 1.5), field_of_view=field)

    def run() -> Segmentation:
        return segment(ct, coarse, fine) if way == "coarse to fine" else segment_in_one_stage(ct, fine)

    result, seconds = timed(run, runs + 1)
    give_memory_back_at_once()
    return {
        "shape_zyx": ct.shape_zyx,
        "seconds": float(np.median(seconds[1:])),  # numba compiles in the first run
        "extra_mib": extra_mib_of(run),
        "dice": float(dice_scores(result.label_map_zyx, labels.array_zyx).mean()),
    }


def resize_in_the_whole_way() -> dict:
    """Return seconds of the whole way, and of the same resize + argmax by skimage and in slabs."""
    from skimage.transform import resize

    torch.set_num_threads(2)
    stages = load_stages(device="cpu")
    ct, _ = phantom_case(40_100, spacing_zyx_mm=(2.5, 0.9, 0.9))
    segment(ct, *stages)  # numba compiles
    result = segment(ct, *stages)
    body = crop_volume(ct, find_foreground(ct.array_zyx))
    small = stages[1].prepare(body).shape[1:]
    small = tuple(max(8, round(n * r / f)) for n, r, f in zip(small, result.roi.shape_zyx, body.shape_zyx, strict=True))
    logits = torch.from_numpy(smooth_noise(small))
    probabilities = (8 * logits).softmax(dim=0)
    shape_zyx = result.roi.shape_zyx

    def with_skimage() -> np.ndarray:
        return np.stack([resize(p, shape_zyx, order=1, mode="edge") for p in probabilities.numpy()]).argmax(axis=0)

    in_slabs, seconds = timed(lambda: resize_argmax(probabilities, shape_zyx), 5)
    by_skimage, (skimage_s,) = timed(with_skimage)
    return {
        "roi_shape_zyx": result.roi.shape_zyx,
        "net_shape_zyx": small,
        "whole_way_s": sum(result.seconds.values()),
        "slabs_s": float(np.median(seconds)),
        "skimage_s": skimage_s,
        "differing_voxels": int(np.count_nonzero(by_skimage != in_slabs)),
    }


def smooth_noise(shape: tuple[int, int, int]) -> np.ndarray:
    """14 smooth random fields."""
    from flare_lib.synthetic.deformation import smooth_field

    rng = np.random.default_rng(0)
    return np.stack([smooth_field(rng, shape, (3.0, 3.0, 3.0), 30.0) for _ in range(14)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("study", "timing"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--coarse-steps", type=int, default=500)
    parser.add_argument("--fine-steps", type=int, default=250)
    parser.add_argument("--labelled", type=int, default=8)
    parser.add_argument("--unlabelled", type=int, default=20)
    parser.add_argument("--test", type=int, default=15)
    parser.add_argument("--runs", type=int, default=3, help="of each timed way")
    parser.add_argument("--work", type=Path, default=HERE.parent / "out" / "ablations", help="nets and cases")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    stored = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    stored[options.part] = {"study": study, "timing": timing}[options.part](options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    store(options.out, stored)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
