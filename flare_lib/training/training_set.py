"""What a run learns from, and what is held out: persons to paint, real CTs with labels, and CTs without any."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from flare_lib.ct.moments import Moments
from flare_lib.data.cohort import Case, find_cases, split_cases
from flare_lib.data.prepared import PreparedCase, moments_of, prepare_cases
from flare_lib.machine.counted import some_of
from flare_lib.machine.processes import Pool
from flare_lib.machine.progress import StageProgress, of_stage
from flare_lib.synthetic.morphing import people_between
from flare_lib.synthetic.phantom import make_phantom
from flare_lib.synthetic.structures import Structures
from flare_lib.synthetic.subjects import embody, find_subjects, load_subject
from flare_lib.training.patches import Patches, paint_patch
from flare_lib.training.recipes import Recipe
from flare_lib.training.validation import N_PATCHES

BODIES_PER_PERSON = 4
N_VALIDATION_PHANTOMS = 4

Source = Structures | PreparedCase


@dataclass
class TrainingSet:
    """What a run draws from: {kind: sources} to learn from, {kind: sources} held out and their names, unlabelled cases.

    Phantoms have no names.
    """

    sources: dict[str, Sequence[Source]] = field(default_factory=dict)
    held_out: dict[str, Sequence[Source]] = field(default_factory=dict)
    held_out_names: list[str] = field(default_factory=list)
    unlabelled: list[PreparedCase] = field(default_factory=list)
    n_pseudo_labelled: int = 0  # of the sources called cases

    def card(self) -> dict[str, object]:
        """Return the number of sources of each kind, and the names of the cases or persons held out."""
        counts = {kind: len(them) for kind, them in self.sources.items()}
        beside = {"pseudo_labelled": self.n_pseudo_labelled} if self.n_pseudo_labelled else {}
        return {"sources": counts, **beside, "unlabelled": len(self.unlabelled), "held_out": self.held_out_names}


def gather(
    recipe: Recipe,
    *,
    label_maps: str | Path | None = None,
    cohort: str | Path | None = None,
    unlabelled: str | Path | None = None,
    pseudo_labelled: str | Path | None = None,
    cache: str | Path | None = None,
    pool: AbstractContextManager[Pool | None] | None = None,
    progress: StageProgress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> TrainingSet:
    """Gather what a recipe draws from; only the kinds with a share above 0 are made.

    `label_maps`: a folder of persons to paint (see `synthetic.subjects`). `cohort`: a folder of labelled CTs (see
    `data.cohort`); any cases without labels are used as unlabelled ones. `unlabelled`: a folder of more CTs.
    `pseudo_labelled`: a folder of CTs with labels that nets have made, in the layout of a cohort: they are learnt from
    and never held out; those without labels, or with labels in which there is no organ, are passed over. If the recipe
    gives them no share of their own, they are cases like the others. Cases are prepared once, in `cache`, by a `pool`
    if there is one, which is opened for them and closed when they are there. What `recipe.n_between` people need is
    kept in `cache`, too. A CT that is held out is not learnt from under another name or from another folder either: it
    is known by its grey values. `on_note` is called with a note of such CTs, of cases that were damaged in `cache`, or
    if no two persons have enough in common for people between them. Phantoms need no folder.

    Before any work starts, raises ValueError for a folder that the recipe needs but was not given, for pseudo-labels
    that are missing, for these or unlabelled CTs that the recipe does not draw from, and for too few to hold some out,
    and FileNotFoundError for a folder without cases; after that, the errors of `prepare_cases`, and ValueError if every
    CT of a folder is held out.
    """
    share = recipe.sources.get
    found = _find(recipe, label_maps, cohort, unlabelled, pseudo_labelled, on_note)
    gathered = TrainingSet()
    if found.training or found.by_a_net or found.unlabelled:
        if cache is None:
            raise ValueError("cases must have a folder to be prepared in, got no cache")
        prepare = partial(
            prepare_cases,
            preprocessing=recipe.preprocessing,
            margin_mm=recipe.margin_mm,
            progress=of_stage(progress, "preparing"),
            on_note=on_note,
        )
        # opened only if there is something to prepare, and not kept open through hours of training
        with nullcontext() if pool is None else pool as opened:
            _add_cases(gathered, found, recipe, Path(cache), partial(prepare, pool=opened), on_note)
    if found.people:
        kept = None if cache is None else Path(cache) / "between"
        people = [load_subject(path) for path in found.people]
        between = people_between(
            people, recipe.n_between, seed=recipe.seed, cache=kept, progress=of_stage(progress, "morphing")
        )
        if len(between) < recipe.n_between and on_note:
            on_note(f"no two label maps have enough in common for the {recipe.n_between} people between people")
        of_between = [body for k, person in enumerate(between) for body in embody(person, 1, seed=1000 + k)]
        gathered.sources["label_maps"] = _bodies(people) + of_between
    if found.strangers:
        gathered.held_out["label_maps"] = _bodies([load_subject(path) for path in found.strangers])
        gathered.held_out_names = [path.name for path in found.strangers]
    if share("phantoms"):
        gathered.sources["phantoms"] = [make_phantom(recipe.seed * 1000 + k) for k in range(recipe.n_phantoms)]
    if recipe.validate_every and not (share("cases") or found.strangers):
        first = recipe.seed * 1000 + 900
        gathered.held_out["phantoms"] = [make_phantom(first + k) for k in range(N_VALIDATION_PHANTOMS)]
    return gathered


class _Found(NamedTuple):
    """What lies in a recipe's folders, before any of it is read."""

    training: list[Case]
    validation: list[Case]
    by_a_net: list[Case]
    unlabelled: list[Case]
    people: list[Path]
    strangers: list[Path]  # people who are held out


