"""Huge pages: asked for by the command, for tensors that are large, unless the user says no."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flare_lib import cli
from flare_lib.machine.huge_pages import REQUEST, ask_for_huge_pages


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_what_the_user_has_set_stays(monkeypatch, before, after):
    monkeypatch.delenv(REQUEST, raising=False)
    if before is not None:
        monkeypatch.setenv(REQUEST, before)
    ask_for_huge_pages()
    assert os.environ[REQUEST] == after


def test_the_command_asks_before_it_does_anything(monkeypatch):
    monkeypatch.setenv(REQUEST, "0")  # so that it is as before after this test
    monkeypatch.delenv(REQUEST)
    seen = []
    monkeypatch.setattr(cli, "run", lambda arguments: seen.append(os.environ.get(REQUEST)) or 0)
    with pytest.raises(SystemExit):
        cli.main()
    assert seen == ["1"]


@pytest.mark.slow("starts a program that imports torch")
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="only Linux has them")
@pytest.mark.parametrize("wish", ["1", "0"])
def test_torch_asks_the_system_for_large_tensors_alone(wish):
    script = """
import re, torch
small, large = torch.ones(2**18), torch.ones(2**23)  # 1 and 32 MiB
flags = []
for tensor in (small, large):
    middle = tensor.data_ptr() + tensor.nbytes // 2
    for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read())[1:]:
        first, last = (int(end, 16) for end in part.split()[0].split("-"))
        if first <= middle < last:
            flags.append("hg" in part.split("VmFlags:")[1].split())
print(flags)
"""
    environment = os.environ | {REQUEST: wish}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[False,", "True]" if wish == "1" else "False]"]
