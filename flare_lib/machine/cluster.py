"""Many computers: Dask workers as a pool, on a scheduler that runs already or in batch jobs of SLURM.

A Dask worker only passes the work on to a process beside it (`processes`), which imports what the work imports and may
hang, crash or be killed without harm to the cluster. A scheduler that goes away and comes back costs only the work that
was under way. The workers read and write everything themselves, so they must see the same folders as this process.

References: https://distributed.dask.org, https://jobqueue.dask.org
"""

import queue
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from inspect import signature
from typing import TYPE_CHECKING, Any, Self

from flare_lib.machine.child import Outcome
from flare_lib.machine.counted import some_of
from flare_lib.machine.extras import extra
from flare_lib.machine.failures import Failure, reason_of
from flare_lib.machine.processes import KILLED, Processes

if TYPE_CHECKING:
    from dask_jobqueue.core import JobQueueCluster
    from dask_jobqueue.slurm import SLURMJob
    from distributed import Client, Future
    from distributed.deploy import Cluster

_COUNT_EVERY_S = 2.0
_ANSWER_WITHIN_S = 30.0
_LOOK_EVERY_S = 1.0
_HOST_AND_PORT = ("tcp", "tls", "ws", "wss")  # kinds of address
_PER_THREAD = 2  # one at work, one that waits beside it


