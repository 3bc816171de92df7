"""Efficiency: what a process costs, told by the process itself and by the profiler around it."""

import json
import os
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pynvml
import pytest

from flare_lib.evaluation import efficiency
from flare_lib.evaluation.efficiency import Efficiency, note_steps, profile, profile_command, steps_from

MIB = 2**20


def python(program, *, tell=None):
    """A command that runs a program, which may write what it knows of itself to the file `tell`."""
    return [sys.executable, "-c", f"tell = {str(tell)!r}\n{program}"]


@pytest.fixture
def held(monkeypatch, tmp_path):
    """What a program does to hold still until it has been sampled: `held.python`, its code; `held.here()` in this one.

    The sampler asks for the cards' memory once a sample, after that of the processes: that is when it is listened to.
    """

    class Held:
        ready, seen = tmp_path / "ready", tmp_path / "seen"
        python = f"""
import os, time
open({str(ready)!r}, "w").close()
while not os.path.exists({str(seen)!r}):
    time.sleep(0.01)"""
        n_samples = 0

        def here(self):
            exec(self.python, {})

        def sampled(self):
            self.n_samples += self.ready.exists()
            if self.n_samples == 2:  # the first may have looked at the processes before it was ready
                self.seen.touch()
            return 0.0

    held = Held()
    monkeypatch.setattr(efficiency, "gpu_memory", lambda: held.sampled)
    return held


class Scripted:
    """A process whose CPU seconds and MiB, one pair a sample, are known; it has no children."""

    def __init__(self, samples):
        self.samples = iter(samples)

    def children(self, recursive):
        return []

    def oneshot(self):
        self.cpu_s, self.mib = next(self.samples)
        return nullcontext()

    def cpu_times(self):
        return SimpleNamespace(
            user=0.5 * self.cpu_s, system=0.25 * self.cpu_s, children_user=0.25 * self.cpu_s, children_system=0.0
        )

    def memory_info(self):
        return SimpleNamespace(rss=self.mib * MIB)


def test_a_sample_is_the_cpu_time_over_the_time_since_the_one_before(monkeypatch):
    clock = iter([100.0, 100.5, 101.5, 101.75])
    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: next(clock))
    process = Scripted([(3.0, 7), (3.0, 10), (4.5, 30), (4.25, 20)])  # a child that ends may take its time with it
    monkeypatch.setattr(efficiency.psutil, "Process", lambda pid: process)
    sampler = efficiency._Sampler(1, None)
    for _ in range(3):
        sampler.take()
    run = sampler.result([])
    assert run.times_s.tolist() == [0.5, 1.5, 1.75]
    assert run.curves["process_cpu_percent"].tolist() == [0, 150, 0]
    assert run.curves["process_ram_mib"].tolist() == [10, 30, 20]
    assert run.area("process_cpu_percent") / 100 == 1.5


