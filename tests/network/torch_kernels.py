"""What the tests of torch's kernels share: random tensors, a small net, and which operations torch was asked for."""

import pytest
import torch

from flare_lib.machine.device import has_x86_onednn
from flare_lib.machine.precision import Precision
from flare_lib.network.unet import UNet

CPU = torch.device("cpu")
BFLOAT16 = Precision("bfloat16", "a test")
onednn = pytest.mark.skipif(not has_x86_onednn(), reason="elsewhere the kernels are torch's own choice")


def random(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_net():
    torch.manual_seed(0)
    net = UNet(2, 5, (4, 6, 8), ((1, 2, 2), (2, 2, 1)), n_heads=2, up_and_head_bias=True)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)  # no bias is 0, no scale 1
    return net


def operations(run):
    """Return {name: how often} of the operations that `run` calls."""
    with torch.profiler.profile() as profile:
        run()
    return {event.key.removeprefix("aten::"): event.count for event in profile.key_averages()}