def _find(
    recipe: Recipe,
    label_maps: str | Path | None,
    cohort: str | Path | None,
    unlabelled: str | Path | None,
    pseudo_labelled: str | Path | None,
    on_note: Callable[[str], None] | None,
) -> _Found:
    """Return what the folders hold, the cases and people held out drawn with the seed; errors: see `gather`."""
    share = recipe.sources.get
    everyone = find_subjects(_given(label_maps, "label_maps", recipe)) if share("label_maps") else []
    people, strangers = _split_persons(everyone, 0 if share("cases") else recipe.n_validation, recipe.seed)
    cases = find_cases(_given(cohort, "cohort", recipe), on_note=on_note) if share("cases") else []
    training, validation = split_cases(cases, recipe.n_validation, seed=recipe.seed) if share("cases") else ([], [])
    if unlabelled is not None and not recipe.n_unlabelled:
        raise ValueError(
            "unlabelled CTs need a recipe that draws from them (n_unlabelled, 1 or more), got 0; "
            "flare pseudo-label makes labels to learn from"
        )
    without = _unlabelled_cases(cases, unlabelled, recipe, on_note) if recipe.n_unlabelled else []
    if share("pseudo_labelled"):
        _given(pseudo_labelled, "pseudo_labelled", recipe)
    by_a_net = _pseudo_labelled_cases(pseudo_labelled, recipe) if pseudo_labelled is not None else []
    return _Found(training, validation, by_a_net, without, people, strangers)


def _add_cases(
    gathered: TrainingSet,
    found: _Found,
    recipe: Recipe,
    cache: Path,
    prepare: Callable[..., list[PreparedCase]],
    on_note: Callable[[str], None] | None,
) -> None:
    """Add the cases that were found, once prepared in `cache`; none that is held out is among the others."""
    around = "organs" if recipe.stage == "fine" else "foreground"
    if found.training:
        there = prepare([*found.training, *found.validation], cache, around=around)
        n = len(found.training)
        gathered.held_out["cases"] = there[n:]
        gathered.held_out_names = [case.name for case in found.validation]
        gathered.sources["cases"] = _never_held_out(there[:n], gathered, "cohort", on_note)
    if found.by_a_net:
        more = prepare(found.by_a_net, cache / "pseudo_labelled", around=around, pass_over_empty=True)
        more = _never_held_out(more, gathered, "pseudo-labelled", on_note)
        if recipe.sources.get("pseudo_labelled"):
            gathered.sources["pseudo_labelled"] = more
        else:
            gathered.sources["cases"] = [*gathered.sources["cases"], *more]
            gathered.n_pseudo_labelled = len(more)
    if found.unlabelled:  # apart from the others, which may have the same names
        without = prepare(found.unlabelled, cache / "unlabelled", around="foreground")
        gathered.unlabelled = _never_held_out(without, gathered, "unlabelled", on_note)


def _given(folder: str | Path | None, name: str, recipe: Recipe) -> str | Path:
    if folder is None:
        raise ValueError(f"a recipe that draws from {', '.join(recipe.sources)} needs the folder {name}, got none")
    return folder


def _split_persons(persons: Sequence[Path], n_held_out: int, seed: int) -> tuple[list[Path], list[Path]]:
    """Split persons into those to learn from and those held out, drawn with `seed`; ValueError if none is left."""
    if persons and n_held_out >= len(persons):
        raise ValueError(
            f"n_validation must leave at least one of {len(persons)} people to learn from, got {n_held_out}"
        )
    held_out = set(np.random.default_rng(seed).permutation(len(persons))[:n_held_out].tolist())
    return [path for k, path in enumerate(persons) if k not in held_out], [persons[k] for k in sorted(held_out)]


