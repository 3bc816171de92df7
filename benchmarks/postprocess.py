"""The largest component of 13 organs in one pass, against scipy organ by organ, on a large CT with islands.

    python benchmarks/postprocess.py          # about 3 minutes on 2 cores
    python benchmarks/postprocess.py --small  # a quick look

A phantom on 400 x 512 x 512 voxels (z, y, x), with 150 balls of random labels, sizes and places scattered over it. Both
ways must give the same label map, or the script fails. Results go to `benchmarks/results/postprocess.json`.
"""

import argparse
from pathlib import Path

import numpy as np
from measure import machine, store, timed
from scipy import ndimage

from flare_lib.ct.labels import N_ORGANS
from flare_lib.inference.postprocess import keep_largest_components, postprocess
from flare_lib.synthetic.phantom import make_phantom
from flare_lib.synthetic.structures import organ_labels

RESULTS = Path(__file__).parent / "results" / "postprocess.json"
N_ISLANDS = 150


def label_map_with_islands(shape_zyx: tuple[int, int, int], spacing_zyx_mm: tuple[float, float, float]) -> np.ndarray:
    """Return a phantom's labels with balls of 2 to 9 voxels in radius."""
    labels = organ_labels(make_phantom(0, shape_zyx=shape_zyx, spacing_zyx_mm=spacing_zyx_mm))
    rng = np.random.default_rng(0)
    for _ in range(N_ISLANDS):
        radius = int(rng.integers(2, 10))
        center = [int(rng.integers(radius, n - radius)) for n in shape_zyx]
        box = tuple(slice(c - radius, c + radius + 1) for c in center)
        z, y, x = np.ogrid[tuple(slice(-radius, radius + 1) for _ in range(3))]
        labels[box][z * z + y * y + x * x <= radius * radius] = rng.integers(1, N_ORGANS + 1)
    return labels


def by_scipy(label_map: np.ndarray) -> np.ndarray:
    """Label each organ's mask, count, keep the largest."""
    kept = np.zeros_like(label_map)
    for organ in range(1, N_ORGANS + 1):
        components, n = ndimage.label(label_map == organ, structure=np.ones((3, 3, 3)))
        if n:
            kept[components == np.bincount(components.ravel())[1:].argmax() + 1] = organ
    return kept


def seconds_of(function, argument, runs: int) -> tuple[np.ndarray, float]:
    """Return a function's result and the median of its times."""
    result, seconds = timed(lambda: function(argument), runs)
    return result, float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    shape = (50, 64, 96) if options.small else (400, 512, 512)
    spacing = (5.0, 4.5, 4.0) if options.small else (0.65, 0.75, 0.8)
    label_map = label_map_with_islands(shape, spacing)
    keep_largest_components(label_map[:9, :9, :9])  # compiled before it is timed
    ours, ours_s = seconds_of(keep_largest_components, label_map, options.runs)
    theirs, theirs_s = seconds_of(by_scipy, label_map, min(3, options.runs))
    if not np.array_equal(ours, theirs):
        raise SystemExit("the two ways must give the same label map")
    whole_s = seconds_of(lambda labels: postprocess(labels, spacing), label_map, options.runs)[1]
    removed = int(np.count_nonzero(label_map != ours))
    result = {
        "machine": machine(),
        "shape_zyx": shape,
        "islands": N_ISLANDS,
        "voxels_removed": removed,
        "ours_s": ours_s,
        "scipy_s": theirs_s,
        "ratio": theirs_s / ours_s,
        "both_steps_s": whole_s,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    store(options.out, result)
    print(f"one pass {ours_s:.2f} s, scipy {theirs_s:.2f} s, ratio {theirs_s / ours_s:.1f}; {removed} voxels removed")
    print(f"with the distance rule {whole_s:.2f} s; wrote {options.out}")


if __name__ == "__main__":
    main()
