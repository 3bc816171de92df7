"""Memory: what a piece of work holds at most, and what is left for others."""

import numpy as np
import psutil
import pytest

from flare_lib.machine.memory import free_memory_mib, watch_memory


def test_the_most_that_was_held_is_remembered():
    with watch_memory() as memory:
        before = memory.peak_mib
        block = np.ones((64, 2**20), np.uint8)  # 64 MiB, written to
        memory.look()
        del block
    assert 60 < memory.peak_mib - before < 160
    now = psutil.Process().memory_info().rss / 2**20
    assert memory.peak_mib >= now - 1


@pytest.mark.parametrize("names", [("memory.max", "memory.current")])
def test_the_limit_of_a_control_group_counts(tmp_path, names):
    most, used = (tmp_path / name for name in names)
    most.write_text(f"{300 * 2**20}\n")
    used.write_text(f"{200 * 2**20}\n")
    assert free_memory_mib(tmp_path) == 100
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {30 * 2**20}\n")  # given back when it is needed
    assert free_memory_mib(tmp_path) == 130
    used.write_text(f"{400 * 2**20}\n")
    assert free_memory_mib(tmp_path) == 0
    most.write_text("max\n")
    assert free_memory_mib(tmp_path) > 0


def test_older_control_groups_have_other_names(tmp_path):
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{30 * 2**20}\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text(f"{20 * 2**20}\n")
    assert free_memory_mib(tmp_path) == 10
