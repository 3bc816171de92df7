"""The machine in words."""

import platform
import subprocess
from pathlib import Path

import psutil
import torch

from flare_lib.machine import device
from flare_lib.machine.hardware import describe_machine


def test_the_machine_is_told_with_what_its_nets_would_compute_in(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 5)
    rows = describe_machine()
    assert rows["device"] == "cpu"
    assert rows["threads"] == "3 of 5 cores"
    assert rows["precision"] == "float32 (oneDNN has no kernels for bfloat16 on this processor)"
    assert rows["torch, Python"] == f"{torch.__version__}, {platform.python_version()}"
    assert float(rows["memory"].split()[0]) > 0


def test_a_mac_without_sysctl_on_its_path_is_told_by_its_architecture(monkeypatch):
    def not_there(command, **_how):
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(Path, "exists", lambda _: False)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(subprocess, "run", not_there)
    assert describe_machine()["processor"].startswith("arm64, ")


def test_a_gpu_is_told_by_name_with_its_memory(monkeypatch):
    class Properties:
        name, total_memory = "Tesla T4", 15 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "_computed_on", lambda _: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    rows = describe_machine()
    assert rows["device"] == "cuda: Tesla T4, 15.0 GiB"
    assert rows["precision"] == "float16 (compute capability 7.5 has float16, bfloat16 from 8.0 on)"
