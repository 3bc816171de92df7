"""Kernels as forks of a process that has loaded what notebooks import: that takes them longest. Linux only."""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess

import pytest

OF_NOTEBOOKS = ("flare_lib.inference.coarse_to_fine", "ipykernel.kernelapp", "matplotlib.pyplot", "numba", "pytest")


class Kernel(ForkServerProcess):
    """A kernel's process with what jupyter_client asks of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)


def server_with(*modules: str) -> ForkServerContext:
    """Return a way to fork a process that has loaded these modules; it is started here, without the tests' Triton.

    If something else has started it before (from Python 3.14 on, it is the usual way), what is forked loads all of that
    itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)  # torch's compiler loads Triton, as users have it
        patch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # matplotlib asks when it is loaded
        forkserver.ensure_running()
    return context


def launch_kernel(
    context: ForkServerContext, command: Sequence[str], *, env: Mapping[str, str], cwd: str, **_streams: object
) -> Kernel:
    """Start a kernel as `jupyter_client.launcher.launch_kernel` does, but for its streams, which nobody reads."""
    connection_file = command[command.index("-f") + 1]
    ready, within = context.Pipe(duplex=False)
    kernel = Kernel(target=_be_a_kernel, args=(connection_file, dict(env), str(cwd), within))
    kernel.start()
    within.close()  # so that a kernel that dies is not waited for
    with ready:
        ready.recv()
    return kernel


def _be_a_kernel(connection_file: str, env: Mapping[str, str], cwd: str, ready: Connection) -> None:
    os.setsid()  # it is ended together with its process group, which must not be that of the tests
    ready.send(True)
    os.environ.clear()
    os.environ.update(env)
    os.environ.pop("TRITON_INTERPRET", None)  # of the tests' own process
    os.chdir(cwd)
    from ipykernel.kernelapp import launch_new_instance

    # a kernel of one's own machine is not in need of encryption, of which it would warn
    quiet = "--IPKernelApp.log_level=ERROR"
    launch_new_instance(["-f", connection_file, f"--IPKernelApp.parent_handle={os.getppid()}", quiet])
