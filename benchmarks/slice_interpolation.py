"""Resize + argmax of 14 class scores: how fast, how large and how exact each method is.

    python benchmarks/slice_interpolation.py            # all of it: about 20 minutes on two cores
    python benchmarks/slice_interpolation.py --quick    # small grids, a minute: to see that it works

Every arm runs in a process of its own, warmed up on a small grid, and is timed `repeats` times (the median counts).
Extra memory is the highest resident set during a run minus that before it, so it includes the labels. Voxels that
differ are counted against torch's float32 answer for the whole volume or, where that does not fit into memory, against
the exact torch slabs, of which sampled slices are first compared with float64. The floor reads the scores once and
writes labels once.
Results go to `benchmarks/results/slice_interpolation.json` and, as tables, into `benchmarks/README.md`.
"""

import argparse
import operator
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from measure import extra_mib_of, give_memory_back_at_once, in_a_process, machine, store, timed
from scipy import ndimage

from flare_lib.ct.files import load_ct, load_label_map
from flare_lib.ct.labels import N_CLASSES
from flare_lib.ct.resample import resample_nearest
from flare_lib.ct.roi import bounding_box
from flare_lib.data.sources import sample_or_phantom
from flare_lib.inference.slice_interpolation import resize_argmax
from flare_lib.inference.sliding_window import Slab, sliding_window
from flare_lib.inference.stages import load_stages

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "slice_interpolation.json"
PAGE = HERE / "README.md"
OURS = ("torch", "torch_pruned", "numba_dense", "numba_pruned", "auto")
Shape = tuple[int, int, int]

# the arms -------------------------------------------------------------------------------------------------------------


def skimage(scores: torch.Tensor, shape_zyx: Shape, order: int) -> np.ndarray:
    """nnU-Net's way, and the paper's "before": every class resized by scikit-image, then the argmax."""
    from skimage.transform import resize

    resized = [resize(c, shape_zyx, order, mode="edge", anti_aliasing=False) for c in scores.numpy()]
    return np.stack(resized).argmax(0).astype(np.uint8)


def scipy(scores: torch.Tensor, shape_zyx: Shape) -> np.ndarray:
    """The same with scipy."""
    factors = [m / n for n, m in zip(scores.shape[1:], shape_zyx, strict=True)]
    resized = [ndimage.zoom(c, factors, order=1, mode="nearest", grid_mode=True) for c in scores.numpy()]
    return np.stack(resized).argmax(0).astype(np.uint8)


def torch_whole(scores: torch.Tensor, shape_zyx: Shape, *, align_corners: bool = False) -> np.ndarray:
    """All at once."""
    whole = F.interpolate(scores[None], shape_zyx, mode="trilinear", align_corners=align_corners)[0]
    return whole.argmax(0).to(torch.uint8).cpu().numpy()


def authors_slabs(scores: torch.Tensor, shape_zyx: Shape, n: int = 4) -> np.ndarray:
    """The authors' release: N slabs, each resized alone, its end slices pinned."""
    z_in = np.linspace(0, scores.shape[1], n + 1).round().astype(int)
    z_out = np.linspace(0, shape_zyx[0], n + 1).round().astype(int)
    parts = zip(z_in[:-1], z_in[1:], np.diff(z_out), strict=True)
    return np.concatenate(
        [torch_whole(scores[:, a:b], (int(m), *shape_zyx[1:]), align_corners=True) for a, b, m in parts]
    )


def winners_way(scores: torch.Tensor, shape_zyx: Shape) -> np.ndarray:
    """The challenge winner's: argmax on the small grid, then the nearest voxel."""
    labels = scores.argmax(0).to(torch.uint8)[None, None]
    return F.interpolate(labels, shape_zyx, mode="nearest-exact")[0, 0].cpu().numpy()


def floor(scores: torch.Tensor, shape_zyx: Shape) -> np.ndarray:
    """No answer at all: the scores read once, the labels written once, at memory speed."""
    scores.sum()
    return np.full(shape_zyx, 1, np.uint8)


ARMS: dict[str, Callable[[torch.Tensor, Shape], np.ndarray]] = {
    "skimage, order 1": lambda s, n: skimage(s, n, 1),
    "skimage, order 3": lambda s, n: skimage(s, n, 3),
    "scipy, order 1": scipy,
    "torch, whole volume": torch_whole,
    "authors' 4 slabs": authors_slabs,
    "winner: argmax, nearest": winners_way,
    **{f"ours, {m}": lambda s, n, m=m: resize_argmax(s, n, method=m) for m in OURS},
    "floor": floor,
}
ONCE = ("skimage, order 3", "scipy, order 1")  # slow, and compared with nothing
ON_GPU = ("torch, whole volume", "authors' 4 slabs", "winner: argmax, nearest", "ours, torch", "ours, torch_pruned")

