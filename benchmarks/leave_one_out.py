"""What nets that learn from painted people alone know of a person they have never seen: leave one out, organ by organ.

    python benchmarks/leave_one_out.py people                           # days on two cores; resumes if stopped
    python benchmarks/leave_one_out.py people --leave-out s0001 s0004   # only these
    python benchmarks/leave_one_out.py people --steps 2 2 2 --last-steps 2 2   # a quick look

`people`: a folder of label maps to paint, as for `flare train --label-maps`. They are two groups, and much of the
learning is shared: a first coarse net learns from phantoms alone, in whom there is nobody; from it, for each group, a
coarse and then a fine net learn from this group; and from these, for each person of the other group, a coarse and a
fine net learn from all but that person, people between them and phantoms (preset `release`, with smaller patches for
the fine nets). Both segment CTs painted over the person left out: half of all these CTs without contrast agent, a third
18 cm wide round the spine, slices of 1.5, 2.5 and 5 mm. Organs are scored that are whole, cut neither by the CT nor by
the person's label map. Beside it, the packaged nets on the same CTs: they have learnt from these people, so theirs is
the score of people who are known.
Once what is shared is learnt, several processes may leave out different people side by side (`--work` the same).
Results go to `benchmarks/results/leave_one_out.json` after every person.
"""

import argparse
from collections.abc import Collection, Iterator, Sequence
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
from flare_lib.machine.json_file import read_json_object
from flare_lib.network.unet import UNet
from flare_lib.network.weights import load_trained, packaged_weights, save_trained
from flare_lib.synthetic.morphing import people_between
from flare_lib.synthetic.phantom import make_phantom
from flare_lib.synthetic.structures import Structures, organ_labels
from flare_lib.synthetic.subjects import embody, find_subjects, load_subject
from flare_lib.training.loop import train
from flare_lib.training.patches import Patches
from flare_lib.training.recipes import Recipe, preset
from flare_lib.training.training_set import Source, with_moments_of

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "leave_one_out.json"
CTS_PER_PERSON = 5
NEVER_SEEN, KNOWN = "never seen", "the packaged nets, which know them"
BODIES_PER_PERSON, N_PHANTOMS = 2, 24

Sources = dict[str, Sequence[Source]]


def recipes_of(coarse_steps: int, fine_steps: int) -> tuple[Recipe, Recipe]:
    """Return the recipes of a coarse and of a fine net."""
    coarse = preset("release", "coarse", n_steps=coarse_steps)
    return coarse, preset("release", "fine", n_steps=fine_steps, patch_size=(48, 64, 64))


def learn(recipe: Recipe, sources: Sources, folder: Path, *, init: Path | None = None) -> Path:
    """Train one net, or go on where its run stopped; returns the stem of its weights."""
    stem = folder / recipe.stage
    if stem.with_suffix(".json").exists():
        return stem
    if recipe.stage == "fine":
        recipe = with_moments_of(sources, recipe)
    net = recipe.new_net() if init is None else load_trained(init).net
    with tqdm(total=recipe.n_steps, desc=f"{folder.name}, {recipe.stage}") as bar:
        trained = train(net, Patches(sources, recipe), recipe, folder=stem, on_step=lambda *_: bar.update())
    card = {"preprocessing": recipe.preprocessing.to_dict(), "patch_size": list(recipe.patch_size)}
    views = {"scales": list(load_trained(packaged_weights(recipe.stage)).scales)}  # as the packaged net does
    save_trained(stem, cast(UNet, trained).eval(), card | views | {"recipe": recipe.to_dict()})
    return stem


def learn_both(steps: Sequence[int], sources: Sources, folder: Path, beginning: Path) -> None:
    """Train a coarse and a fine net from those in the folder `beginning`; without one, a fine net begins as coarse."""
    coarse, fine = recipes_of(*steps)
    own_coarse = learn(coarse, sources, folder, init=beginning / "coarse")
    earlier = beginning / "fine"
    learn(fine, sources, folder, init=earlier if earlier.with_suffix(".json").exists() else own_coarse)


