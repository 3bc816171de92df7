"""Several processes as one: two with a batch each take the step that one takes with both batches."""

import os
import socket
import sys

import pytest
import torch

from flare_lib.machine.distributed import (
    all_reduce_sum,
    average_gradients,
    end_distributed,
    init_distributed,
    is_first_process,
    main_process_first,
    rank_and_count,
)
from flare_lib.network.unet import UNet
from flare_lib.training.loop import train_step

CPU = torch.device("cpu")

KINDS = ("kl", "urpc")  # both in the same processes


def take_steps(folder, torchrun):
    """Train nets, on a share of each batch if torchrun's variables say that there are others; save them."""
    os.environ.update(torchrun, GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    assert init_distributed(CPU) == CPU
    rank, count = rank_and_count()
    for kind in KINDS:
        torch.manual_seed(0)
        net = UNet(features_per_stage=(4, 6, 8), strides=((2, 2, 2), (1, 2, 2)), n_heads=2)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.99, nesterov=True)
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            image = torch.randn(4, 1, 4, 8, 12, generator=generator)
            target = torch.randint(0, 14, (4, 4, 8, 12), generator=generator)
            unlabelled = torch.randn(2, 1, 4, 8, 12, generator=generator)
            parts = {"image": image, "target": target, "unlabelled": unlabelled}
            mine = {k: t[rank * len(t) // count : (rank + 1) * len(t) // count] for k, t in parts.items()}
            train_step(net, optimizer, mine, consistency=kind, consistency_weight=0.5)
        torch.save(net.state_dict(), folder / f"{kind}-{count}-{rank}.pt")
    with main_process_first():
        pass
    end_distributed()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def trained(fresh_processes, tmp_path_factory):
    """A folder with the nets that one process trained, and those that two trained together."""
    folder = tmp_path_factory.mktemp("trained")
    two = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with fresh_processes(3) as pool:
        torchruns = [{}, *(two | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01")]
        for done in [pool.submit(take_steps, folder, torchrun) for torchrun in torchruns]:
            done.result(900)  # the limit is against hanging; a busy machine is slow
    return folder


@pytest.mark.slow("three processes that train")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="gloo over the loopback device, as Linux names it")
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_take_the_step_of_one_with_twice_the_batch(trained, kind):
    one, *two = (torch.load(trained / f"{kind}-{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    for name, weight in one.items():
        for other in two:
            torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-5)
        assert torch.equal(two[0][name], two[1][name])


def test_the_first_process_is_known_by_its_rank_before_it_joins_the_others(monkeypatch):
    found = []
    for rank in ("0", "1", "10"):
        monkeypatch.setenv("RANK", rank)
        found.append(is_first_process())
    monkeypatch.delenv("RANK")
    assert [*found, is_first_process()] == [True, False, False, True]


def test_alone_nothing_happens(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert init_distributed(torch.device("cpu")) == torch.device("cpu")
    assert rank_and_count() == (0, 1)
    tensor = torch.ones(3)
    assert all_reduce_sum(tensor) is tensor
    net = torch.nn.Linear(2, 1)
    net(torch.ones(1, 2)).sum().backward()
    before = net.weight.grad.clone()
    average_gradients(net)
    assert torch.equal(net.weight.grad, before)
    with main_process_first():
        pass