# the cases ------------------------------------------------------------------------------------------------------------


def anatomy(shape_zyx: Shape) -> np.ndarray:
    """Scores of a real anatomy, float32 (14, z, y, x): the sample's organs, one-hot, with soft borders."""
    labels = load_label_map(sample_or_phantom().label_map_path).array_zyx
    small = resample_nearest(labels[bounding_box(labels > 0).slices], shape_zyx)
    soft = np.stack([ndimage.gaussian_filter((small == c).astype(np.float32), 1.0) for c in range(N_CLASSES)])
    return soft / soft.sum(axis=0, keepdims=True)


def net_output(shape_zyx: Shape) -> np.ndarray:
    """What the packaged fine net says of the sample, trilinearly on a grid of this shape."""
    _, fine = load_stages(device="cpu")
    ct = load_ct(sample_or_phantom().ct_path)
    slabs = sliding_window(fine.prepare(ct), fine.predict_patch, patch_size=fine.patch_size, tile_step=0.5)
    scores = torch.cat([slab.scores.float() for slab in slabs], dim=1)
    return F.interpolate(scores[None], shape_zyx, mode="trilinear")[0].numpy()


def random(shape_zyx: Shape) -> np.ndarray:
    """The worst case: every cell mixed."""
    return np.random.default_rng(0).random((N_CLASSES, *shape_zyx), dtype=np.float32)


SCORES = {"anatomy": anatomy, "net output": net_output, "random": random}
GRID = (128, 160, 160)
WITHOUT_SLOW = tuple(arm for arm in ARMS if not arm.startswith(("skimage", "scipy")))
HUGE = tuple(arm for arm in ARMS if arm.startswith(("ours", "floor", "winner")))
# (scores, their grid, the grid wanted, the arms)
CASES = (
    ("anatomy", GRID, (256, 320, 320), tuple(ARMS)),
    ("anatomy", GRID, (400, 512, 512), tuple(arm for arm in ARMS if arm not in ("skimage, order 3", "scipy, order 1"))),
    ("anatomy", (288, 160, 160), (900, 512, 512), HUGE),
    ("net output", GRID, (256, 320, 320), WITHOUT_SLOW),
    ("random", GRID, (256, 320, 320), WITHOUT_SLOW),
)
QUICK = tuple((kind, (24, 32, 28), (48, 64, 56), tuple(ARMS)) for kind in SCORES)
STREAM_HEIGHTS = (200, 400, 600, 900)

# measuring ------------------------------------------------------------------------------------------------------------


