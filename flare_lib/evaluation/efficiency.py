"""What a run costs: time, CPU, memory and GPU memory, sampled ten times a second, and the areas under these curves.

The challenge measures the whole machine while a case is segmented (FLARE 2022, resource evaluation). Here the process
itself is measured too, with everything it starts, so that the figures hold on a machine that is doing other work.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pynvml

from flare_lib.machine.sampling import sampled

INTERVAL_S = 0.1
_STEPS_FILE = "FLARE_LIB_STEPS"  # holds the path of the file where a profiled command notes its steps
_MIB = 2**20


@dataclass(frozen=True)
class Efficiency:
    """What one run cost.

    `times_s`: float64 (n,), from the start of the run; a sample stands for the time since the previous one. `curves`
    {name: float64 (n,)}: for the process and its children, "process_cpu_percent" (100 is one core) and
    "process_ram_mib" (resident, shared pages counted once per process); for the whole machine, "machine_cpu_percent"
    (100 is all cores), "machine_ram_mib" and, with an NVIDIA card, "machine_gpu_mib". `steps`: (name, start, end) in s.
    """

    times_s: np.ndarray
    curves: dict[str, np.ndarray]
    steps: tuple[tuple[str, float, float], ...] = ()

    @property
    def seconds(self) -> float:
        """The wall time."""
        return float(self.times_s[-1]) if self.times_s.size else 0.0

    def peak(self, curve: str) -> float:
        """Return the highest value of a curve, 0 for a run without samples; KeyError for an unknown curve."""
        return float(self.curves[curve].max(initial=0.0))

    def area(self, curve: str) -> float:
        """Return the area under a curve: each sample times the time it stands for, in the curve's unit times s.

        With samples exactly 0.1 s apart this is the challenge's figure: the sum of all samples times 0.1 s.
        """
        return float(self.curves[curve] @ np.diff(self.times_s, prepend=0.0))

    def challenge_row(self) -> dict[str, float | None]:
        """Return the figures under the challenge's column names, in s, MiB, percent; None without an NVIDIA card."""
        row: dict[str, float | None] = {"Time": round(self.seconds, 2)}
        for curve, peak, area in (
            ("machine_gpu_mib", "MaxGPU_Mem", "AUC_GPU_Time"),
            ("machine_cpu_percent", "MaxCPU_Utilization", "AUC_CPU_Time"),
            ("machine_ram_mib", "MaxRAM", "AUC_RAM_Time"),
        ):
            there = curve in self.curves
            row |= {
                peak: round(self.peak(curve), 2) if there else None,
                area: round(self.area(curve), 1) if there else None,
            }
        return row

    def to_dict(self) -> dict:
        """Return everything in a form that JSON can hold."""
        return {
            "seconds": round(self.seconds, 3),
            "peaks": {name: round(self.peak(name), 2) for name in self.curves},
            "areas": {name: round(self.area(name), 2) for name in self.curves},
            "challenge": self.challenge_row(),
            "steps": [[name, round(start, 3), round(end, 3)] for name, start, end in self.steps],
            "times_s": self.times_s.round(3).tolist(),
            "curves": {name: values.round(2).tolist() for name, values in self.curves.items()},
        }

    def summary(self) -> str:
        """Return the figures as lines of text for people to read."""
        lines = [f"{'wall time':26}{self.seconds:10.1f} s"]
        lines.append(f"{'CPU time of the process':26}{self.area('process_cpu_percent') / 100:10.1f} s")
        lines.append(f"{'memory of the process':26}{self.peak('process_ram_mib'):10.0f} MiB at most")
        lines.append(f"{'CPU of the machine':26}{self.peak('machine_cpu_percent'):10.0f} % at most")
        lines.append(f"{'memory of the machine':26}{self.peak('machine_ram_mib'):10.0f} MiB at most")
        gpu = f"{self.peak('machine_gpu_mib'):10.0f} MiB at most" if "machine_gpu_mib" in self.curves else ""
        lines.append(f"{'GPU memory':26}{gpu or 'not measured: no NVIDIA card'}")
        return "\n".join(lines)


def steps_from(seconds: Mapping[str, float], *, start: float = 0.0) -> tuple[tuple[str, float, float], ...]:
    """Return (name, start, end) for steps {name: s} that follow one another, beginning at `start`."""
    ends = start + np.cumsum([0.0, *seconds.values()])
    return tuple((name, float(a), float(b)) for name, a, b in zip(seconds, ends, ends[1:], strict=False))


