"""Commands that turn CTs into labels (segment) and labels into numbers (measure)."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from flare_lib.commands.outputs import check_outputs, check_table, wrote
from flare_lib.commands.terminal import Bars, tell_error

if TYPE_CHECKING:
    import numpy as np

    from flare_lib.ct.volume import Volume
    from flare_lib.inference.coarse_to_fine import Segmentation

_ENDING = r"(_0000)?(\.nii|\.zip|\.dcm)?(\.gz)?$"  # of a CT's name: channel number and format, upper or lower case
_Series = Annotated[str | None, typer.Option(help="The UID of the DICOM series to take; flare info lists them.")]


def segment(
    cts: Annotated[
        list[Path], typer.Argument(metavar="CT...", help="NIfTI files, or folders or .zip files with DICOM.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Label file (.nii.gz, or .dcm), or an existing folder.")
    ],
    reference: Annotated[Path | None, typer.Option(help="Labels to compare against, on the CT's grid.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Where to save a picture of the CT with labels.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    margin_mm: Annotated[float, typer.Option(min=0.0, help="How far beyond the organs the fine stage looks.")] = 20.0,
    weights_dir: Annotated[Path | None, typer.Option(help="Folder with your own coarse and fine weights.")] = None,
    series: _Series = None,
    nnunet: Annotated[
        Path | None, typer.Option(help="Results folder of nnU-Net v2 (plans.json, fold_0...): use its nets and labels.")
    ] = None,
    fold: Annotated[
        list[str] | None, typer.Option(help="With --nnunet: 0, 1..., all; repeatable. Default: each.")
    ] = None,
    roi: Annotated[
        bool, typer.Option("--roi", help="With --nnunet: look only where the coarse net finds the 13 organs.")
    ] = False,
) -> None:
    """Segment 13 organs, coarse to fine, and save the labels on each CT's own grid."""
    if nnunet is None and (fold or roi):
        raise ValueError(f"{'--fold' if fold else '--roi'} needs --nnunet, got none")
    if nnunet is not None and weights_dir is not None and not roi:
        raise ValueError("--weights-dir with --nnunet is for the coarse net and needs --roi, got none")
    targets = _targets(cts, output)
    check_outputs(targets, [*cts, *([reference] if reference else [])], figure, seg=True)
    if len(cts) > 1 and (reference or figure):
        raise ValueError(f"--reference and --figure need exactly one CT, got {len(cts)}")
    if missing := [path for path in (*cts, reference) if path and not path.exists()]:
        raise FileNotFoundError(f"every input must exist, got {missing[0]}")

    from flare_lib.ct.files import is_seg
    from flare_lib.ct.labels import are_flares
    from flare_lib.machine.device import choose_device
    from flare_lib.machine.failures import Failure
    from flare_lib.machine.processes import map_in_processes

    seg = any(map(is_seg, targets))
    settings: dict[str, Any] = {"device": choose_device(device), "precision": precision}
    method = (
        _coarse_to_fine(weights_dir, margin_mm, **settings)
        if nnunet is None
        else _nnunet(nnunet, fold or [], weights_dir, margin_mm if roi else None, **settings)
    )
    if not are_flares(method.names) and (only := "--figure shows" if figure else "a DICOM-SEG holds" if seg else ""):
        raise ValueError(f"{only} FLARE's 13 organs, got a net with other labels: {', '.join(method.names.values())}")

    def segment_one(path_and_target: tuple[Path, Path]) -> None:
        _segment_one(*path_and_target, series=series, method=method, reference=reference, figure=figure)

    failed = 0
    outcomes = map_in_processes(segment_one, list(zip(cts, targets, strict=True)), 1)
    for path, outcome in zip(cts, outcomes, strict=True):
        if isinstance(outcome, Failure):
            failed = tell_error(outcome.reason, about=path)
    raise typer.Exit(failed)


class _Method(NamedTuple):
    """A way to segment a CT, the names of its labels, and the stage whose number format is told."""

    segment: "Callable[..., Segmentation]"
    names: Mapping[int, str]
    stage: str


def _coarse_to_fine(weights_dir: Path | None, margin_mm: float, **settings: Any) -> _Method:
    """Return FLARE's 13 organs by the packaged nets, or others like them."""
    from flare_lib.ct.labels import ORGAN_NAMES
    from flare_lib.inference.coarse_to_fine import segment as segment_ct
    from flare_lib.inference.stages import load_stages

    coarse, fine = load_stages(weights_dir, **settings)
    return _Method(partial(segment_ct, coarse=coarse, fine=fine, margin_mm=margin_mm), ORGAN_NAMES, "fine")


