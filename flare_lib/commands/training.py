"""The command that trains one stage, from recipe to weights: train."""

import time
from pathlib import Path
from typing import Annotated

import typer

from flare_lib.commands.outputs import check_new_folder
from flare_lib.commands.settings import parse_setting
from flare_lib.commands.terminal import Bars, tell_note
from flare_lib.commands.workers import Device, Precision, chosen_pool


def train(
    stage: Annotated[str, typer.Argument(help="coarse or fine.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the weights, their card and the log.")],
    preset: Annotated[
        str,
        typer.Option(
            help="The recipe: paper; release, for painted CTs; real, to go on from it; or course, a minute long."
        ),
    ] = "release",
    label_maps: Annotated[
        Path | None, typer.Option(help="Folder of TotalSegmentator label maps to paint; see data/README.md.")
    ] = None,
    cohort: Annotated[Path | None, typer.Option(help="Folder of labelled CTs; see data/README.md.")] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(help="Folder of unlabelled CTs, for recipes that draw from them (n_unlabelled), such as paper."),
    ] = None,
    pseudo_labelled: Annotated[
        Path | None, typer.Option(help="Folder of CTs (images/) with labels (labels/) that flare pseudo-label made.")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Weights to start from; for fine, the coarse weights.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change the recipe: name=value, e.g. n_steps=500; may be repeated."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Annotated[
        int,
        typer.Option(
            min=0, help="Processes that make patches in the background, and prepare the cases if more than one."
        ),
    ] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Have a Dask cluster prepare the cases: its scheduler's address, tcp://HOST:PORT."),
    ] = None,
) -> None:
    """Train one stage; if it is stopped, the same command resumes from the last checkpoint.

    On several GPUs: torchrun --nproc-per-node 4 -m flare_lib.cli train ...
    """
    check_new_folder(output)

    from flare_lib.machine.device import choose_device
    from flare_lib.machine.distributed import is_first_process
    from flare_lib.machine.precision import choose_precision
    from flare_lib.training import recipes
    from flare_lib.training.stage import train_stage

    recipe = recipes.preset(preset, stage, **dict(map(parse_setting, settings or [])))
    chosen = choose_device(device)
    number_format = choose_precision(precision, device=chosen)
    began = time.monotonic()
    side_by_side = workers if workers > 1 else 0  # one more process would only take time to start
    with Bars(shown=is_first_process()) as bars:  # those of several processes would write over one another
        stem = train_stage(
            recipe,
            folder=output.absolute(),
            label_maps=label_maps,
            cohort=cohort and cohort.absolute(),
            unlabelled=unlabelled and unlabelled.absolute(),
            pseudo_labelled=pseudo_labelled and pseudo_labelled.absolute(),
            init=init,
            device=chosen,
            precision=number_format,
            n_workers=workers,
            pool=chosen_pool(side_by_side, scheduler),  # opened when there are cases to prepare
            on_step=lambda step, loss: bars(stage, step + 1, recipe.n_steps, unit="step", beside=f"loss {loss:.3f}"),
            progress=lambda what, done, total: bars(what, done, total, unit="case"),
            on_note=tell_note if is_first_process() else None,
        )
    if not is_first_process():
        return
    if init is not None:
        typer.echo(f"started from all tensors of {init}, same names and shapes")
    if preset == "release" and not {"cases", "pseudo_labelled"} & recipe.sources.keys():
        tell_note(
            "these weights know painted CTs alone; in a second round, as the packaged ones had, they learn from real "
            "CTs that they have labelled: flare pseudo-label, then flare train --preset real --pseudo-labelled FOLDER"
        )
    seconds = time.monotonic() - began
    typer.echo(
        f"{recipe.n_steps} steps, {seconds:.0f} s of them now, in {number_format.name}; "
        f"wrote {stem}.safetensors and its card"
    )
