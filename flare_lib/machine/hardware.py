"""This computer, described in words: the first thing to put in a report of a slow or strange run."""

import platform
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from flare_lib.machine.device import choose_device
from flare_lib.machine.precision import choose_precision


def describe_machine() -> dict[str, str]:
    """Return {what: value}: the hardware, the device that `auto` picks, its number format and why, and the versions."""
    device = choose_device("auto")
    precision = choose_precision("auto", device=device)
    memory = psutil.virtual_memory()
    rows = {
        "processor": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": f"{torch.get_num_threads()} of {psutil.cpu_count()} cores",
        "memory": f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB of them free",
        "device": str(device),
        "precision": f"{precision.name} ({precision.reason})",
        "torch, Python": f"{torch.__version__}, {platform.python_version()}",
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        rows["device"] = f"{device}: {gpu.name}, {gpu.total_memory / 2**30:.1f} GiB"
    return rows


def _processor() -> str:
    """Return the processor's name, or its architecture if the system does not give a name."""
    name = ""
    if (listed := Path("/proc/cpuinfo")).exists():  # Linux
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line for line in lines if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else ""
    elif platform.system() == "Darwin":
        with suppress(OSError):  # where sysctl is not on the PATH
            told = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
            name = told.stdout.strip()
    return name or platform.processor() or platform.machine()
