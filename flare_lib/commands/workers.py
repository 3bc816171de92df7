"""Who does a command's work: this process, others beside it or a cluster; and where and in what its nets compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flare_lib.commands.terminal import tell_note

if TYPE_CHECKING:
    from flare_lib.machine.processes import Pool

Device = Annotated[str, typer.Option(help="Where the nets compute: auto, cpu, cuda, ...")]
Precision = Annotated[str, typer.Option(help="The nets' number format: auto, bfloat16, float16 or float32.")]
Engine = Annotated[
    str, typer.Option(help="What computes the nets: torch, or openvino, faster on CPUs without bfloat16.")
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that work side by side; 0: this one, case by case.")]
Scheduler = Annotated[
    str | None, typer.Option(help="Have a Dask cluster do it instead: its scheduler's address, tcp://HOST:PORT.")
]
Slurm = Annotated[
    bool, typer.Option("--slurm", help="Submit --workers batch jobs, or 4, to SLURM instead (dask-jobqueue).")
]
Job = Annotated[
    list[str] | None,
    typer.Option(help="Set what a batch job gets: cores=4, memory=8GB, walltime=02:00:00, queue=...; may be repeated."),
]


@contextmanager
def chosen_pool(
    workers: int, scheduler: str | None, *, jobs: dict[str, Any] | None = None, threads: int | None = 1
) -> "Iterator[Pool | None]":
    """Open the pool that the options ask for; None is this process.

    `jobs`: the settings of SLURM's jobs, if these are to do the work; `threads`: those of each of several processes.
    """
    from flare_lib.machine.processes import Processes

    if scheduler is not None and jobs is not None:
        raise ValueError(f"--slurm starts a scheduler of its own, got --scheduler {scheduler} as well")
    if scheduler is not None:
        from flare_lib.machine.cluster import DaskWorkers

        with DaskWorkers(scheduler, on_note=tell_note) as cluster:
            _tell_dashboard(cluster.dashboard)
            yield cluster
    elif jobs is not None:
        from flare_lib.machine.cluster import DaskWorkers, slurm_cluster

        with (
            slurm_cluster(workers, jobs, on_note=tell_note) as submitted,
            DaskWorkers(submitted, on_note=tell_note) as cluster,
        ):
            _tell_dashboard(cluster.dashboard)
            yield cluster
    elif workers:
        with Processes(workers, n_threads=threads) as processes:
            yield processes
    else:
        yield None


def _tell_dashboard(address: str) -> None:
    tell_note(f"Dask shows the progress at {address}")
