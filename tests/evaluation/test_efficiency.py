"""Efficiency: what a process costs, told by the process itself and by the profiler around it."""

import json
import sys
import time

import numpy as np
import pytest

from flare_lib.evaluation import efficiency
from flare_lib.evaluation.efficiency import Efficiency, note_steps, profile, profile_command, steps_from

MIB = 2**20


def python(program, *, tell=None):
    """A command that runs a program, which may write what it knows of itself to the file `tell`."""
    return [sys.executable, "-c", f"tell = {str(tell)!r}\n{program}"]


def test_a_sleeping_process_takes_its_time_and_no_cpu():
    run, status = profile_command(python("import time; time.sleep(1.5)"))
    assert status == 0
    assert run.seconds == pytest.approx(1.5, rel=0.1, abs=0.15)  # and what Python takes to start
    assert run.area("process_cpu_percent") / 100 < 0.15


@pytest.mark.parametrize("of", ["the process", "a child of it"])
def test_a_spinning_process_costs_the_cpu_time_that_it_counts_itself(tmp_path, of):
    spin = "import time\nwhile time.process_time() < 1: pass\nopen(tell, 'w').write(str(time.process_time()))"
    command = python(spin, tell=tmp_path / "cpu")
    if of == "a child of it":
        command = [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"]
    run, _ = profile_command(command)
    told = float((tmp_path / "cpu").read_text())
    # what the outer Python and the end of the inner one cost is not in what the inner one tells
    assert run.area("process_cpu_percent") / 100 == pytest.approx(told, rel=0.1)


def test_a_process_with_a_gib_shows_a_gib_more_than_one_without():
    hold = "import time\nblock = b'1' * {}\ntime.sleep(0.6)"
    peaks = [profile_command(python(hold.format(size)))[0].peak("process_ram_mib") for size in (1, 1024 * MIB)]
    assert peaks[1] - peaks[0] == pytest.approx(1024, rel=0.02)


def test_the_exit_status_is_the_commands_and_a_missing_command_is_said():
    assert profile_command(python("import sys; sys.exit(7)"))[1] == 7
    with pytest.raises(FileNotFoundError, match="no-such-command"):
        profile_command(["no-such-command"])
    with pytest.raises(ValueError, match="a word at least, got none"):
        profile_command([])


def test_a_block_in_this_process_is_measured_with_its_steps():
    with profile(interval_s=0.05) as run:
        run.step("spin")
        began = time.process_time()
        while time.process_time() - began < 0.5:
            pass
        run.step("hold")
        block = np.ones(256 * MIB, np.uint8)
        time.sleep(0.3)
        del block
    result = run.result
    assert result.area("process_cpu_percent") / 100 > 0.5 * 0.9
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


def test_the_summary_says_what_was_not_measured():
    assert "not measured: no NVIDIA card" in example().summary()
    assert "500 MiB" in example(machine_gpu_mib=np.array([0.0, 500.0, 500.0])).summary()


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

    class Driver:
        nvmlInit = staticmethod(lambda: None)
        nvmlDeviceGetCount = staticmethod(lambda: 2)
        nvmlDeviceGetHandleByIndex = staticmethod(lambda k: Card((k + 1) * 100 * MIB))
        nvmlDeviceGetMemoryInfo = staticmethod(lambda card: card)

    monkeypatch.setitem(sys.modules, "pynvml", Driver)
    assert efficiency.gpu_memory()() == 300
    monkeypatch.setattr(Driver, "nvmlDeviceGetCount", staticmethod(lambda: 0))
    assert efficiency.gpu_memory() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert efficiency.gpu_memory() is None


def test_an_interval_must_be_positive():
    with pytest.raises(ValueError, match="interval_s must be positive, got 0"):
        profile_command(["true"], interval_s=0)