def bodies_of(people: dict[str, Structures], cache: Path) -> dict[tuple[str, ...], list[Structures]]:
    """Return everybody to paint by the names of those they come from: each person, and one between every two."""
    bodies: dict[tuple[str, ...], list[Structures]] = {}
    for k, (name, person) in enumerate(tqdm(people.items(), desc="people")):
        bodies[(name,)] = embody(person, BODIES_PER_PERSON, seed=k)
    for k, pair in enumerate(tqdm(list(combinations(people, 2)), desc="people between")):
        between = people_between([people[name] for name in pair], 1, seed=k, cache=cache)
        bodies[pair] = [body for person in between for body in embody(person, 1, seed=1000 + k)]
    return bodies


def of_these(names: Collection[str], bodies: dict[tuple[str, ...], list[Structures]]) -> list[Structures]:
    """Return the bodies that come from these people alone."""
    return [body for parents, them in bodies.items() if set(parents) <= set(names) for body in them]


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
    parser.add_argument("--group", nargs="+", help="the names of one of the two groups; default: the first half")
    parser.add_argument("--leave-out", nargs="+", help="the names of those to leave out; default: everybody")
    parser.add_argument("--steps", type=int, nargs=3, default=(500, 2500, 6500), metavar=("PHANTOMS", "COARSE", "FINE"))
    parser.add_argument("--last-steps", type=int, nargs=2, default=(500, 2000), metavar=("COARSE", "FINE"))
    parser.add_argument("--work", type=Path, default=HERE.parent / "out" / "leave_one_out", help="nets and logs")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    people = {path.name.split("_")[0]: load_subject(path) for path in find_subjects(options.people)}
    group = options.group or list(people)[: len(people) // 2]
    if unknown := {*group, *(options.leave_out or ())} - set(people):
        parser.error(f"people must be among {', '.join(people)}, got {', '.join(sorted(unknown))}")
    others = [name for name in people if name not in group]
    phantoms = [make_phantom(seed) for seed in range(N_PHANTOMS)]
    alone = options.work / "phantoms alone"
    first = replace(recipes_of(*options.steps[:2])[0], n_steps=options.steps[0], sources={"phantoms": 1.0})
    learn(first, {"phantoms": phantoms}, alone)
    bodies = bodies_of(people, options.work / "between")
    for name in options.leave_out or people:
        scores = options.work / name / "scores.json"
        if not scores.exists():
            strangers = others if name in group else group
            known, beginning = [other for other in people if other != name], options.work / " ".join(strangers)
            for names, steps, folder, init in (
                (strangers, options.steps[1:], beginning, alone),
                (known, options.last_steps, options.work / name, beginning),
            ):
                learn_both(steps, {"label_maps": of_these(names, bodies), "phantoms": phantoms}, folder, init)
            start = CTS_PER_PERSON * list(people).index(name)
            numbers = range(start, start + CTS_PER_PERSON)
            nets = {NEVER_SEEN: load_stages(options.work / name), KNOWN: load_stages()}
            store(scores, {arm: dict(scores_of(stages, people[name], numbers)) for arm, stages in nets.items()})
        store(options.out, result_of(options))


def result_of(options: argparse.Namespace) -> dict:
    """Return what is stored of everybody who is scored, printed organ by organ."""
    scored = {path.parent.name: read_json_object(path) for path in sorted(options.work.glob("*/scores.json"))}
    result = {"machine": machine(), "steps": [*options.steps, *options.last_steps], "organs": [o.name for o in ORGANS]}
    for arm in (NEVER_SEEN, KNOWN):
        rows: Scores = {f"{p}, {case}": dice for p, arms in scored.items() for case, dice in arms[arm].items()}
        of_person = {p: [d for d in means(list(arms[arm].values())) if d is not None] for p, arms in scored.items()}
        result[arm] = summary(arm, rows) | {
            "mean_of_person": {p: round(float(np.mean(d)), 4) for p, d in of_person.items()}
        }
    return result


if __name__ == "__main__":
    main()