class _Sampler:
    """Takes the samples of one process tree."""

    def __init__(self, pid: int, gpu_mib: Callable[[], float] | None) -> None:
        self.process, self.gpu_mib = psutil.Process(pid), gpu_mib
        self.began = self.before = time.perf_counter()
        self.cpu_before = self._tree()[0]
        psutil.cpu_percent()  # the next call returns the share since this one
        self.rows: list[tuple[float, ...]] = []

    def _tree(self) -> tuple[float, float]:
        """Return CPU seconds and resident MiB of the process and of everything it started that is still running."""
        cpu = ram = 0.0
        try:
            processes = [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0.0, 0.0
        for process in processes:
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    # processes that have ended are counted in their parent's total for children
                    cpu += times.user + times.system + times.children_user + times.children_system
                    ram += process.memory_info().rss / _MIB
            except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                continue
        return cpu, ram

    def take(self, *, cpu_s: float | None = None) -> None:
        """Take a sample; `cpu_s`: CPU seconds of a process tree that has ended, as counted by the system."""
        now = time.perf_counter()
        cpu, ram = self._tree() if cpu_s is None else (cpu_s, 0.0)
        elapsed = max(now - self.before, 1e-6)
        percent = 100 * max(0.0, cpu - self.cpu_before) / elapsed
        machine = psutil.cpu_percent(), psutil.virtual_memory().used / _MIB
        row = (now - self.began, percent, ram, *machine)
        self.rows.append((*row, self.gpu_mib()) if self.gpu_mib else row)
        self.before, self.cpu_before = now, max(cpu, self.cpu_before)

    def result(self, steps: Sequence[tuple[str, float, float]]) -> Efficiency:
        """Return the samples."""
        names = ["process_cpu_percent", "process_ram_mib", "machine_cpu_percent", "machine_ram_mib"]
        names += ["machine_gpu_mib"] if self.gpu_mib else []
        columns = np.array(self.rows, float).reshape(-1, len(names) + 1).T
        return Efficiency(columns[0], dict(zip(names, columns[1:], strict=True)), tuple(steps))


class Profile:
    """A run that is being measured: call `step` to say how far it is; `result` is available once it has ended."""

    def __init__(self) -> None:
        self.result: Efficiency | None = None
        self._began = time.perf_counter()
        self._steps: list[tuple[str, float]] = []

    def step(self, name: str) -> None:
        """Mark the start of a step; it ends where the next one starts."""
        self._steps.append((name, time.perf_counter() - self._began))

    def _spans(self, end: float) -> list[tuple[str, float, float]]:
        turns = [start for _, start in self._steps] + [end]
        return [(name, *span) for (name, _), span in zip(self._steps, pairwise(turns), strict=True)]


@contextmanager
def profile(*, interval_s: float = INTERVAL_S) -> Iterator[Profile]:
    """Measure what the block costs, in this process and everything it starts; the yielded `Profile` has the `result`.

    Samples are taken by a thread, every `interval_s` seconds. Raises ValueError for an interval that is not positive.
    """
    _check_interval(interval_s)
    run = Profile()
    sampler = _Sampler(os.getpid(), gpu_memory())
    try:
        with sampled(sampler.take, interval_s):
            yield run
    finally:
        run.result = sampler.result(run._spans(sampler.rows[-1][0]))


def profile_command(command: Sequence[str], *, interval_s: float = INTERVAL_S) -> tuple[Efficiency, int]:
    """Run a command, measure it and everything it starts; return what it cost and its exit status.

    The status is negative if a signal ended the command: -9 for SIGKILL. It shares this process's input and output.
    Commands of this library also note their steps. Windows does not count what processes that have ended have cost:
    there, what they did since the last sample is missing. Raises ValueError for an empty command or an interval that is
    not positive, FileNotFoundError or PermissionError for a command that cannot be run.
    """
    _check_interval(interval_s)
    if not command:
        raise ValueError("a command must have at least one word, got none")
    before = os.times()
    with tempfile.TemporaryDirectory() as folder:
        steps_file = Path(folder) / "steps.jsonl"
        began = time.time()
        child = subprocess.Popen(command, env=os.environ | {_STEPS_FILE: str(steps_file)})
        sampler = _Sampler(child.pid, gpu_memory())
        sampler.cpu_before = 0.0  # what it did before the first sample counts as well
        try:
            while True:
                try:
                    child.wait(interval_s)
                    break
                except subprocess.TimeoutExpired:
                    sampler.take()
        except BaseException:
            child.kill()
            child.wait()
            raise
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        sampler.take(cpu_s=spent)
        return sampler.result(_read_steps(steps_file, began)), child.returncode


def note_steps(seconds: Mapping[str, float]) -> None:
    """Tell a profiler around this process, if any, which steps {name: s} have just been done, one after another."""
    if path := os.environ.get(_STEPS_FILE):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"end": time.time(), "seconds": dict(seconds)}) + "\n")


def _read_steps(path: Path, began: float) -> list[tuple[str, float, float]]:
    """Return the steps that a command has noted, in s from its start."""
    steps: list[tuple[str, float, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        noted = json.loads(line)
        steps += steps_from(noted["seconds"], start=noted["end"] - began - sum(noted["seconds"].values()))
    return steps


def gpu_memory() -> Callable[[], float] | None:
    """Return a function that gives the memory in use on all NVIDIA cards in MiB; None if no card tells it.

    NVIDIA's own package asks the driver and takes no memory on the card itself. Cards that share their memory with the
    processor have no figure of their own.
    """

    def used_mib() -> float:
        return sum(pynvml.nvmlDeviceGetMemoryInfo(card).used for card in cards) / _MIB

    try:
        pynvml.nvmlInit()
        cards = [pynvml.nvmlDeviceGetHandleByIndex(k) for k in range(pynvml.nvmlDeviceGetCount())]
        used_mib()  # asked once here, where a refusal harms no run
    except pynvml.NVMLError:  # no driver, no card, no permission, not supported
        return None
    return used_mib if cards else None


def _check_interval(interval_s: float) -> None:
    if not interval_s > 0:
        raise ValueError(f"interval_s must be positive, got {interval_s}")
