"""How fast cases are scored: ours against google-deepmind's surface-distance and against label-by-label Dice.

    python benchmarks/scores.py            # 13 organs at 256 x 320 x 320
    python benchmarks/scores.py --runs 1

The reference is a phantom; the prediction is the same, moved by a voxel or two and with ragged borders. The methods
take turns; ratios are those of the medians. NSD has 13 tolerances, so each method looks at 13 masks. Results go to
`benchmarks/results/scores.json`.
"""

import argparse
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import surface_distance
from measure import machine, store, timed

from flare_lib.ct.labels import ORGANS
from flare_lib.ct.resample import resample_nearest
from flare_lib.evaluation.flare_rules import CLEAN, flare_scores
from flare_lib.evaluation.metrics import dice_scores
from flare_lib.synthetic.phantom import phantom_case

RESULTS = Path(__file__).parent / "results" / "scores.json"
SHAPE, SPACING = (256, 320, 320), (1.0, 1.3, 1.3)


def case() -> tuple[np.ndarray, np.ndarray]:
    """Return prediction and reference, uint8 (Z, Y, X)."""
    reference = resample_nearest(phantom_case(0)[1].array_zyx, SHAPE)
    rng = np.random.default_rng(0)
    steps = [np.clip(np.arange(n) + rng.integers(-1, 3, n), 0, n - 1) for n in SHAPE]
    return reference[np.ix_(*steps)], reference


def theirs(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Compute the NSD of 13 organs with google-deepmind's package, one organ at a time, as FLARE's script does."""
    scores = []
    with mock.patch.object(np, "Inf", np.inf, create=True):  # its last release is older than numpy 2
        for organ in ORGANS:
            distances = surface_distance.compute_surface_distances(
                reference == organ.id, prediction == organ.id, SPACING
            )
            scores.append(surface_distance.compute_surface_dice_at_tolerance(distances, organ.tolerance_mm))
    return np.array(scores)


def dice_label_by_label(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Compute the Dice of 13 organs from two masks per organ."""
    scores = []
    for organ in ORGANS:
        found, true = prediction == organ.id, reference == organ.id
        scores.append(2 * (found & true).sum() / (found.sum() + true.sum()))
    return np.array(scores)


WAYS = {
    "NSD, surface-distance": theirs,
    "DSC and NSD, ours": lambda p, r: flare_scores(p, r, SPACING, rules=CLEAN).nsd,
    "DSC, label by label": dice_label_by_label,
    "DSC, ours": dice_scores,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    prediction, reference = case()
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    scores = {}
    for _ in range(options.runs):
        for name, way in WAYS.items():
            scores[name], once = timed(partial(way, prediction, reference))
            seconds[name] += once
    median = {name: float(np.median(times)) for name, times in seconds.items()}
    nsd, dice = (abs(scores[a] - scores[b]).max() for a, b in (tuple(WAYS)[:2], tuple(WAYS)[2:]))
    result = {
        "machine": machine(),
        "seconds": median,
        "runs": options.runs,
        "nsd_ratio": median["NSD, surface-distance"] / median["DSC and NSD, ours"],
        "dice_ratio": median["DSC, label by label"] / median["DSC, ours"],
        "largest_difference": {"nsd": float(nsd), "dice": float(dice)},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    store(options.out, result)
    for name, value in median.items():
        print(f"{name:26}{value:9.3f} s")
    print(f"NSD {result['nsd_ratio']:.1f} times as fast, DSC {result['dice_ratio']:.1f} times; wrote {options.out}")


if __name__ == "__main__":
    main()
