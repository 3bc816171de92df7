"""Does a loss on every head help? A small net with three heads and with one; notebooks 04 and 09 show the result.

    python benchmarks/heads.py             # a few minutes on one core with bfloat16; resumes if stopped
    python benchmarks/heads.py --steps 4   # a quick look

Both arms see the same synthetic persons, the same patches in the same order and as many steps. Along the way the Dice
is measured on patches of persons held out. Results go to `benchmarks/results/heads.json` after every seed.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from ablations import circumstances
from measure import store

from flare_lib.data.centres import write_phantoms
from flare_lib.data.cohort import find_cases
from flare_lib.data.prepared import PreparedCase, prepare_cases
from flare_lib.training.log import read_log
from flare_lib.training.loop import train
from flare_lib.training.patches import Patches
from flare_lib.training.recipes import Recipe, preset

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "heads.json"
ARMS = {"three heads": 3, "one head": 1}


def recipe_of(options: argparse.Namespace, n_heads: int, seed: int) -> Recipe:
    """Return the recipe of one run: a net of notebook 09's own study, with more steps and larger patches."""
    small = {"spacing_zyx_mm": (12.0, 12.0, 12.0), "patch_size": (16, 24, 32), "batch_size": 1}
    recipe = preset("course", "fine", n_steps=options.steps, sources={"cases": 1.0}, **small)
    return replace(recipe, n_heads=n_heads, seed=seed, validate_every=options.every)


def one_run(recipe: Recipe, cases: list[PreparedCase], held_out: list[PreparedCase], folder: Path) -> dict:
    """Train one net and return its curve: mean losses between two validations, and the Dice at each of them."""
    unseen = Patches({"cases": held_out}, replace(recipe, seed=0))  # the same patches for every seed
    validation = [unseen.batch(k) for k in range(16)]
    train(
        recipe.new_net(), Patches({"cases": cases}, recipe), recipe, folder=folder, validation=validation, n_workers=0
    )
    entries = read_log(folder / "log.jsonl")
    at = [entry["step"] + 1 for entry in entries if "validation_dice" in entry]
    losses = np.array([entry["loss"] for entry in entries])
    return {
        "steps": at,
        "mean_loss": [round(float(losses[a:b].mean()), 4) for a, b in zip([0, *at[:-1]], at, strict=True)],
        "validation_dice": [entry["validation_dice"] for entry in entries if "validation_dice" in entry],
        "organs_dice": entries[-1]["organs_dice"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=25, help="steps between two validations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--persons", type=int, default=10, help="to learn from")
    parser.add_argument("--held-out", type=int, default=3)
    parser.add_argument("--work", type=Path, default=HERE.parent / "out" / "heads", help="nets and cases")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    n = options.persons + options.held_out
    cohort = options.work / "cohort"
    written = find_cases(cohort) if (cohort / "images").is_dir() else []
    if len(written) != n:
        written = write_phantoms(cohort, n, seed=300, spacing_zyx_mm=(5.0, 4.0, 4.0))
    preprocessing = recipe_of(options, 1, 0).preprocessing
    cases = prepare_cases(written, options.work / "prepared", preprocessing, around="organs", margin_mm=40.0)
    learnt_from, held_out = cases[: options.persons], cases[options.persons :]
    names = {"learnt_from": [case.name for case in learnt_from], "held_out": [case.name for case in held_out]}
    arms: dict[str, dict[str, dict]] = {arm: {} for arm in ARMS}
    for seed in options.seeds:
        for arm, n_heads in ARMS.items():
            recipe = recipe_of(options, n_heads, seed)
            folder = options.work / f"{options.steps}-{n_heads}-{seed}"
            arms[arm][str(seed)] = one_run(recipe, learnt_from, held_out, folder)
        store(options.out, {**circumstances(), "recipe": recipe_of(options, 3, 0).to_dict(), **names, "arms": arms})
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
