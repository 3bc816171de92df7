"""Commands for measuring: how good label maps are (evaluate), and what a run costs (profile)."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flare_lib.commands.outputs import check_apart, check_figure, check_folder, check_table, drawing, wrote
from flare_lib.commands.terminal import Bars, tell_error, tell_note
from flare_lib.commands.workers import Scheduler, Workers, chosen_pool
from flare_lib.machine.counted import counted


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A folder of label maps, .nii or .nii.gz.")],
    references: Annotated[Path, typer.Argument(help="A folder of reference label maps with the same file names.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to save the table, .csv.")],
    clean: Annotated[
        bool, typer.Option("--clean", help="Leave out the challenge's special rules (notebook 08 lists them).")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Also save box plots, one per organ: .png, .jpg, .pdf or .svg.")
    ] = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Score label maps against references by the rules of FLARE 2022: DSC and NSD for 13 organs."""
    check_table(output)
    check_figure(figure)

    from flare_lib.evaluation import cohort_scores
    from flare_lib.evaluation.flare_rules import CLEAN, OFFICIAL

    pairs = cohort_scores.find_pairs(predictions.absolute(), references.absolute())
    with chosen_pool(workers, scheduler) as pool, Bars() as bars:
        cases = cohort_scores.score_pairs(
            pairs,
            rules=CLEAN if clean else OFFICIAL,
            pool=pool,
            progress=lambda done, total: bars("scoring", done, total, unit="case"),
        )
    failed = [case for case in cases if case.scores is None]
    for case in failed:
        tell_error(f"{case.name}: {case.problem}")
    for case in cases:
        for note in case.scores.notes if case.scores else ():
            tell_note(f"{case.name}: {note}")
    if len(failed) == len(cases):
        raise typer.Exit(2)
    cohort_scores.write_table(output, cases)
    if figure is not None:
        scored = [case.scores for case in cases if case.scores is not None]
        with drawing() as save:
            from flare_lib.display.charts import score_boxes_figure

            save(score_boxes_figure([s.dice for s in scored], [s.nsd for s in scored]), figure)
    typer.echo(cohort_scores.summary(cases))
    typer.echo(f"{len(cases) - len(failed)} of {counted(len(cases), 'case')} scored; {wrote(output, figure)}")
    raise typer.Exit(2 if failed else 0)


def profile(
    command: Annotated[list[str], typer.Argument(help="The command to run, after --.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to save the samples, .json.")] = Path(
        "profile.json"
    ),
    figure: Annotated[Path | None, typer.Option(help="Also save the curves: .png, .jpg, .pdf or .svg.")] = None,
) -> None:
    """Run any command and measure its time, CPU, memory and GPU memory: flare profile -- flare segment ct.nii.gz ..."""
    if output.suffix.lower() != ".json":
        raise ValueError(f"the samples must go to a .json file, got {output}")
    check_folder("profile", output)
    check_figure(figure)
    check_apart([path for path in (output, figure) if path], [Path(word) for word in command])

    from flare_lib.evaluation.efficiency import profile_command
    from flare_lib.machine.atomic_write import atomic_write

    run, status = profile_command(command)
    with atomic_write(output) as unfinished:
        unfinished.write_text(json.dumps({"command": command, "status": status, **run.to_dict()}), encoding="utf-8")
    if figure is not None:
        with drawing() as save:
            from flare_lib.display.charts import efficiency_figure

            save(efficiency_figure(run, title=" ".join(command)), figure)
    typer.echo(run.summary())
    typer.echo(f"the command ended with {status}; {wrote(output, figure)}")
    raise typer.Exit(status if status >= 0 else 128 - status)
