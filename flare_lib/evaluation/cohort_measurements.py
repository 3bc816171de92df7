"""The measurements of a cohort: many CTs with their label maps, as one table with a row for every case and organ."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flare_lib.ct.files import load_ct, load_labels_on
from flare_lib.ct.folders import find_images
from flare_lib.data.cohort import Case
from flare_lib.evaluation.measurements import HEADER, Measurement, measure_organs
from flare_lib.machine.atomic_write import atomic_write
from flare_lib.machine.failures import Failure
from flare_lib.machine.processes import Pool
from flare_lib.machine.progress import Progress
from flare_lib.machine.runner import run_in_order


@dataclass(frozen=True)
class CaseMeasurements:
    """A case's measurements, or the reason why it has none."""

    name: str
    measured: tuple[Measurement, ...]
    problem: str = ""


def with_labels(cases: Sequence[Case], folder: str | Path) -> list[Case]:
    """Return the cases with the label maps of a folder, paired by name; None for a case without one, [] for no cases.

    Raises FileNotFoundError if no case has a label map, ValueError for two label maps with the same case name.
    """
    label_maps = find_images(folder)
    paired = [replace(case, label_path=label_maps.get(case.name)) for case in cases]
    if cases and not any(case.label_path for case in paired):
        raise FileNotFoundError(f"{folder} must hold label maps named like the CTs ({cases[0].name}.nii.gz), got none")
    return paired


def measure_case(case: Case) -> list[Measurement]:
    """Return the measurements of one case's organs, as `measure_organs` does.

    Raises ValueError for a missing label map, and the errors of `load_ct` and `load_labels_on`.
    """
    if case.label_path is None:
        raise ValueError("a case must have a label map named like its CT, got none")
    ct = load_ct(case.ct_path)
    return measure_organs(ct, load_labels_on(ct, case.label_path))


def measure_cases(
    cases: Sequence[Case], *, pool: Pool | None = None, progress: Progress | None = None
) -> list[CaseMeasurements]:
    """Measure all cases, in a `pool` or this process, and return them in order; [] for no cases.

    `progress(done, total)` is called after each. A case that cannot be measured, for whatever reason, has a problem
    instead of measurements.
    """
    outcomes = run_in_order(measure_case, cases, pool, progress=progress)
    return [
        CaseMeasurements(case.name, (), outcome.reason)
        if isinstance(outcome, Failure)
        else CaseMeasurements(case.name, tuple(outcome))
        for case, outcome in zip(cases, outcomes, strict=True)
    ]


def write_cohort_measurements(path: str | Path, cases: Sequence[CaseMeasurements]) -> None:
    """Write one row for every case and organ found as CSV, complete or not at all; cases with problems have none."""
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case", *HEADER))
        writer.writerows((case.name, *m.row()) for case in cases for m in case.measured)
