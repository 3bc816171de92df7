"""The limits of control groups, from files as the kernel writes them."""

import math
import sys

import pytest

from flare_lib.machine.control_groups import free_memory_bytes, n_cores

UNLIMITED = 9223372036854771712  # what version 1 says for none


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


@pytest.fixture
def own(tmp_path):
    """The process is in /job/step of version 2, and in others of version 1."""
    path = tmp_path / "own"
    path.write_text("12:cpu,cpuacct:/c\n7:memory:/a/b:c\n1:name=systemd:/x\n0::/job/step\n")
    return path


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert free_memory_bytes(tmp_path / "none", tmp_path / "own") == math.inf
    assert n_cores(tmp_path / "none", tmp_path / "own") == math.inf


def test_the_tightest_group_from_the_process_up_counts(tmp_path, own):
    write(tmp_path, {"job/step/memory.max": "max", "job/step/memory.current": 100})
    assert free_memory_bytes(tmp_path, own) == math.inf
    write(tmp_path, {"job/memory.max": 1000, "job/memory.current": 300, "memory.max": 5000, "memory.current": 2000})
    assert free_memory_bytes(tmp_path, own) == 700
    write(tmp_path, {"job/step/memory.high": 250})
    assert free_memory_bytes(tmp_path, own) == 150
    write(tmp_path, {"other/memory.max": 10, "other/memory.current": 9})
    assert free_memory_bytes(tmp_path, own) == 150


def test_files_kept_in_memory_are_not_taken_and_less_than_nothing_is_nothing(tmp_path, own):
    write(tmp_path, {"job/memory.max": 1000, "job/memory.current": 900, "job/memory.stat": "anon 5\ninactive_file 30"})
    assert free_memory_bytes(tmp_path, own) == 130
    write(tmp_path, {"job/memory.current": 1200})
    assert free_memory_bytes(tmp_path, own) == 0


def test_a_container_sees_its_own_group_as_the_root(tmp_path):
    write(tmp_path, {"own": "0::/docker/4711", "memory.max": 300, "memory.current": 200, "cpu.max": "50000 20000"})
    assert free_memory_bytes(tmp_path, tmp_path / "own") == 100
    assert n_cores(tmp_path, tmp_path / "own") == 2.5


@pytest.mark.skipif(sys.platform == "win32", reason="no file of Windows has a colon in its name")
def test_version_1_has_a_tree_for_memory_and_other_names(tmp_path, own):
    limit, use = "memory.limit_in_bytes", "memory.usage_in_bytes"
    write(tmp_path, {f"memory/{limit}": UNLIMITED, f"memory/{use}": 10})
    assert free_memory_bytes(tmp_path, own) > 2**62
    write(tmp_path, {f"memory/a/b:c/{limit}": 60, f"memory/a/b:c/{use}": 20})
    assert free_memory_bytes(tmp_path, own) == 40
    write(tmp_path, {"memory/a/b:c/memory.stat": "inactive_file 1\ntotal_inactive_file 3"})  # with the groups below
    assert free_memory_bytes(tmp_path, own) == 43


def test_cores_are_the_quota_of_the_tightest_group(tmp_path, own):
    write(tmp_path, {"job/cpu.max": "max 100000"})
    assert n_cores(tmp_path, own) == math.inf
    write(tmp_path, {"job/cpu.max": "400000 100000", "job/step/cpu.max": "150000 100000"})
    assert n_cores(tmp_path, own) == 1.5
    write(tmp_path, {"cpu/c/cpu.cfs_quota_us": -1, "cpu/c/cpu.cfs_period_us": 100000})
    assert n_cores(tmp_path, own) == 1.5
    write(tmp_path, {"cpu/c/cpu.cfs_quota_us": 100000})
    assert n_cores(tmp_path, own) == 1.0
