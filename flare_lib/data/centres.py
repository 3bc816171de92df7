"""A synthetic cohort like FLARE 2022's: a few labelled cases, all alike, and many unlabelled ones of all kinds.

FLARE 2022 has 50 labelled CTs, most of one kind (portal phase, abdomen only), 2,000 unlabelled ones from other
hospitals, and test cases from all of them. Here every hospital, a `Centre`, has its own contrast phases, noise, slice
thickness, lesions and field of view; only the first has labels to learn from.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flare_lib.ct.files import save_ct, save_label_map
from flare_lib.ct.volume import Triple, Volume
from flare_lib.data.cohort import Case, find_cases
from flare_lib.synthetic.phantom import phantom_case


@dataclass(frozen=True)
class Centre:
    """How a hospital scans, and whom: `phases` are none, arterial, portal, late; the rest as in `phantom_case`."""

    name: str
    phases: tuple[float, float, float, float]
    noise_hu: tuple[float, float]
    lesion_probability: float
    spacing_zyx_mm: Triple
    field_of_view: str = "abdomen"

    def case(self, seed: int) -> tuple[Volume, Volume]:
        """Return the CT and labels of one of its patients."""
        return phantom_case(
            seed,
            spacing_zyx_mm=self.spacing_zyx_mm,
            field_of_view=self.field_of_view,
            noise_hu=self.noise_hu,
            phases=self.phases,
            lesion_probability=self.lesion_probability,
        )


CENTRES = (
    Centre("portal", (0, 0, 1, 0), (4, 10), 0.1, (3.0, 2.5, 2.5)),
    Centre("arterial", (0, 1, 0, 0), (10, 25), 0.4, (5.0, 3.0, 3.0)),
    Centre("late-lesions", (0, 0, 0.2, 0.8), (6, 16), 0.9, (2.5, 3.0, 3.0)),
    Centre("unenhanced-half-body", (1, 0, 0, 0), (8, 20), 0.4, (5.0, 3.0, 3.0), "half_body"),
    Centre("whole-body", (0.6, 0, 0.4, 0), (12, 25), 0.4, (5.0, 3.5, 3.5), "whole_body"),
)


@dataclass(frozen=True)
class CentreCohort:
    """Training cases, labelled ones first, and test cases, which have labels; case names start with the centre's."""

    training: list[Case]
    test: list[Case]


def write_centres(folder: str | Path, n_labelled: int, n_unlabelled: int, n_test: int) -> CentreCohort:
    """Write the cohort to `folder`/training and `folder`/test, images/ + labels/, and return it.

    The labelled cases come from the first centre, the unlabelled and the test cases from all in turn, and no two from
    the same patient. Existing files are kept. Raises ValueError for numbers that are not positive (`n_unlabelled` may
    be 0) or if a file cannot be written.
    """
    if n_labelled < 1 or n_unlabelled < 0 or n_test < 1:
        raise ValueError(
            "a cohort must have at least one labelled and one test case, got "
            f"{n_labelled} labelled, {n_unlabelled} unlabelled, {n_test} for the test"
        )
    parts = (("training", n_labelled, n_unlabelled, 20_000), ("test", n_test, 0, 30_000))
    for part, n_with_labels, n_without, first in parts:
        for k in range(n_with_labels + n_without):
            alike = part == "training" and k < n_with_labels
            centre = CENTRES[0] if alike else CENTRES[k % len(CENTRES)]
            labelled, name = k < n_with_labels, f"{centre.name}_{first + k}"
            image, label_map = _paths(Path(folder) / part, name)
            if not (image.is_file() and (label_map.is_file() or not labelled)):
                ct, labels = centre.case(first + k)
                _write(Path(folder) / part, name, ct, labels if labelled else None)
    cohort = CentreCohort(*(find_cases(Path(folder) / part) for part, *_ in parts))
    cohort.training.sort(key=lambda case: (case.label_path is None, case.name))
    return cohort


def write_phantoms(
    folder: str | Path, n_labelled: int, n_unlabelled: int = 0, *, seed: int = 0, **settings: Any
) -> list[Case]:
    """Write synthetic cases as images/ + labels/ and return them: a cohort that needs no data.

    The phantoms are `seed`, `seed` + 1, ...; unlabelled ones come last. `settings` as in `phantom_case` (spacing, field
    of view). Raises ValueError if a file cannot be written.
    """
    for k in range(n_labelled + n_unlabelled):
        ct, labels = phantom_case(seed + k, **settings)
        _write(Path(folder), f"phantom_{seed + k:04}", ct, labels if k < n_labelled else None)
    return find_cases(folder)


def _write(folder: Path, name: str, ct: Volume, labels: Volume | None) -> None:
    """Write a case in FLARE's layout, label map first, so that every CT that exists has its labels."""
    image, label_map = _paths(folder, name)
    for path in (image, label_map):
        path.parent.mkdir(parents=True, exist_ok=True)
    if labels is not None:
        save_label_map(label_map, labels.array_zyx, ct)
    save_ct(image, ct)


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / "images" / f"{name}_0000.nii.gz", folder / "labels" / f"{name}.nii.gz"
