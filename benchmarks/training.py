"""What training costs and whether it learns: a step against the bare net, and one phantom learnt by heart.

    python benchmarks/training.py            # about 5 minutes on 2 cores
    python benchmarks/training.py --steps 5  # a quick look

A step is the whole of it: patches painted and augmented in the background, forward, loss, backward, update, log, with
the preset `release`, fine; "bare" is forward and backward of the same net with the same patch size and precision, and
nothing else. The two take turns, and the medians of all their steps are compared. Results go to
`benchmarks/results/training.json`.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measure import machine, store, timed
from torch import nn

from flare_lib.ct.preprocess import normalize
from flare_lib.data.centres import write_phantoms
from flare_lib.data.prepared import prepare_cases
from flare_lib.evaluation.metrics import dice_scores
from flare_lib.inference.sliding_window import sliding_window
from flare_lib.machine.precision import choose_precision
from flare_lib.synthetic.phantom import make_phantom
from flare_lib.training.log import read_log
from flare_lib.training.loop import train
from flare_lib.training.patches import Patches
from flare_lib.training.recipes import Recipe, preset

RESULTS = Path(__file__).parent / "results" / "training.json"
ROUNDS = 3


def bare_seconds(net: nn.Module, recipe: Recipe, n_steps: int) -> list[float]:
    """Seconds of forward + backward on noise."""
    image = torch.randn(recipe.batch_size, 1, *recipe.patch_size)

    def step() -> None:
        net.zero_grad(set_to_none=True)
        with choose_precision(device=torch.device("cpu")).autocast(torch.device("cpu")):
            head_logits = net(image)
        sum(logits.float().mean() for logits in head_logits).backward()

    return timed(step, n_steps)[1]


def step_time(n_steps: int) -> dict:
    """Return the medians of a bare and of a whole step, and their ratio."""
    recipe = preset("release", "fine", n_steps=n_steps, sources={"phantoms": 1.0}, mean_hu=-114.0, sd_hu=188.0)
    recipe = replace(recipe, augmentation=0.2)
    persons = [make_phantom(k) for k in range(4)]
    bare, whole, waited = [], [], []
    for k in range(ROUNDS):
        net = recipe.new_net()
        bare += bare_seconds(net, recipe, n_steps)[1:]
        with tempfile.TemporaryDirectory() as folder:
            train(net, Patches({"phantoms": persons}, replace(recipe, seed=k)), recipe, folder=folder)
            entries = read_log(Path(folder) / "log.jsonl")[1:]  # the first waits for the loader to start
        whole += [entry["s"] for entry in entries]
        waited += [entry["wait_s"] for entry in entries]
    medians = {name: float(np.median(v)) for name, v in (("bare_s", bare), ("step_s", whole), ("wait_s", waited))}
    return {**medians, "ratio": medians["step_s"] / medians["bare_s"], "steps": len(whole)}


def overfit(n_steps: int) -> dict:
    """Train a course-sized net on one phantom and segment that phantom: Dice per organ, seconds, the curve."""
    recipe = preset("course", "fine", n_steps=n_steps, sources={"cases": 1.0}, foreground_share=0.5, learning_rate=8e-3)
    with tempfile.TemporaryDirectory() as folder:
        cases = write_phantoms(folder, 1, seed=7, spacing_zyx_mm=(4.0, 3.0, 3.0))
        prepared = prepare_cases(cases, Path(folder) / "prepared", recipe.preprocessing, around="organs")
        patches, run = Patches({"cases": prepared}, recipe), Path(folder) / "run"
        net, (seconds,) = timed(lambda: train(recipe.new_net(), patches, recipe, folder=run))
        losses = [entry["loss"] for entry in read_log(Path(folder) / "run" / "log.jsonl")]
        own = prepared[0].moments
        image, reference = normalize(prepared[0].image_hu, own.mean, own.sd), np.array(prepared[0].labels)
    net.eval()
    with torch.inference_mode():
        slabs = sliding_window(
            torch.from_numpy(image),
            lambda patch: net.finest(patch).softmax(dim=1),
            patch_size=recipe.patch_size,
            tile_step=0.5,
            weights="gaussian",
        )
        found = np.concatenate([slab.scores.argmax(dim=0).byte().numpy() for slab in slabs])
    dice = dice_scores(found, reference)
    per_100 = [float(np.mean(losses[k : k + 100])) for k in range(0, len(losses), 100)]
    return {
        "seconds": seconds,
        "steps": n_steps,
        "mean_dice": float(dice.mean()),
        "lowest_dice": float(dice.min()),
        "mean_loss_per_100_steps": per_100,
        "falls": bool((np.diff(per_100) < 0).all()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15, help="steps of a round of the step time")
    parser.add_argument("--overfit-steps", type=int, default=1000)
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    result = {"machine": machine(), "step": step_time(options.steps), "overfit": overfit(options.overfit_steps)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    store(options.out, result)
    step, by_heart = result["step"], result["overfit"]
    print(f"step {step['step_s']:.2f} s, bare {step['bare_s']:.2f} s, ratio {step['ratio']:.2f}")
    print(f"waiting for patches {step['wait_s']:.3f} s of it; medians of {step['steps']} steps")
    print(
        f"one phantom, {by_heart['steps']} steps in {by_heart['seconds']:.0f} s: mean Dice {by_heart['mean_dice']:.3f}"
    )
    print(f"lowest organ {by_heart['lowest_dice']:.3f}; loss falls every 100 steps: {by_heart['falls']}")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