def _nnunet(
    folder: Path, folds: Sequence[str], weights_dir: Path | None, margin_mm: float | None, **settings: Any
) -> _Method:
    """Return the labels of an nnU-Net; in the whole CT, or within a margin around the organs if one is given."""
    from flare_lib.inference.nnunet_stage import NAME, NnunetStage, segment_with_nnunet
    from flare_lib.inference.stages import load_stages
    from flare_lib.network.nnunet_folder import load_nnunet_folder

    stage = NnunetStage(load_nnunet_folder(folder, folds), **settings)
    only_here: dict[str, Any] = {}
    if margin_mm is not None:
        only_here = {"coarse": load_stages(weights_dir, **settings)[0], "margin_mm": margin_mm}
        if not stage.plans.has_flares_organs:
            typer.echo("note: --roi looks near the 13 organs alone; anything else far from them is missed", err=True)
    return _Method(partial(segment_with_nnunet, stage=stage, **only_here), stage.plans.names, NAME)


def _segment_one(
    path: Path, target: Path, *, series: str | None, method: _Method, reference: Path | None, figure: Path | None
) -> None:
    """Segment one CT, save its labels (and a figure, if wanted), and report what was found."""
    from flare_lib.ct.files import check_labels_fit, load_ct, save_label_map
    from flare_lib.evaluation.efficiency import note_steps
    from flare_lib.evaluation.measurements import volume_table

    ct = load_ct(path, series=series)
    check_labels_fit(target, ct)
    truth = None if reference is None else _load_on_grid_of(ct, reference, n_classes=len(method.names) + 1)
    with Bars() as bars:
        result = method.segment(ct, progress=bars)
    note_steps(result.seconds)
    save_label_map(target, result.label_map_zyx, ct)
    if figure is not None:
        from flare_lib.display.figures import overlay_figure, save_figure

        save_figure(overlay_figure(ct, result.label_map_zyx), figure)
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(volume_table(ct, result.label_map_zyx, truth, names=method.names))
    for stage, report in result.clean_up.items():
        typer.echo(f"removed after the {stage} stage: {report.summary()}")
    seconds = sum(result.seconds.values())
    typer.echo(f"{path}: {seconds:.1f} s, nets in {result.precision[method.stage]}; {wrote(target, figure)}")


def measure(
    ct: Annotated[Path, typer.Argument(help="A .nii or .nii.gz file, or a folder or .zip that holds DICOM.")],
    labels: Annotated[Path, typer.Argument(help="Its label map, 0 to 13, on the same grid.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also save a table, .csv.")] = None,
    series: _Series = None,
) -> None:
    """Measure each organ's volume, extent and density, and point out doubtful values. Not for clinical use."""
    if output is not None:
        check_table(output)

    from flare_lib.ct.files import load_ct
    from flare_lib.evaluation.measurements import measure_organs, measurement_table, write_measurements

    scan = load_ct(ct, series=series)
    measured = measure_organs(scan, _load_on_grid_of(scan, labels))
    typer.echo(measurement_table(measured))
    if output is not None:
        write_measurements(output, measured)
    typer.echo(f"{len(measured)} organs measured{f'; {wrote(output)}' if output else ''}")


def _targets(cts: Sequence[Path], output: Path) -> list[Path]:
    """Return where each CT's labels go: `output` itself or, if that is a folder, CASE.nii.gz inside it."""
    if not output.is_dir():
        if len(cts) > 1:
            raise ValueError(f"for {len(cts)} CTs, --output must be an existing folder, got {output}")
        return [output]
    return [output / f"{re.sub(_ENDING, '', ct.name, flags=re.IGNORECASE)}.nii.gz" for ct in cts]


def _load_on_grid_of(ct: "Volume", path: Path, **label_set: Any) -> "np.ndarray":
    """Load reference labels (ZYX, 0 to 13 or `n_classes` - 1); ValueError for other labels or another grid."""
    from flare_lib.ct.files import load_label_map
    from flare_lib.ct.labels import as_label_map
    from flare_lib.ct.volume import grid_difference

    labels = load_label_map(path)
    if differs := grid_difference(labels, ct):
        raise ValueError(f"{path} must lie on the CT's grid, got {differs}")
    return as_label_map(labels.array_zyx, str(path), **label_set)
