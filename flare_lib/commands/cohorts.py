"""Commands that label many CTs into a folder and can be stopped and resumed at any moment: segment, pseudo-label."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flare_lib.commands.outputs import check_new_folder, forget_mplbackend, wrote
from flare_lib.commands.settings import parse_setting
from flare_lib.commands.terminal import Bars, tell_error, tell_note
from flare_lib.commands.workers import Device, Engine, Job, Precision, Scheduler, Slurm, chosen_pool
from flare_lib.machine.counted import counted

if TYPE_CHECKING:
    from flare_lib.inference.methods import Settings
    from flare_lib.machine.manifest import Entry

_JOBS = 4


def pseudo_label(
    cts: Annotated[
        list[Path],
        typer.Argument(metavar="CT", help="NIfTI files, DICOM, folders and lists (.csv), as for flare segment."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the labels.")],
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="Weights of a fine net (.safetensors); repeatable. Default: the packaged ones."),
    ] = None,
    scale: Annotated[
        list[float] | None,
        typer.Option(
            min=0.5, max=2.0, help="How large each net sees the body, 1 as it is; repeatable. Default: 1, 0.92, 1.08."
        ),
    ] = None,
    sure: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Ignore voxels whose label has a lower mean probability.")
    ] = 0.75,
    tile_step: Annotated[
        float, typer.Option(min=0.1, max=1.0, help="How far apart tiles lie, in patches; 1: they touch.")
    ] = 0.5,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "torch",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes side by side; 0: this one. Default: one per core, or one for a GPU."),
    ] = None,
    scheduler: Scheduler = None,
    slurm: Slurm = False,
    job: Job = None,
    time_limit_s: Annotated[float, typer.Option(min=1.0, help="A case that takes longer has failed.")] = 3600.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry the cases that an earlier run put aside.")
    ] = False,
) -> None:
    """Label CTs for flare train --pseudo-labelled; voxels that the nets are unsure of become 255, to be ignored.

    Each net looks at the whole CT at each scale, and the probabilities are averaged. As with flare segment, the folder
    also gets cohort.html and manifest.jsonl, and the same command continues where it was stopped.
    """
    from flare_lib.ct.files import LABEL_SUFFIXES
    from flare_lib.inference.methods import Ensemble, Settings
    from flare_lib.inference.pseudo_labels import SCALES
    from flare_lib.network.weights import packaged_weights

    if output.name.lower().endswith(LABEL_SUFFIXES) and not output.is_dir():
        raise ValueError(f"--output must be a folder for the labels, got {output}")
    nets = tuple(path.absolute() for path in weights or [packaged_weights("fine")])
    ensemble = Ensemble(nets, tuple(scale or SCALES), sure)
    segment_many(
        cts,
        output,
        settings=Settings(device=device, precision=precision, engine=engine, tile_step=tile_step, ensemble=ensemble),
        workers=workers,
        scheduler=scheduler,
        slurm=slurm,
        job=job,
        dry_run=False,
        time_limit_s=time_limit_s,
        retry_failed=retry_failed,
    )


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
    forget_mplbackend()

    from flare_lib.data.listing import list_cts
    from flare_lib.display.cohort_page import check_places, save_thumbnail
    from flare_lib.inference.cohort_run import read_entries, segment_cohort, without_labels
    from flare_lib.machine.manifest import MANIFEST
    from flare_lib.machine.processes import n_cores

    # the workers of a cluster are somewhere else
    folder = folder.absolute()
    check_places(folder)
    before = read_entries(folder)
    cases = without_labels(list_cts([path.absolute() for path in cts], on_note=tell_note), folder, before)
    here = {name: path.absolute() for name in ("weights_dir", "nnunet") if (path := getattr(settings, name))}
    settings = replace(settings, **here)
    suiting = _suiting_workers(settings) if scheduler is None and not slurm else _JOBS
    workers = suiting if workers is None else workers
    threads = max(1, n_cores() // max(1, workers))
    try:
        with chosen_pool(workers, scheduler, jobs=jobs, threads=threads) as pool, Bars() as bars:
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
        written = read_entries(folder)
        page = _write_page(folder, written) if written else None
    failed = [entry for entry in entries if entry["state"] == "failed"]
    for entry in failed:
        tell_error(entry["error"], about=entry["ct"])
    n_before = sum(entry == before.get(entry["name"]) for entry in entries)
    typer.echo(
        f"{counted(len(entries), 'CT')}, {len(entries) - len(failed)} segmented, {len(failed)} put aside, "
        f"{n_before} of them in earlier runs; {wrote(folder / MANIFEST, page)}"
    )
    raise typer.Exit(2 if failed or (written and page is None) else 0)


def _suiting_workers(settings: "Settings") -> int:
    """Return how many processes suit this computer; raises here, once, what it lacks for the settings, not per case."""
    from flare_lib.machine.device import choose_device
    from flare_lib.machine.precision import choose_precision
    from flare_lib.machine.processes import n_cores
    from flare_lib.network.engines import check_engine

    device = choose_device(settings.device)
    choose_precision(settings.precision, device=device)
    check_engine(settings.engine, device)
    return n_cores() if device.type == "cpu" else 1  # a GPU has room for one


def _write_page(folder: Path, written: Mapping[str, "Entry"]) -> Path | None:
    """Write the page of a folder's entries and return its path; None, and an error on the screen, if it fails."""
    from flare_lib.display.cohort_page import PAGE, write_cohort_page
    from flare_lib.machine.failures import reason_of

    try:
        write_cohort_page(folder / PAGE, list(written.values()), title=folder.name)
    except OSError as error:  # a full disk, for example: the cases' own failures are still to be told
        tell_error(reason_of(error))
        return None
    return folder / PAGE


def _print_job(jobs: dict[str, object]) -> None:
    from flare_lib.machine.cluster import slurm_cluster

    with slurm_cluster(0, jobs) as cluster:
        script = cluster.job_script()
    typer.echo(script)
    raise typer.Exit
