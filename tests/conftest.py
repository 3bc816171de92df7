"""What every test shares: the `flare` command, processes, and property tests with the same examples on every run."""

import gc
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported: its kernels then run on the CPU

import pytest
from hypothesis import HealthCheck, settings

from flare_lib import cli
from flare_lib.machine.extras import name_the_user
from flare_lib.machine.processes import Processes

settings.register_profile(
    "derandomised",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=False,
)
settings.load_profile("derandomised")
name_the_user()  # tests load MONAI by themselves


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Load all tests without looking for garbage among their modules' millions of objects, then or ever after."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """What takes longest comes first, so that no core waits for it at the end: notebooks, files with slow tests."""
    notebooks = {item.path for item in items if item.path.suffix == ".ipynb"}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in notebooks, item.path not in slow))


class ForkedKernels:
    """Forks nbval's kernels, which start before a notebook's first cell; those that the library starts are its own."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        if item.path.suffix != ".ipynb":
            return (yield)
        from forked_kernels import launch_kernel
        from jupyter_client.provisioning import local_provisioner

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local_provisioner, "launch_kernel", partial(launch_kernel, _forkserver()))
            return (yield)


def pytest_configure(config):
    """Have kernels forked where the notebooks lie: a hook of this file would concern the tests beside it alone."""
    if sys.platform == "linux":
        config.pluginmanager.register(ForkedKernels(), "forked_kernels")


@cache
def _forkserver():
    """Return a way to fork a process that has loaded what training and notebooks load. Linux only."""
    from forked_kernels import OF_NOTEBOOKS, server_with

    training = ["torch._dynamo", "torch.distributed.nn", "torch.utils.tensorboard", "flare_lib.training.loop"]
    return server_with(*OF_NOTEBOOKS, "monai.transforms", *training)


@pytest.fixture(scope="session", autouse=True)
def neither_forked_nor_killed():
    """Refuse to fork this process, which has the threads of many libraries: workers of pytest that did were lost.

    And refuse to let it kill itself, as some of the tests' pieces of work do to the process that they are given to.
    Others may: programs that a test starts, and `fresh_processes`.
    """
    kill = os.kill

    def refuse_to_fork():
        raise RuntimeError("pytest's own process must not be forked: let one of fresh_processes do it")

    def kill_others(pid, signum):
        if pid == os.getpid() and signum == 9:
            raise RuntimeError("pytest's own process must not be killed: give what kills to another")
        kill(pid, signum)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fork", refuse_to_fork, raising=False)
        patch.setattr(os, "kill", kill_others)
        yield


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
    """Return a `ProcessPoolExecutor(n)` of new processes, for what this one must not do or has perhaps done before.

    On Linux they are forks of a process that has loaded torch and what training loads with it.
    """
    context = _forkserver() if sys.platform == "linux" else multiprocessing.get_context("spawn")
    # a process that does not come from a server without the variable loads Triton without it, too
    as_users = "import os; os.environ.pop('TRITON_INTERPRET', None)"
    return partial(ProcessPoolExecutor, mp_context=context, initializer=exec, initargs=(as_users,))


@pytest.fixture
def flare(capsys):
    """Run a command; returns its exit code, the lines of stdout and those of stderr."""

    def run(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("MPLBACKEND", raising=False)  # a command that draws takes it out of this process for good
            code = cli.run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return run
