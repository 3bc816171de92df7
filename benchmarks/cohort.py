"""Thousands of cases through the runner: what a case costs beside its work, and what survives kills at random.

    python benchmarks/cohort.py             # 2,000 cases, 50 kills of the whole run
    python benchmarks/cohort.py --cases 100 --kills 3

The cases are stand-ins (`cohort_case`): they write a small file; one in fifty is bad. Three measurements:

overhead: seconds per case beside its work, here, in two processes, and through a Dask scheduler and its workers.
chaos: all cases through a scheduler and two workers with processes of their own, one worker killed (kill -9) every few
    seconds, the scheduler killed and started again once. Counted: cases without a result or with two, bad ones named,
    cases that were done twice because their first result was lost, and the memory of this process.
kills: the whole run in two processes, killed at random moments and started again, until it ends undisturbed. Counted:
    cases that were lost, done again although they were in the manifest, or written twice.
Linux only. Results go to `benchmarks/results/cohort.json`.
"""

import argparse
import functools
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import cohort_case
import psutil

from flare_lib.machine.cluster import DaskWorkers
from flare_lib.machine.failures import Done
from flare_lib.machine.manifest import open_manifest, read_manifest
from flare_lib.machine.memory import watch_memory
from flare_lib.machine.processes import Pool, Processes
from flare_lib.machine.runner import run

RESULTS = Path(__file__).parent / "results" / "cohort.json"


def drive(folder: Path, n_cases: int, pool: Pool | None, *, seconds: float = 0.0) -> int:
    """Do the cases that the folder's manifest does not know yet; return how many there were."""
    with open_manifest(folder / "manifest.jsonl") as manifest:
        todo = [k for k in range(n_cases) if str(k) not in manifest.entries]
        work = functools.partial(cohort_case.do, folder=str(folder), seconds=seconds)
        for k, outcome in run(work, todo, pool):
            of = {"result": outcome.result} if isinstance(outcome, Done) else {"error": outcome.reason}
            manifest.add({"name": str(todo[k])} | of)
    return len(todo)


def count(folder: Path, n_cases: int) -> dict[str, int]:
    """Return what went wrong, over all cases; `done_again` counts good ones that were done more than once."""
    entries = read_manifest(folder / "manifest.jsonl")
    lines = (folder / "manifest.jsonl").read_bytes().count(b"\n")
    executed = Counter((folder / "executed").read_text().split())
    good = [k for k in range(n_cases) if not cohort_case.is_bad(k)]
    bad = [k for k in range(n_cases) if cohort_case.is_bad(k)]
    return {
        "good": len(good),
        "good_done": sum(entries.get(str(k), {}).get("result") == k * k for k in good),
        "files_right": sum((folder / f"{k}.txt").read_text() == f"{k * k}\n" for k in good),
        "bad": len(bad),
        "bad_named": sum("must be good" in entries.get(str(k), {}).get("error", "") for k in bad),
        "lines_too_many": lines - n_cases,
        "done_again": sum(n - 1 for n in executed.values()),
    }


def overhead(n_cases: int) -> dict[str, float]:
    """Return seconds per case, and CPU seconds of this process and its children, for cases that do next to nothing."""
    found: dict[str, float] = {}

    def measured(name: str, pool: Pool | None) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            drive(Path(scratch), 4, pool)  # the processes are there
        with tempfile.TemporaryDirectory() as scratch:
            began = time.perf_counter()
            drive(Path(scratch), n_cases, pool)
            found[name] = (time.perf_counter() - began) / n_cases

    measured("here", None)
    with Processes(2) as processes:
        measured("two_processes", processes)
    with (
        tempfile.TemporaryDirectory() as scratch,
        Cluster(Path(scratch)) as cluster,
        DaskWorkers(cluster.address) as workers,
    ):
        measured("dask_two_workers", workers)
    return found


