"""Functions are replaced only where they are meant to be, and within the block alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch_kernels import CPU, operations, random, small_net

from flare_lib.machine.precision import FLOAT32, Precision
from flare_lib.network.kernels import inferring


def inferred(run, precision=FLOAT32, device=CPU):
    with inferring(device, precision):
        return run()


@pytest.mark.parametrize("why", ["another number format", "no oneDNN", "another device"])
def test_elsewhere_torch_chooses(monkeypatch, why):
    precision = Precision("float16", "a test") if why == "another number format" else FLOAT32
    device = torch.device("cuda") if why == "another device" else CPU
    if why == "no oneDNN":
        monkeypatch.setattr("flare_lib.network.replaced_functions.has_x86_onednn", lambda: False)
    x = random(1, 4, 5, 6, 7)
    count = operations(lambda: inferred(lambda: F.instance_norm(x), precision, device))
    assert "native_batch_norm" in count
    assert "native_group_norm" not in count


def test_the_net_and_what_is_computed_after_the_block_are_untouched():
    net = small_net()
    before, x = copy.deepcopy(net.state_dict()), random(1, 2, 8, 12, 16).requires_grad_()
    inferred(lambda: net.finest(x.detach()))
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())
    net.finest(x).square().mean().backward()  # a convolution that knows no gradients would raise an error
    assert x.grad is not None
    assert all(p.grad is not None and p.grad.any() for name, p in net.named_parameters() if "heads.1" not in name)
