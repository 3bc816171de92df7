"""What nets that learn from painted people alone know of a person they have never seen: leave one out, organ by organ.

    python benchmarks/leave_one_out.py people                           # days on two cores; resumes if stopped
    python benchmarks/leave_one_out.py people --phantom-steps 2 --coarse-steps 2 --fine-steps 2   # a quick look

`people`: a folder of label maps to paint, as for `flare train --label-maps`. A first coarse net learns from phantoms
alone, in whom there is nobody. From it, for each person, a coarse net learns from all others, people between them and
phantoms, and from that one a fine net (preset `release`, with smaller patches for the fine nets). Both segment CTs
painted over the person left out: half of all these CTs without contrast agent, a third 18 cm wide round the spine,
slices of 1.5, 2.5 and 5 mm. Organs are scored that are whole, cut neither by the CT nor by the person's label map.
Beside it, the packaged nets on the same CTs: they have learnt from these people, so theirs is the score of people who
are known.
Results go to `benchmarks/results/leave_one_out.json` after every person.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import cast

import numpy as np
from measure import machine, store
from tqdm import tqdm
from weights import Scores, means, painted_cases, score, summary

from flare_lib.ct.border import cut_labels
from flare_lib.ct.labels import ORGANS
from flare_lib.inference.coarse_to_fine import segment
from flare_lib.inference.stages import NetStage, load_stages
from flare_lib.network.unet import UNet
from flare_lib.network.weights import load_trained, save_trained
from flare_lib.synthetic.morphing import people_between
from flare_lib.synthetic.phantom import make_phantom
from flare_lib.synthetic.structures import Structures, organ_labels
from flare_lib.synthetic.subjects import embody, find_subjects, load_subject
from flare_lib.training.loop import train
from flare_lib.training.patches import Patches
from flare_lib.training.recipes import Recipe, preset
from flare_lib.training.training_set import Source, moments_of_sources

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "leave_one_out.json"
CTS_PER_PERSON = 5
BODIES_PER_PERSON, N_PHANTOMS = 2, 24

Sources = dict[str, Sequence[Source]]


def recipes_of(options: argparse.Namespace) -> tuple[Recipe, Recipe, Recipe]:
    """Return the recipes of the first net, which sees phantoms alone, and of each person's coarse and fine nets."""
    coarse = preset("release", "coarse", n_steps=options.coarse_steps)
    fine = preset("release", "fine", n_steps=options.fine_steps, patch_size=(48, 64, 64))
    first = replace(coarse, n_steps=options.phantom_steps, sources={"phantoms": 1.0})
    return first, coarse, fine


def learn(recipe: Recipe, sources: Sources, folder: Path, *, init: Path | None = None) -> Path:
    """Train one net, or go on where its run stopped; returns the stem of its weights."""
    stem = folder / recipe.stage
    if stem.with_suffix(".json").exists():
        return stem
    if recipe.stage == "fine":
        shared = moments_of_sources(sources, recipe)
        recipe = replace(recipe, mean_hu=round(shared.mean, 2), sd_hu=round(shared.sd, 2))
    net = recipe.new_net() if init is None else load_trained(init).net
    with tqdm(total=recipe.n_steps, desc=f"{folder.name}, {recipe.stage}") as bar:
        trained = train(net, Patches(sources, recipe), recipe, folder=stem, on_step=lambda *_: bar.update())
    card = {"preprocessing": recipe.preprocessing.to_dict(), "patch_size": list(recipe.patch_size)}
    save_trained(stem, cast(UNet, trained).eval(), card | {"recipe": recipe.to_dict()})
    return stem


def bodies_of(people: dict[str, Structures], cache: Path) -> dict[tuple[str, ...], list[Structures]]:
    """Return everybody to paint by the names of those they come from: each person, and one between every two."""
    bodies: dict[tuple[str, ...], list[Structures]] = {}
    for k, (name, person) in enumerate(tqdm(people.items(), desc="people")):
        bodies[(name,)] = embody(person, BODIES_PER_PERSON, seed=k)
    for k, pair in enumerate(tqdm(list(combinations(people, 2)), desc="people between")):
        between = people_between([people[name] for name in pair], 1, seed=k, cache=cache)
        bodies[pair] = [body for person in between for body in embody(person, 1, seed=1000 + k)]
    return bodies


def without(name: str, bodies: dict[tuple[str, ...], list[Structures]]) -> list[Structures]:
    """Return the bodies of all who have nothing of one person."""
    return [body for names, them in bodies.items() if name not in names for body in them]


def scores_of(stages: tuple[NetStage, NetStage], person: Structures, numbers: range) -> Iterator[tuple[str, list]]:
    """Yield the name of each CT painted over a person and the Dice of each organ in it that is whole, else None."""
    own = organ_labels(person)
    cut_in_map = cut_labels(own, np.zeros_like(own))
    for name, ct, reference in painted_cases(person, numbers):
        dice = score(segment(ct, *stages).label_map_zyx, reference)
        cut = cut_in_map | cut_labels(reference, ct.array_zyx)
        yield name, [None if organ.id in cut else d for organ, d in zip(ORGANS, dice, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("people", type=Path)
    parser.add_argument("--phantom-steps", type=int, default=500)
    parser.add_argument("--coarse-steps", type=int, default=2500)
    parser.add_argument("--fine-steps", type=int, default=6500)
    parser.add_argument("--work", type=Path, default=HERE.parent / "out" / "leave_one_out", help="nets and logs")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    first, coarse, fine = recipes_of(options)
    phantoms = [make_phantom(seed) for seed in range(N_PHANTOMS)]
    beginning = learn(first, {"phantoms": phantoms}, options.work / "phantoms alone")
    people = {path.name.split("_")[0]: load_subject(path) for path in find_subjects(options.people)}
    bodies = bodies_of(people, options.work / "between")
    arms: dict[str, Scores] = {"never seen": {}, "the packaged nets, which know them": {}}
    for k, (name, person) in enumerate(people.items()):
        folder = options.work / name
        sources: Sources = {"label_maps": without(name, bodies), "phantoms": phantoms}
        learn(fine, sources, folder, init=learn(coarse, sources, folder, init=beginning))
        numbers = range(k * CTS_PER_PERSON, (k + 1) * CTS_PER_PERSON)
        for rows, stages in zip(arms.values(), (load_stages(folder), load_stages()), strict=True):
            rows |= {f"{name}, {case}": dice for case, dice in scores_of(stages, person, numbers)}
        store(options.out, result_of(arms, options))


def result_of(arms: dict[str, Scores], options: argparse.Namespace) -> dict:
    """Return what is stored, printed organ by organ as far as it is known."""
    steps = {"phantoms": options.phantom_steps, "coarse": options.coarse_steps, "fine": options.fine_steps}
    result = {
        "machine": machine(),
        "steps": steps,
        "organs": [o.name for o in ORGANS],
    }
    people = sorted({case.split(",")[0] for case in arms["never seen"]})
    for arm, rows in arms.items():
        of_person = {p: means([dice for case, dice in rows.items() if case.startswith(f"{p},")]) for p in people}
        known = {p: [d for d in dice if d is not None] for p, dice in of_person.items()}
        result[arm] = summary(arm, rows) | {
            "mean_of_person": {p: round(float(np.mean(d)), 4) for p, d in known.items()}
        }
    return result


if __name__ == "__main__":
    main()