@pytest.mark.skipif(sys.platform == "win32", reason="it does not count what processes that have ended have cost")
@pytest.mark.parametrize(
    ("work", "at_least_s"),
    [("while time.process_time() < 0.5: pass", 0.5), ("time.sleep(0.5)", 0.0)],
    ids=["spins", "sleeps"],
)
@pytest.mark.parametrize("of", ["the process", "a child of it"])
def test_a_process_costs_the_cpu_time_that_it_counts_itself(tmp_path, of, work, at_least_s):
    command = python(f"import time\n{work}\nopen(tell, 'w').write(str(time.process_time()))", tell=tmp_path / "cpu")
    if of == "a child of it":
        command = [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"]
    run, status = profile_command(command)
    told = float((tmp_path / "cpu").read_text())
    assert status == 0
    assert run.seconds >= 0.5
    assert told >= at_least_s
    # what the outer Python and the end of the inner one cost is not in what the inner one tells; the system counts a
    # process in whole ticks, and user and system time each lose the fraction of one
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert 0.98 * told - 2 * tick <= run.area("process_cpu_percent") / 100 <= told + 0.5


def test_a_process_with_a_gib_shows_a_gib_more_than_one_without(held):
    peaks = []
    for size in (1, 1024 * MIB):
        run, _ = profile_command(python(f"block = b'1' * {size}\n{held.python}"))
        peaks.append(run.peak("process_ram_mib"))
        held.ready.unlink()
        held.seen.unlink()
        held.n_samples = 0
    assert peaks[1] - peaks[0] == pytest.approx(1024, rel=0.02)


def test_the_exit_status_is_the_commands_and_a_missing_command_is_said():
    assert profile_command(python("import sys; sys.exit(7)"))[1] == 7
    with pytest.raises(FileNotFoundError, match="no-such-command"):
        profile_command(["no-such-command"])
    with pytest.raises(ValueError, match="at least one word, got none"):
        profile_command([])


def test_a_block_in_this_process_is_measured_with_its_steps(held):
    with profile(interval_s=0.05) as run:
        run.step("spin")
        began = time.process_time()
        while time.process_time() - began < 0.25:
            pass
        run.step("hold")
        block = np.ones(256 * MIB, np.uint8)
        held.here()
        del block
    result = run.result
    assert result.area("process_cpu_percent") / 100 > 0.25 * 0.9
    ram = result.curves["process_ram_mib"]
    assert ram.max() - ram[0] == pytest.approx(256, rel=0.1)
    (spin, start, middle), (hold, again, end) = result.steps
    assert (spin, hold) == ("spin", "hold")
    assert 0 <= start < middle == again < end == result.times_s[-1]


def test_a_block_that_fails_has_its_figures_too():
    with pytest.raises(KeyError), profile() as run:
        raise KeyError
    assert run.result.seconds > 0


def example(**more):
    times = np.array([0.1, 0.2, 0.4])
    curves = {
        "process_cpu_percent": np.array([0.0, 100.0, 50.0]),
        "process_ram_mib": np.array([10.0, 30.0, 20.0]),
        "machine_cpu_percent": np.array([50.0, 100.0, 25.0]),
        "machine_ram_mib": np.array([1000.0, 3000.0, 2000.0]),
        **more,
    }
    return Efficiency(times, curves, (("first", 0.0, 0.2), ("second", 0.2, 0.4)))


def test_an_area_is_each_sample_times_the_time_it_stands_for():
    assert example().area("process_cpu_percent") == pytest.approx(0 * 0.1 + 100 * 0.1 + 50 * 0.2)
    assert example().area("machine_ram_mib") == pytest.approx(100 + 300 + 400)


def test_the_challenges_columns_hold_peaks_and_areas_of_the_machine():
    row = {"Time": 0.4, "MaxGPU_Mem": None, "AUC_GPU_Time": None, "MaxCPU_Utilization": 100.0, "AUC_CPU_Time": 20.0}
    assert example().challenge_row() == row | {"MaxRAM": 3000.0, "AUC_RAM_Time": 800.0}
    with_card = example(machine_gpu_mib=np.array([0.0, 500.0, 500.0])).challenge_row()
    assert (with_card["MaxGPU_Mem"], with_card["AUC_GPU_Time"]) == (500.0, 150.0)


def test_what_is_stored_can_be_read_again():
    stored = json.loads(json.dumps(example().to_dict()))
    assert stored["steps"] == [["first", 0.0, 0.2], ["second", 0.2, 0.4]]
    assert stored["areas"]["process_cpu_percent"] == pytest.approx(20)
    assert stored["curves"]["process_ram_mib"] == [10, 30, 20]


def test_the_summary_has_a_line_a_figure_and_says_what_was_not_measured():
    figures = ["0.4 s", "0.2 s", "30 MiB at most", "100 % at most", "3000 MiB at most"]
    lines = example().summary().splitlines()
    assert [line[26:].strip() for line in lines] == [*figures, "not measured: no NVIDIA card"]
    assert [line[:26].rstrip() for line in lines] == [
        "wall time",
        "CPU time of the process",
        "memory of the process",
        "CPU of the machine",
        "memory of the machine",
        "GPU memory",
    ]
    with_card = example(machine_gpu_mib=np.array([0.0, 500.0, 500.0])).summary()
    assert with_card.splitlines()[-1].split() == ["GPU", "memory", "500", "MiB", "at", "most"]


def test_what_is_stored_is_rounded_to_what_can_be_measured():
    times = np.array([0.12345])
    names = ("process_cpu_percent", "process_ram_mib", "machine_cpu_percent", "machine_ram_mib", "machine_gpu_mib")
    run = Efficiency(times, {name: np.array([98.7654]) for name in names}, (("all", 0.00049, 0.12345),))
    assert run.challenge_row() == {
        "Time": 0.12,
        "MaxGPU_Mem": 98.77,
        "AUC_GPU_Time": 12.2,
        "MaxCPU_Utilization": 98.77,
        "AUC_CPU_Time": 12.2,
        "MaxRAM": 98.77,
        "AUC_RAM_Time": 12.2,
    }
    stored = run.to_dict()
    assert (stored["seconds"], stored["times_s"], stored["steps"]) == (0.123, [0.123], [["all", 0.0, 0.123]])
    assert stored["challenge"] == run.challenge_row()
    for name in names:
        assert (stored["peaks"][name], stored["areas"][name], stored["curves"][name]) == (98.77, 12.19, [98.77])


def test_a_run_without_samples_costs_nothing():
    none = Efficiency(np.zeros(0), {"process_ram_mib": np.zeros(0)})
    assert (none.seconds, none.peak("process_ram_mib"), none.area("process_ram_mib")) == (0, 0, 0)


def test_steps_follow_each_other():
    assert steps_from({"a": 1.0, "b": 0.5}, start=2.0) == (("a", 2.0, 3.0), ("b", 3.0, 3.5))
    assert steps_from({}) == ()


def test_a_command_of_this_library_tells_its_steps():
    program = "import time; from flare_lib.evaluation.efficiency import note_steps; time.sleep(0.2)\n"
    run, _ = profile_command(python(program + "note_steps({'coarse': 0.05, 'fine': 0.1})"))
    (coarse, a, b), (fine, c, d) = run.steps
    assert (coarse, fine) == ("coarse", "fine")
    np.testing.assert_allclose((b - a, d - c), (0.05, 0.1))
    assert 0 < a < b == c < d <= run.seconds


def test_without_a_profiler_steps_are_told_to_nobody(monkeypatch, tmp_path):
    monkeypatch.delenv("FLARE_LIB_STEPS", raising=False)
    monkeypatch.chdir(tmp_path)
    note_steps({"coarse": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_gpu_memory_is_that_of_all_cards(monkeypatch):
    class Card:
        def __init__(self, used):
            self.used = used

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda k: Card((k + 1) * 100 * MIB))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda card: card)
    assert efficiency.gpu_memory()() == 300
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 0)
    assert efficiency.gpu_memory() is None


def test_a_card_that_shares_its_memory_with_the_processor_is_not_measured(monkeypatch):
    def not_supported(_card):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 1)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda k: k)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", not_supported)
    assert efficiency.gpu_memory() is None


def test_without_a_driver_there_is_no_gpu_memory(monkeypatch):
    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert efficiency.gpu_memory() is None


def test_an_interval_must_be_positive():
    with pytest.raises(ValueError, match="interval_s must be positive, got 0"):
        profile_command(["true"], interval_s=0)