def time_of(run: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds of several runs; one that takes more than 60 s is run 3 times at most."""
    _, (first,) = timed(run)
    return [first, *timed(run, (min(repeats, 3) if first > 60 else repeats) - 1)[1]]


def measure(arm: str, scores_path: str, shape_zyx: Shape, reference_path: str, repeats: int) -> dict:
    """Time one arm in this process, after a small run that compiles and loads what it needs."""
    run = ARMS[arm]
    scores = torch.from_numpy(np.load(scores_path))
    run(scores[:, :16, :16, :16].contiguous(), (20, 22, 24))
    seconds, labels = [], []
    extra = extra_mib_of(lambda: seconds.extend(time_of(lambda: labels.append(run(scores, shape_zyx)), 1)))
    differ = None if arm == "floor" else int((labels.pop() != np.load(reference_path)).sum())
    if arm not in ONCE:
        seconds += time_of(lambda: run(scores, shape_zyx), repeats - 1)
    return {"arm": arm, "seconds": median(seconds), "n": len(seconds), "extra_mib": extra, "voxels_differ": differ} | (
        measure_on_gpu(run, scores, shape_zyx, repeats) if arm in ON_GPU and torch.cuda.is_available() else {}
    )


def measure_on_gpu(run: Callable, scores: torch.Tensor, shape_zyx: Shape, repeats: int) -> dict:
    """Time one arm on the GPU, labels brought back to the CPU, which waits for all of it."""
    there = scores.cuda()
    try:
        run(there, shape_zyx)
        torch.cuda.synchronize()
        return {"gpu_seconds": median(time_of(lambda: run(there, shape_zyx), repeats))}
    except torch.cuda.OutOfMemoryError:
        return {"gpu_seconds": "out of memory"}


def make_reference(scores_path: str, shape_zyx: Shape, path: str) -> str:
    """Save the labels to compare with, and say what they are."""
    scores = torch.from_numpy(np.load(scores_path))
    if N_CLASSES * np.prod(shape_zyx) < 2**31:
        np.save(path, torch_whole(scores, shape_zyx))
        return "torch, whole volume"
    labels = resize_argmax(scores, shape_zyx, method="torch")
    differ = sum(differ_from_float64(scores, labels, z) for z in np.linspace(0, shape_zyx[0] - 1, 13).astype(int))
    np.save(path, labels)
    return f"exact torch slabs; 13 of its slices against float64: {differ} voxels differ"


def differ_from_float64(scores: torch.Tensor, labels: np.ndarray, z: int) -> int:
    """Count the voxels of one output slice that differ from float64 interpolation, ties within 1e-6 aside."""
    n_in, n_out = scores.shape[1], labels.shape[0]
    at = min(max((z + 0.5) * n_in / n_out - 0.5, 0), n_in - 1)
    low = min(int(at), n_in - 2)
    plane = scores[:, low].double() * (low + 1 - at) + scores[:, low + 1].double() * (at - low)
    exact = F.interpolate(plane[None], labels.shape[1:], mode="bilinear")[0]
    ours = exact.gather(0, torch.from_numpy(labels[z].astype(np.int64))[None])[0]
    return int((exact.max(0).values - ours > 1e-6).sum())


def stream_extra_mib(height: int, width: int) -> dict:
    """Resize a stream of slabs to `height` slices: the whole input never exists. Extra memory is beside the labels."""
    give_memory_back_at_once()
    small = torch.from_numpy(anatomy((32, 160, 160)))
    n_in = height * 32 // 100

    def slabs() -> Iterator[Slab]:
        for start in range(0, n_in, 8):
            yield Slab(start, small[:, [z % 32 for z in range(start, min(start + 8, n_in))]].clone())

    def run(shape_zyx: Shape) -> np.ndarray:
        return resize_argmax(slabs(), shape_zyx, in_shape_zyx=(n_in, 160, 160))

    run((20, 22, 24))
    extra = extra_mib_of(lambda: run((height, width, width)))
    return {"height": height, "extra_mib_beside_labels": extra - height * width * width / 2**20}


def prepare(kind: str, grid: Shape, path: str) -> None:
    """Save the scores of a case."""
    np.save(path, np.ascontiguousarray(SCORES[kind](grid)))


def run_case(kind: str, grid: Shape, shape_zyx: Shape, arms: tuple[str, ...], repeats: int) -> dict:
    """Run all arms of one case."""
    with tempfile.TemporaryDirectory() as folder:
        scores_path, reference_path = f"{folder}/scores.npy", f"{folder}/reference.npy"
        in_a_process(prepare, kind, grid, scores_path)
        reference = in_a_process(make_reference, scores_path, shape_zyx, reference_path)
        rows = []
        for arm in arms:
            rows.append(in_a_process(measure, arm, scores_path, shape_zyx, reference_path, repeats))
            print(f"{kind} to {shape_zyx}: {row_text(rows[-1])}", flush=True)
    return {"scores": kind, "grid": list(grid), "shape": list(shape_zyx), "reference": reference, "rows": rows}


def row_text(row: dict) -> str:
    differ = "" if row["voxels_differ"] is None else f"{row['voxels_differ']:,} voxels differ"
    return f"{row['arm']:24} {row['seconds']:9.4f} s (n = {row['n']}), {row['extra_mib']:7.0f} MiB, {differ}"


# results --------------------------------------------------------------------------------------------------------------


def targets(cases: list[dict], stream: list[dict]) -> list[dict]:
    """Compare the results with the targets; a target whose case did not run is left out."""
    found = {(c["scores"], tuple(c["shape"])): {r["arm"]: r for r in c["rows"]} for c in cases}
    small, large = found.get(("anatomy", (256, 320, 320))), found.get(("anatomy", (400, 512, 512)))
    noise, huge = found.get(("random", (256, 320, 320))), found.get(("anatomy", (900, 512, 512)))
    checks: list[tuple[str, float, str, float]] = []
    for name, rows, wanted in (("256 x 320 x 320", small, 300), ("400 x 512 x 512", large, 1000)):
        if not rows:
            continue
        ours, labels_mib = rows["ours, auto"], np.prod([int(n) for n in name.split(" x ")]) / 2**20
        checks += [
            (f"{name}: times faster than skimage order 1", ratio(rows, "skimage, order 1"), ">=", wanted),
            (f"{name}: times faster than torch whole", ratio(rows, "torch, whole volume"), ">=", 50),
            (f"{name}: times the floor", 1 / ratio(rows, "floor"), "<=", 8),
            (f"{name}: extra MiB, labels included", ours["extra_mib"], "<=", 1.3 * labels_mib + 64),
            (f"{name}: voxels that differ", ours["voxels_differ"], "<=", 0),
            (
                f"{name}: torch path, times faster than whole",
                ratio(rows, "torch, whole volume", "ours, torch"),
                ">=",
                4,
            ),
            (f"{name}: torch path, extra MiB beside labels", rows["ours, torch"]["extra_mib"] - labels_mib, "<=", 100),
            (f"{name}: torch path, voxels that differ", rows["ours, torch"]["voxels_differ"], "<=", 0),
        ]
    if noise:
        dense = ratio(noise, "ours, auto", "ours, numba_dense")
        checks.append(("random: times the dense kernel", dense, "<=", 1.5))
        checks.append(("random: times faster than torch whole", ratio(noise, "torch, whole volume"), ">=", 20))
    if huge:
        checks.append(("900 x 512 x 512: extra MiB", huge["ours, auto"]["extra_mib"], "<=", 1000))
        checks.append(("900 x 512 x 512: voxels that differ", huge["ours, auto"]["voxels_differ"], "<=", 0))
    extra = [row["extra_mib_beside_labels"] for row in stream]
    if extra:
        checks.append(("streamed: extra memory, most / least, 200 to 900 slices", max(extra) / min(extra), "<=", 1.2))
    met = {">=": operator.ge, "<=": operator.le}
    return [
        {"target": f"{name} {sign} {wanted:g}", "measured": value, "met": bool(met[sign](value, wanted))}
        for name, value, sign, wanted in checks
    ]


def ratio(rows: dict[str, dict], arm: str, to: str = "ours, auto") -> float:
    """How many times longer `arm` takes than `to`."""
    return rows[arm]["seconds"] / rows[to]["seconds"]


def tables(results: dict) -> str:
    """Return the results as Markdown."""
    lines = [f"{results['machine']['cores']} cores, torch {results['machine']['torch']}, {results['date']}.", ""]
    for case in results["cases"]:
        z, y, x = case["shape"]
        lines += [f"**{case['scores']}, {case['grid']} to {z} x {y} x {x}.** Reference: {case['reference']}.", ""]
        lines += [
            "| arm | s (median of n) | times ours | extra MiB | voxels that differ | GPU s |",
            "|---|---|---|---|---|---|",
        ]
        ours = next(row for row in case["rows"] if row["arm"] == "ours, auto")
        for row in case["rows"]:
            differ = "" if row["voxels_differ"] is None else f"{row['voxels_differ']:,}"
            gpu = row.get("gpu_seconds", "not measured" if row["arm"] in ON_GPU else "")
            gpu = f"{gpu:.4f}" if isinstance(gpu, float) else gpu
            lines.append(
                f"| {row['arm']} | {row['seconds']:.4g} ({row['n']}) | {row['seconds'] / ours['seconds']:,.1f} "
                f"| {row['extra_mib']:,.0f} | {differ} | {gpu} |"
            )
        lines.append("")
    if results["stream"]:
        lines += ["**A stream of slabs, to Z x 512 x 512.**", "", "| Z | extra MiB beside the labels |", "|---|---|"]
        lines += [f"| {row['height']} | {row['extra_mib_beside_labels']:.0f} |" for row in results["stream"]]
        lines.append("")
    lines += ["**What was wanted.**", "", "| target | measured | met |", "|---|---|---|"]
    lines += [
        f"| {t['target']} | {t['measured']:,.4g} | {'yes' if t['met'] else '**no**'} |" for t in results["targets"]
    ]
    return "\n".join(lines)


def write_page(text: str, page: Path) -> None:
    """Put the tables between their two marks on the page."""
    begin, end = "<!-- slice_interpolation -->", "<!-- /slice_interpolation -->"
    before = page.read_text(encoding="utf-8")
    after = re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{text}\n{end}", before, flags=re.DOTALL)
    page.write_text(after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small grids; prints the tables and writes nothing")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cases = [run_case(*case, arguments.repeats) for case in (QUICK if arguments.quick else CASES)]
    width = 64 if arguments.quick else 512
    stream = [in_a_process(stream_extra_mib, height, width) for height in STREAM_HEIGHTS]
    results = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "cases": cases,
        "stream": stream,
        "targets": targets(cases, stream),
    }
    text = tables(results)
    print("\n" + text)
    if not arguments.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        store(RESULTS, results)
        write_page(text, PAGE)
        print(f"\nwrote {RESULTS} and {PAGE}")


if __name__ == "__main__":
    main()
