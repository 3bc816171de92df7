"""What `flare segment` does when the labels go into a folder: any number of CTs, stopped and resumed at any moment."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flare_lib.commands.outputs import check_new_folder, wrote
from flare_lib.commands.settings import parse_setting
from flare_lib.commands.terminal import Bars, tell_error
from flare_lib.commands.workers import chosen_pool

if TYPE_CHECKING:
    from flare_lib.inference.methods import Settings

_JOBS = 4


def segment_many(
    cts: Sequence[Path],
    folder: Path,
    *,
    settings: "Settings",
    workers: int | None,
    scheduler: str | None,
    slurm: bool,
    job: Sequence[str] | None,
    dry_run: bool,
    time_limit_s: float,
    retry_failed: bool,
) -> None:
    """Segment a cohort and exit: with 0, or with 2 if a case was put aside."""
    if (dry_run or job) and not slurm:
        raise ValueError("--dry-run and --job are about batch jobs and need --slurm, got no --slurm")
    jobs = dict(map(parse_setting, job or [])) if slurm else None
    if dry_run:
        _print_job(jobs or {})
    check_new_folder(folder)

    from flare_lib.data.listing import list_cts
    from flare_lib.display.cohort_page import save_thumbnail, write_cohort_page
    from flare_lib.inference.cohort_run import MANIFEST, segment_cohort, without_labels
    from flare_lib.machine.device import choose_device
    from flare_lib.machine.failures import reason_of
    from flare_lib.machine.manifest import read_manifest
    from flare_lib.machine.precision import choose_precision
    from flare_lib.machine.processes import n_cores
    from flare_lib.network.engines import check_engine

    # the workers of a cluster are somewhere else
    folder = folder.absolute()
    before = read_manifest(folder / MANIFEST)
    cases = without_labels(list_cts([path.absolute() for path in cts]), folder, before)
    here = {name: path.absolute() for name in ("weights_dir", "nnunet") if (path := getattr(settings, name))}
    settings = replace(settings, **here)
    if scheduler is None and not slurm:
        device = choose_device(settings.device)
        choose_precision(settings.precision, device=device)  # so that what is missing is told once, not per case
        check_engine(settings.engine, device)
        workers = (1 if device.type != "cpu" else n_cores()) if workers is None else workers  # a GPU has room for one
    elif workers is None:
        workers = _JOBS
    threads = max(1, n_cores() // max(1, workers))
    try:
        with (
            chosen_pool(workers, scheduler, jobs=jobs, threads=threads) as pool,
            Bars() as bars,
        ):
            entries = segment_cohort(
                cases,
                folder,
                settings,
                pool=pool,
                time_limit_s=time_limit_s,
                retry_failed=retry_failed,
                also=save_thumbnail,
                progress=lambda done, total: bars("segmenting", done, total, unit="case"),
            )
    finally:  # also for a run that is stopped: the page of what there is so far
        if written := read_manifest(folder / MANIFEST):
            try:
                write_cohort_page(folder / "cohort.html", list(written.values()), title=folder.name)
            except OSError as error:  # a full disk, for example: the cases' own failures are still to be told
                tell_error(reason_of(error))
    failed = [entry for entry in entries if entry["state"] == "failed"]
    for entry in failed:
        tell_error(entry["error"], about=entry["ct"])
    n_before = sum(entry == before.get(entry["name"]) for entry in entries)
    typer.echo(
        f"{len(entries)} CTs, {len(entries) - len(failed)} segmented, {len(failed)} put aside, "
        f"{n_before} of them in earlier runs; {wrote(folder / MANIFEST, folder / 'cohort.html')}"
    )
    raise typer.Exit(2 if failed else 0)


def _print_job(jobs: dict[str, object]) -> None:
    from flare_lib.machine.cluster import slurm_cluster

    with slurm_cluster(0, jobs) as cluster:
        script = cluster.job_script()
    typer.echo(script)
    raise typer.Exit