def _bodies(persons: Sequence[Structures]) -> list[Structures]:
    return [body for k, person in enumerate(persons) for body in embody(person, BODIES_PER_PERSON, seed=k)]


def _unlabelled_cases(
    cases: Sequence[Case], unlabelled: str | Path | None, recipe: Recipe, on_note: Callable[[str], None] | None
) -> list[Case]:
    """Return the cases without labels and those of another folder, where any labels beside the CTs are ignored."""
    without = [case for case in cases if case.label_path is None]
    if unlabelled is not None:
        without += [replace(case, label_path=None) for case in find_cases(unlabelled, on_note=on_note)]
    if not without:
        raise ValueError(f"the recipe needs unlabelled CTs ({recipe.n_unlabelled} patches a step), got none")
    return without


def _pseudo_labelled_cases(folder: str | Path, recipe: Recipe) -> list[Case]:
    """Return the cases of a folder that have labels; ValueError if there is none, or if the recipe draws from none."""
    if not (recipe.sources.get("cases") or recipe.sources.get("pseudo_labelled")):
        drawn_from = ", ".join(recipe.sources)
        raise ValueError(
            f"pseudo-labelled CTs need a recipe that draws from them, as the preset real does, or from cases, "
            f"got one that draws from {drawn_from}"
        )
    cases = [case for case in find_cases(folder) if case.label_path is not None]
    if not cases:
        raise ValueError(f"{folder} must hold CTs with labels, in images/ and labels/ for example, got CTs only")
    return cases


def _never_held_out(
    cases: list[PreparedCase], gathered: TrainingSet, what: str, on_note: Callable[[str], None] | None
) -> list[PreparedCase]:
    """Return the cases but those whose CT is held out under this or another name; ValueError if none is left."""
    held_out = {case.content for case in gathered.held_out.get("cases", ()) if isinstance(case, PreparedCase)}
    kept = [case for case in cases if case.content not in held_out]
    same = [case.name for case in cases if case.content in held_out]
    if same and not kept:
        raise ValueError(f"the {what} CTs must not all be held out for validation as well, got {some_of(same)}")
    if same and on_note:
        on_note(
            f"held out for validation, so not learnt from: {some_of(same)} ({len(same)} of {len(cases)} {what} CTs)"
        )
    return kept


def moments_of_sources(sources: dict[str, Sequence[Source]], recipe: Recipe, *, n_patches: int = 64) -> Moments:
    """Return mean and SD in HU of the training set, clipped to the window, for the fine stage's global normalisation.

    Taken over all voxels of the real cases if there are any (paper 2.1), else over `n_patches` painted patches, else,
    where nobody is painted, over the cases that nets have labelled.
    """
    everyone = [person for kind in sources.values() for person in kind if isinstance(person, Structures)]
    real = sources.get("cases") or (() if everyone else sources.get("pseudo_labelled", ()))
    if cases := [case for case in real if isinstance(case, PreparedCase)]:
        return moments_of(cases)
    in_hu = replace(recipe, mean_hu=0.0, sd_hu=1.0, cut=0.0)
    painted = (
        paint_patch(everyone[k % len(everyone)], in_hu, np.random.default_rng([recipe.seed, 0xC7, k]))[0]
        for k in range(n_patches)
    )
    return sum(map(Moments.of, painted), Moments())


def with_moments_of(sources: dict[str, Sequence[Source]], recipe: Recipe) -> Recipe:
    """Return the recipe with the mean and SD of its sources, as `moments_of_sources` takes them, to 0.01 HU."""
    own = moments_of_sources(sources, recipe)
    return replace(recipe, mean_hu=round(own.mean, 2), sd_hu=round(own.sd, 2))


def validation_batches(held_out: dict[str, Sequence[Source]], recipe: Recipe) -> list[dict[str, torch.Tensor]]:
    """Return the patches to validate a run on, one per batch, always the same for a recipe; none without cases."""
    there = {kind: 1.0 for kind, them in held_out.items() if them}
    if not there or not recipe.validate_every:
        return []
    plain = replace(
        recipe, sources=there, batch_size=1, n_unlabelled=0, augmentation=0.0, foreground_share=1.0, cut=0.0
    )
    patches = Patches(held_out, replace(plain, seed=recipe.seed + 7919))
    return [patches.batch(k) for k in range(N_PATCHES)]
