"""Kernels for nbval as forks of a process that has loaded what notebooks import: that takes them longest."""

import os
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess


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

    launch_new_instance(["-f", connection_file, f"--IPKernelApp.parent_handle={os.getppid()}"])
