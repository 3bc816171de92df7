"""What every test shares: the `flare` command, and property tests that draw the same examples on every run."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported: its kernels then run on the CPU

import pytest
from hypothesis import HealthCheck, settings

from flare_lib import cli

settings.register_profile(
    "derandomised",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=False,
)
settings.load_profile("derandomised")


@pytest.fixture
def flare(capsys):
    """Run a command; returns its exit code, the lines of stdout and those of stderr."""

    def run(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return run
