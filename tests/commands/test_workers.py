"""Who does the work: what the options open."""

import pytest

from flare_lib.commands.workers import chosen_pool
from flare_lib.machine import cluster
from flare_lib.machine.processes import Processes


def test_this_process_is_no_pool_and_processes_are_one():
    with chosen_pool(0, None) as pool:
        assert pool is None
    with chosen_pool(3, None) as pool:
        assert isinstance(pool, Processes)
        assert pool.n_slots() == 3


def test_a_scheduler_comes_before_processes_and_its_page_is_told(monkeypatch, capsys):
    class Workers:
        dashboard = "http://there/status"

        def __init__(self, address):
            self.address = address

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(cluster, "DaskWorkers", Workers)
    with chosen_pool(2, "tcp://there:1") as pool:
        assert pool.address == "tcp://there:1"
    assert capsys.readouterr().err == "note: Dask shows what is going on at http://there/status\n"


@pytest.mark.parametrize("workers", [0, 2])
def test_cases_are_checked_by_whom_one_likes(flare, ct_path, tmp_path, workers):
    code, out, _ = flare("check", tmp_path, "--workers", workers)
    assert (code, out[-1]) == (0, "1 cases, 0 of them with labels: none with problems")
