"""Work in threads: every share once, in order, and torch's own number of threads is left as it was."""

import math
import os
import threading

import numpy as np
import pytest
import torch

from flare_lib.ct.resample import resample_trilinear
from flare_lib.inference.slice_interpolation import resize_argmax
from flare_lib.machine import control_groups
from flare_lib.machine.threads import SHARES_PER_THREAD, keep_to_quota, map_shares


@pytest.fixture(params=[1, 3])
def n_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_share_is_done_once_and_the_results_come_in_order(n_threads):
    n_shares = 1 if n_threads == 1 else SHARES_PER_THREAD * n_threads
    assert map_shares(lambda share, n: (share, n)) == [(share, n_shares) for share in range(n_shares)]


def test_as_many_threads_work_as_torch_uses(n_threads):
    all_there = threading.Barrier(n_threads, timeout=30)

    def work(share, _n_shares):
        if share < n_threads:
            all_there.wait()  # ends when that many threads are waiting
        return threading.get_ident()

    there = set(map_shares(work))
    assert len(there) == n_threads
    assert (threading.get_ident() in there) == (n_threads == 1)


def test_an_exception_of_a_share_is_raised(n_threads):
    with pytest.raises(ZeroDivisionError):
        map_shares(lambda share, n_shares: 1 // (n_shares - 1 - share))


def threads_after_loops():
    """Return torch's number of threads, which is set to one, after each of the compiled ways to resample."""
    torch.set_num_threads(1)
    resample_trilinear(np.zeros((4, 5, 6), np.int16), (6, 7, 8))
    n_threads = [torch.get_num_threads()]
    for method in ("numba_dense", "numba_pruned"):
        resize_argmax(torch.rand(3, 4, 5, 6), (7, 8, 9), method=method)
        n_threads.append(torch.get_num_threads())
    return n_threads


@pytest.mark.slow("a process of its own")
def test_what_is_compiled_leaves_torchs_number_of_threads_alone(fresh_processes):
    with fresh_processes(1) as pool:  # numba's threads would start once a process
        assert pool.submit(threads_after_loops).result() == [1, 1, 1]


@pytest.mark.parametrize(
    ("share", "before", "after"),
    [(2.5, None, "2"), (0.5, None, "1"), (2.5, "7", "7"), (64.0, None, None), (math.inf, None, None)],
)
def test_a_containers_share_of_the_cores_is_the_number_of_threads_unless_the_user_says_another(
    monkeypatch, share, before, after
):
    monkeypatch.setenv("OMP_NUM_THREADS", "0")  # so that it is as before after this test
    monkeypatch.delenv("OMP_NUM_THREADS")
    if before:
        monkeypatch.setenv("OMP_NUM_THREADS", before)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: range(64), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(control_groups, "n_cores", lambda: share)
    keep_to_quota()
    assert os.environ.get("OMP_NUM_THREADS") == after