class DaskWorkers:
    """The workers of a Dask scheduler as a `Pool`, one piece of work a thread; use it in a `with`.

    `scheduler`: an address (tcp://HOST:PORT) or one of Dask's own clusters. `patience_s`: how long a scheduler may stay
    away, at the start or later, before OSError is raised; `on_note` is called with a note that it is being waited for.
    Needs the extra `cluster` (MissingExtra). Raises ValueError for what is not an address.
    """

    memory_mib: float | None = None

    def __init__(
        self,
        scheduler: "str | Cluster",
        *,
        patience_s: float = 600.0,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self._scheduler, self._patience_s, self._tell = scheduler, patience_s, on_note or (lambda note: None)
        self._ended: queue.SimpleQueue[tuple[int, Future]] = queue.SimpleQueue()
        self._under_way: dict[int, Future] = {}
        self._n_threads, self._counted = 1, -_COUNT_EVERY_S
        self._client = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.cancel()
        self._client.close()

    @property
    def dashboard(self) -> str:
        """The address of Dask's own page about what is going on."""
        return self._client.dashboard_link

    def n_slots(self) -> int:
        """Return twice the workers' threads, counted every 2 s, so that none waits for this process; at least 1."""
        if time.monotonic() - self._counted > _COUNT_EVERY_S:
            self._counted = time.monotonic()
            with suppress(OSError, TimeoutError):  # gone for the moment: `finished` will notice
                self._n_threads = sum(self._client.nthreads().values())
        return max(1, _PER_THREAD * self._n_threads)

    def start(self, key: int, packed: bytes, time_limit_s: float | None) -> None:
        """Send a piece of work to the scheduler."""
        future = self._client.submit(_pass_on, packed, time_limit_s, pure=False)
        self._under_way[key] = future
        future.add_done_callback(lambda ended: self._ended.put((key, ended)))

    def finished(self) -> list[tuple[int, Outcome | None]]:
        """Wait until something has ended; if the scheduler was lost, wait for it and return all as lost (None)."""
        while True:
            try:
                key, future = self._ended.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                if self._client.status in ("running", "connecting"):
                    continue
                return self._lost()
            if self._under_way.get(key) is not future:  # left over from a scheduler that is gone
                continue
            if future.status == "error":
                return [(key, _failure(self._under_way.pop(key).exception()))]
            if future.status != "finished":
                return self._lost()
            try:
                outcome = future.result(timeout=_ANSWER_WITHIN_S)
            except Exception:  # whatever Dask raises when the worker with the answer has gone away
                outcome = None
            del self._under_way[key]
            return [(key, outcome)]

    def cancel(self) -> None:
        """Tell the scheduler to forget what is under way; a worker finishes what it has begun."""
        if self._under_way and self._client.status == "running":
            self._client.cancel(list(self._under_way.values()))
        self._under_way.clear()

    def _lost(self) -> list[tuple[int, Outcome | None]]:
        keys = list(self._under_way)
        self._under_way.clear()
        self._client.close(timeout=1)
        self._client = self._connect()
        return [(key, None) for key in keys]

    def _connect(self) -> "Client":
        with extra("cluster"):
            from distributed import Client
            from distributed.comm import get_address_host_port
            from distributed.comm.registry import get_backend
        if isinstance(self._scheduler, str):
            kind = self._scheduler.rpartition("://")[0] or "tcp"
            try:  # before there is a client, which a bad address would leave half-made
                get_backend(kind)
                if kind in _HOST_AND_PORT:  # the form of the others is theirs
                    get_address_host_port(self._scheduler)
            except ValueError as error:
                raise ValueError(f"the scheduler must be tcp://HOST:PORT, got {self._scheduler} ({error})") from error
        ends, waits = time.monotonic() + self._patience_s, False
        while True:
            try:
                return Client(self._scheduler, timeout=min(self._patience_s / 2, 10.0), set_as_default=False)
            except (OSError, TimeoutError) as error:
                if time.monotonic() >= ends:
                    raise OSError(f"a Dask scheduler must answer at {self._scheduler}, got no answer") from error
            except (TypeError, ValueError) as error:  # of TLS without Dask's settings, of UCX without its library
                raise ValueError(f"Dask must know how to reach {self._scheduler}, got {error}") from error
            if not waits:
                self._tell(
                    f"no Dask scheduler answers at {self._scheduler}; waiting for {self._patience_s:g} s at most"
                )
                waits = True


_here = threading.local()


def _pass_on(packed: bytes, time_limit_s: float | None) -> Outcome:
    """Have a piece of work done by a process beside this thread of a Dask worker."""
    if not hasattr(_here, "pool"):
        _here.pool = Processes(1)
    _here.pool.start(0, packed, time_limit_s)
    [(_, outcome)] = _here.pool.finished()
    return outcome


def _failure(error: BaseException) -> Failure:
    from distributed.scheduler import KilledWorker

    return KILLED if isinstance(error, KilledWorker) else Failure(reason_of(error))


@contextmanager
def _ctrl_c_as_before() -> Iterator[None]:
    """Keep what Ctrl-C does: once dask-jobqueue is loaded, it would end the program as if all had been done."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextmanager
def slurm_cluster(
    n_jobs: int, settings: Mapping[str, Any], *, on_note: Callable[[str], None] | None = None
) -> "Iterator[JobQueueCluster]":
    """Submit `n_jobs` batch jobs, each of which works on one case at a time, and end them with the block.

    `settings`: `cores` of a job (its threads; 4), `memory` ("8GB"), and anything else that dask-jobqueue's SLURMCluster
    takes: queue, account, walltime, interface, log_directory, ... What is not given comes from Dask's configuration
    (jobqueue.slurm). Nothing is submitted for 0 jobs; `cluster.job_script()` is what is submitted. Needs the extra
    `cluster`. Raises ValueError for settings that SLURMCluster does not take, and for cores that are not 1 or more;
    OSError if there is no sbatch here, or if it refuses every job; if it refuses some, `on_note` is called with a note.
    """
    with extra("cluster"), _ctrl_c_as_before():
        import dask
        from dask_jobqueue import SLURMCluster
        from dask_jobqueue.slurm import SLURMJob

    given, n_cores = _job(settings)
    if n_jobs and shutil.which(SLURMJob.submit_command) is None:
        raise FileNotFoundError(f"batch jobs need SLURM's {SLURMJob.submit_command} on this computer, got none")
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # why a job was refused; None for one that was not
    given["job_cls"] = _answering(answers)
    # Dask does not repeat a piece of work whose worker died: it comes back, and the runner tries it once more, alone
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        SLURMCluster(cores=1, processes=1, job_cpu=n_cores, **given) as cluster,
    ):
        if n_jobs:
            cluster.scale(jobs=n_jobs)
            refused = [why for _ in range(n_jobs) if (why := answers.get()) is not None]
            reasons = some_of(list(dict.fromkeys(refused)))
            if len(refused) == n_jobs:
                raise OSError(f"SLURM must take a batch job, got {n_jobs} of {n_jobs} refused: {reasons}")
            if refused and on_note:
                on_note(f"SLURM refused {len(refused)} of {n_jobs} batch jobs: {reasons}")
        yield cluster


def _job(settings: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return what SLURMCluster is given for these settings of a job, and the job's cores; errors: `slurm_cluster`."""
    import dask
    from dask_jobqueue.core import Job, JobQueueCluster
    from dask_jobqueue.slurm import SLURMJob

    given: dict[str, Any] = {"cores": 4, "memory": "8GB", "job_script_prologue": []}
    # otherwise Dask writes this interpreter's path into the script as it is, be there a space in it or not
    given["python"] = dask.config.get("jobqueue.slurm.python", None) or shlex.quote(sys.executable)
    given |= {"scheduler_options": {"dashboard_address": ":0"}} | dict(settings)  # whichever port is free
    n_cores = given.pop("cores")
    if not isinstance(n_cores, int) or n_cores < 1:
        raise ValueError(f"cores must be a whole number, 1 or more, got {n_cores!r}")
    threads = [f"export {name}={n_cores}" for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")]
    given["job_script_prologue"] = [*threads, *given["job_script_prologue"]]
    known = {name for kind in (Job, SLURMJob, JobQueueCluster) for name in signature(kind).parameters}
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"the settings of a job must be among {', '.join(sorted(known))}, got {unknown[0]}")
    return given, n_cores


def _answering(answers: "queue.SimpleQueue[str | None]") -> "type[SLURMJob]":
    """Return a kind of job that says whether SLURM took it: Dask itself would log a refusal, and wait for ever."""
    from dask_jobqueue.slurm import SLURMJob
    from distributed import Status

    class Submitted(SLURMJob):
        """Puts into `answers` why it was refused, or None."""

        async def start(self) -> None:
            try:
                await super().start()
                answers.put(None)
            except Exception as error:  # dask-jobqueue's words, which end with sbatch's own
                self.status = Status.running  # to Dask, so that it logs nothing and closes this job with the others
                answers.put(reason_of(error).rpartition("stderr: ")[2])

        def _job_id_from_submit_output(self, out: str) -> str:
            try:
                return super()._job_id_from_submit_output(out)
            except ValueError as error:
                said = f"{self.submit_command} must say the job's number, got {out.strip()!r}"
                raise ValueError(f"{said}; if there is such a job, scancel must end it") from error

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed  # Dask asks for it, and dask-jobqueue does not say so

    return Submitted
