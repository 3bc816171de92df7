"""Commands that turn CTs into labels (segment) and labels into numbers (measure)."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flare_lib.commands.cohorts import segment_many
from flare_lib.commands.outputs import check_apart, check_labels, check_report_file, check_table, drawing, wrote
from flare_lib.commands.terminal import Bars, tell_error, tell_note
from flare_lib.commands.workers import Device, Engine, Job, Precision, Scheduler, Slurm, Workers, chosen_pool
from flare_lib.machine.counted import counted

if TYPE_CHECKING:
    from flare_lib.inference.methods import Method

_Series = Annotated[str | None, typer.Option(help="The UID of the DICOM series to take; flare info lists them.")]


def segment(
    cts: Annotated[
        list[Path],
        typer.Argument(
            metavar="CT",
            help="NIfTI files, folders or .zip files of DICOM; or folders and lists (.csv, .tsv) of many CTs.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Label file (.nii.gz, or .dcm), or a folder for any number of CTs.")
    ],
    reference: Annotated[Path | None, typer.Option(help="Labels to compare against, on the CT's grid.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Where to save a picture of the CT with labels.")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    margin_mm: Annotated[float, typer.Option(min=0.0, help="How far beyond the organs the fine stage looks.")] = 20.0,
    weights_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with your own coarse and fine weights, and thin ones for scans of a few cm."),
    ] = None,
    series: _Series = None,
    nnunet: Annotated[
        Path | None,
        typer.Option(help="Results folder of nnU-Net, v2 or v1 (plans, fold_0...): use its nets and labels."),
    ] = None,
    fold: Annotated[
        list[str] | None, typer.Option(help="With --nnunet: 0, 1..., all; repeatable. Default: each.")
    ] = None,
    roi: Annotated[
        bool, typer.Option("--roi", help="With --nnunet: look only where the coarse net finds the 13 organs.")
    ] = False,
    tile_step: Annotated[
        float, typer.Option(min=0.1, max=1.0, help="How far apart the last net's tiles lie, in patches; 1: they touch.")
    ] = 0.5,
    fit_tiles: Annotated[
        bool, typer.Option("--fit-tiles", help="Fewer, larger tiles where they fit the CT: faster, less accurate.")
    ] = False,
    scale: Annotated[
        float, typer.Option(min=0.5, max=3.0, help="Show the body this much larger to the nets: 1.5 for a small child.")
    ] = 1.0,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Show the packaged fine net the CT at one size, not two: faster, less accurate."),
    ] = False,
    engine: Engine = "torch",
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="For a folder: processes side by side; 0: this one. Default: one per core, or one for a GPU."
        ),
    ] = None,
    scheduler: Scheduler = None,
    slurm: Slurm = False,
    job: Job = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the batch job that --slurm would submit.")] = False,
    time_limit_s: Annotated[
        float, typer.Option(min=1.0, help="For a folder: a case that takes longer has failed.")
    ] = 3600.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="For a folder: retry the cases that an earlier run put aside.")
    ] = False,
) -> None:
    """Segment 13 organs, coarse to fine, and save the labels on each CT's own grid.

    With a folder as the output, any number of CTs is segmented, given as files, folders or lists (.csv, .tsv). The
    folder also gets an overview, cohort.html, and manifest.jsonl, from which the same command continues if it was
    stopped.
    """
    if nnunet is None and (fold or roi):
        raise ValueError(f"{'--fold' if fold else '--roi'} needs --nnunet, got none")
    if nnunet is not None and scale != 1:
        raise ValueError("--scale is for the packaged nets or your own in --weights-dir, not for --nnunet")
    if nnunet is not None and fast:
        raise ValueError("--fast is for the packaged nets or your own in --weights-dir, not for --nnunet")
    if nnunet is not None and weights_dir is not None and not roi:
        raise ValueError("--weights-dir with --nnunet is for the coarse net and needs --roi, got none")
    to_file = bool(re.fullmatch(r"\.[a-z]\w*", output.suffix.lower())) and not output.is_dir()
    if not to_file and (reference or figure or series):
        raise ValueError(
            f"--reference, --figure and --series need a single CT and a label file, got the folder {output}"
        )
    if to_file and len(cts) > 1:
        raise ValueError(f"for {len(cts)} CTs, --output must be a folder, got {output}")
    if to_file and (workers is not None or scheduler or slurm or dry_run):
        raise ValueError(f"--workers, --scheduler, --slurm and --dry-run need a folder as --output, got {output}")
    if to_file:
        check_labels(output, [*cts, *([reference] if reference else [])], figure)
        if missing := [path for path in (*cts, reference) if path and not path.exists()]:
            raise FileNotFoundError(f"every input must exist, got {missing[0]}")

    from flare_lib.ct.roi import check_margin
    from flare_lib.inference.methods import FITTED, Settings, compiling, open_method

    check_margin(margin_mm)
    settings = Settings(
        weights_dir=weights_dir,
        nnunet=nnunet,
        folds=tuple(fold or ()),
        roi=roi,
        margin_mm=margin_mm,
        device=device,
        precision=precision,
        engine=engine,
        tile_step=tile_step,
        fit_tiles=FITTED if fit_tiles else 1.0,
        scale=scale,
        fast=fast,
    )
    if to_file:
        with compiling():
            method = open_method(settings)
            _segment_one(cts[0], output, series=series, method=method, reference=reference, figure=figure)
        return
    segment_many(
        cts,
        output,
        settings=settings,
        workers=workers,
        scheduler=scheduler,
        slurm=slurm,
        job=job,
        dry_run=dry_run,
        time_limit_s=time_limit_s,
        retry_failed=retry_failed,
    )


def _segment_one(
    path: Path, target: Path, *, series: str | None, method: "Method", reference: Path | None, figure: Path | None
) -> None:
    """Segment one CT, save its labels (and a figure, if wanted), and report what was found."""
    from flare_lib.ct.files import check_labels_fit, is_seg, load_ct, load_labels_on, save_label_map
    from flare_lib.ct.labels import are_flares, numbering_problems
    from flare_lib.evaluation.efficiency import note_steps
    from flare_lib.evaluation.measurements import volume_table

    only = "--figure shows" if figure else "a DICOM-SEG holds" if is_seg(target) else ""
    if only and not are_flares(method.names):
        raise ValueError(f"{only} FLARE's 13 organs, got a net with other labels: {', '.join(method.names.values())}")
    for note in method.notes:
        tell_note(note)
    ct = load_ct(path, series=series)
    check_labels_fit(target, ct)
    truth = None if reference is None else load_labels_on(ct, reference, n_classes=len(method.names) + 1)
    with Bars() as bars:
        result = method.segment(ct, progress=bars)
    note_steps(result.seconds)
    save_label_map(target, result.label_map_zyx, ct)
    if figure is not None:
        with drawing() as save:
            from flare_lib.display.figures import overlay_figure

            save(overlay_figure(ct, result.label_map_zyx), figure)
    for note in result.notes:
        tell_note(note)
    if truth is not None and are_flares(method.names):
        for problem in numbering_problems(result.label_map_zyx, truth):
            tell_note(problem)
    typer.echo(volume_table(ct, result.label_map_zyx, truth, names=method.names))
    for stage, report in result.clean_up.items():
        typer.echo(f"removed after the {stage} stage: {report.summary()}")
    seconds = sum(result.seconds.values())
    typer.echo(f"{path}: {seconds:.1f} s, nets in {result.precision[method.stage]}; {wrote(target, figure)}")


def measure(
    ct: Annotated[Path, typer.Argument(help="A CT, as for segment; or a folder or list (.csv) of many.")],
    labels: Annotated[Path, typer.Argument(help="Its label map, 0 to 13, on the same grid; or a folder of them.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also save a table, .csv.")] = None,
    sr: Annotated[
        Path | None, typer.Option(help="For a DICOM series, also save a DICOM Structured Report, .dcm.")
    ] = None,
    series: _Series = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Measure each organ's volume, extent and density, and point out doubtful values. Not for clinical use."""
    if output is not None:
        check_table(output)
    if sr is not None:
        check_report_file(sr)
    check_apart([path for path in (output, sr) if path], [ct, labels])
    if labels.is_dir():
        if output is None or series is not None or sr is not None:
            raise ValueError("many CTs are measured into a table, without --series and --sr: -o must name a .csv file")
        _measure_many(ct, labels, output, workers, scheduler)
        return
    if workers or scheduler:
        raise ValueError(f"--workers and --scheduler are for a folder of label maps, got {labels}")

    from flare_lib.ct.files import load_ct, load_labels_on
    from flare_lib.ct.hu import hu_doubts
    from flare_lib.evaluation.measurements import measure_organs, measurement_table, write_measurements

    scan = load_ct(ct, series=series)
    if sr is not None:
        from flare_lib.evaluation.measurement_report import check_report, write_report

        check_report(sr, scan)
    measured = measure_organs(scan, load_labels_on(scan, labels))
    if output is not None:
        write_measurements(output, measured)
    if sr is not None:
        write_report(sr, measured, scan)
    for doubt in (*scan.notes, *hu_doubts(scan.array_zyx)):
        tell_note(doubt)
    typer.echo(measurement_table(measured))  # last: whoever reads it may have gone (| head)
    typer.echo(f"{counted(len(measured), 'organ')} measured{f'; {wrote(output, sr)}' if output or sr else ''}")


def _measure_many(cts: Path, labels: Path, output: Path, workers: int, scheduler: str | None) -> None:
    """Measure every CT that has a label map of its name; exit with 2 if one cannot be measured."""
    from flare_lib.ct.folders import find_images
    from flare_lib.data.listing import list_cts
    from flare_lib.evaluation.cohort_measurements import measure_cases, with_labels, write_cohort_measurements

    cts, labels = cts.absolute(), labels.absolute()  # a cluster's workers are somewhere else
    cases = with_labels(list_cts([cts], labelled=find_images(labels), on_note=tell_note), labels)
    with chosen_pool(workers, scheduler) as pool, Bars() as bars:
        measured = measure_cases(
            cases, pool=pool, progress=lambda done, total: bars("measuring", done, total, unit="case")
        )
    failed = [case for case in measured if case.problem]
    for case in failed:
        tell_error(f"{case.name}: {case.problem}")
    if len(failed) == len(measured):
        raise typer.Exit(2)
    write_cohort_measurements(output, measured)
    typer.echo(f"{len(measured) - len(failed)} of {counted(len(measured), 'case')} measured; {wrote(output)}")
    raise typer.Exit(2 if failed else 0)
