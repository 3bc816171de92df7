"""What every test shares: the `flare` command, and property tests that draw the same examples on every run."""

import gc
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported: its kernels then run on the CPU

import pytest
from hypothesis import HealthCheck, settings

from flare_lib import cli
from flare_lib.machine.processes import Processes

gc.disable()  # until all modules are loaded: few of their objects ever become garbage

settings.register_profile(
    "derandomised",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=False,
)
settings.load_profile("derandomised")


def pytest_collection_finish():
    """All modules are loaded and stay: no later search for garbage needs to go through their millions of objects."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def quick_phantoms():
    """Phantoms are drawn in voxels of 8 mm, not of 2.5: for tests of what is done with them. Drawing takes longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flare_lib.synthetic.phantom._DRAWING_MM", 8.0)
        yield


@pytest.fixture(scope="session")
def two_processes():
    """Two processes that work side by side, for all tests of what they do: loading the library takes them longest."""
    with Processes(2, n_threads=1) as pool:
        yield pool


@pytest.fixture(scope="session")
def fresh_processes():
    """Return a `ProcessPoolExecutor(n)` with new processes, for what must not happen, or not first happen, in this one.

    On Linux they are forks of one that has loaded torch and what training loads with it: that takes longest.
    """
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        from multiprocessing import forkserver

        with_training = ["torch._dynamo", "torch.distributed.nn", "torch.utils.tensorboard", "flare_lib.training.loop"]
        context.set_forkserver_preload(["numba", "pytest", *with_training])
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("TRITON_INTERPRET")  # torch's compiler loads Triton, as users have it
            forkserver.ensure_running()
    return partial(ProcessPoolExecutor, mp_context=context)


@pytest.fixture
def flare(capsys):
    """Run a command; returns its exit code, the lines of stdout and those of stderr."""

    def run(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return run