class Cluster:
    """A scheduler and two workers, each a process that can be killed; one that has died is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.over = threading.Event()
        self.scheduler = self._start_scheduler()
        self.workers = [self._start_worker() for _ in range(2)]
        self.keeper = threading.Thread(target=self._keep, daemon=True)
        self.keeper.start()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.keeper.join()
        for process in (*self.workers, self.scheduler):
            self._kill(process)

    def kill_a_worker(self, rng: random.Random) -> None:
        """Kill a worker, without a warning to anyone."""
        self._kill(rng.choice(self.workers))

    def kill_the_scheduler(self) -> None:
        """Kill the scheduler; the keeper starts it again."""
        self._kill(self.scheduler)

    def _start_scheduler(self) -> subprocess.Popen:
        return self._start("dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")

    def _start_worker(self) -> subprocess.Popen:
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.folder))
        return self._start("dask_worker", self.address, *options, "--death-timeout", "60")

    def _start(self, program: str, *options: str) -> subprocess.Popen:
        silence = subprocess.DEVNULL
        command = [sys.executable, "-m", f"distributed.cli.{program}", *options]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen(command, env=environment, stdout=silence, stderr=silence)

    def _kill(self, process: subprocess.Popen) -> None:
        process.kill()
        process.wait()

    def _keep(self) -> None:
        while not self.over.wait(0.2):
            if self.scheduler.poll() is not None:
                self.scheduler = self._start_scheduler()
            for k, worker in enumerate(self.workers):
                if worker.poll() is not None:
                    self.workers[k] = self._start_worker()


def chaos(n_cases: int, *, every_s: float = 15.0, seconds: float = 0.02) -> dict[str, float]:
    """Return the counts after a run whose workers and scheduler were killed; see the top."""
    rng, over = random.Random(0), threading.Event()
    kills = Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "cluster").mkdir()
        memory: list[float] = []

        def disturb(cluster: Cluster) -> None:
            while not over.wait(rng.uniform(0.5, 1.5) * every_s):
                path = folder / "manifest.jsonl"
                n_done = path.read_bytes().count(b"\n") if path.exists() else 0
                memory.append(psutil.Process().memory_info().rss / 2**20)
                if n_done > n_cases // 2 and not kills["scheduler"]:
                    cluster.kill_the_scheduler()
                    kills["scheduler"] += 1
                else:
                    cluster.kill_a_worker(rng)
                    kills["workers"] += 1

        with Cluster(folder / "cluster") as cluster, DaskWorkers(cluster.address) as workers:
            began = time.perf_counter()
            thread = threading.Thread(target=disturb, args=(cluster,))
            thread.start()
            try:
                with watch_memory() as watch:
                    drive(folder, n_cases, workers, seconds=seconds)
            finally:
                over.set()
                thread.join()
            took = time.perf_counter() - began
        counts = count(folder, n_cases)
    grown = round(memory[-1] - memory[0], 1) if memory else 0.0
    memory_of = {"client_peak_mib": round(watch.peak_mib, 1), "client_grown_mib": grown}
    return {"cases": n_cases, **counts, **{f"killed_{what}": n for what, n in kills.items()}, **memory_of, "s": took}


def kills(n_cases: int, n_kills: int, *, seconds: float = 0.005) -> dict[str, float]:
    """Return the counts after a run in two processes that was killed at random moments and started again each time."""
    rng = random.Random(1)
    lost = again = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for _ in range(n_kills):
            known = read_manifest(folder / "manifest.jsonl")
            before = _executed(folder)
            process = _in_a_process(folder, n_cases, seconds)
            goal = len(known) + rng.randrange(2 * n_cases // n_kills)
            while process.poll() is None and len(read_manifest(folder / "manifest.jsonl")) < goal:
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.05))
            with suppress(ProcessLookupError):  # it was quicker
                os.killpg(process.pid, signal.SIGKILL) if rng.random() < 0.5 else process.kill()
            process.wait()
            time.sleep(0.1)  # what it had started ends by itself
            lost += len(known.keys() - read_manifest(folder / "manifest.jsonl").keys())
            again += sum((_executed(folder) - before)[name] for name in known)
        left = n_cases - len(read_manifest(folder / "manifest.jsonl"))
        if _in_a_process(folder, n_cases, seconds).wait():
            raise RuntimeError("the run that nobody kills must end well")
        counts = count(folder, n_cases)
    return {
        "cases": n_cases,
        "kills": n_kills,
        "left_at_the_end": left,
        "lost": lost,
        "known_done_again": again,
    } | counts


def _executed(folder: Path) -> Counter[str]:
    path = folder / "executed"
    return Counter(path.read_text().split() if path.exists() else ())


def _in_a_process(folder: Path, n_cases: int, seconds: float) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path; import cohort; from flare_lib.machine.processes import Processes\n"
        "with Processes(2) as pool: cohort.drive(Path(sys.argv[1]), int(sys.argv[2]), pool, seconds=float(sys.argv[3]))"
    )
    places = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    command = [sys.executable, "-c", code, str(folder), str(n_cases), str(seconds)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": places}, start_new_session=True)


def main() -> None:
    from measure import machine, store  # torch, which the runs that are killed can do without

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found: dict[str, object] = {"machine": machine()}
    found["overhead_s"] = overhead(options.cases // 4)
    print(found["overhead_s"], flush=True)
    found["chaos"] = chaos(options.cases)
    print(found["chaos"], flush=True)
    found["kills"] = kills(options.cases, options.kills)
    print(found["kills"], flush=True)
    store(options.out, found)


if __name__ == "__main__":
    main()
