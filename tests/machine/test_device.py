"""Where a net runs, and what is said when it is full or cannot compute."""

import pytest
import torch

from flare_lib.machine import device
from flare_lib.machine.device import choose_device, limits_of


def test_auto_is_the_gpu_where_there_is_one_that_computes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "_computed_on", lambda _: torch.device("cuda:0"))
    assert choose_device() == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")


def test_auto_leaves_a_gpu_alone_that_torch_was_not_built_for(monkeypatch):
    def fail(_):
        raise torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "_computed_on", fail)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(
        ValueError, match=r"that torch can use here, got cuda \(CUDA error: no kernel image is available"
    ):
        choose_device("cuda")


def test_a_device_that_can_be_used_is_taken_as_it_is():
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")


# one that nobody knows, two that torch was built without here, one of a package that is not installed, one of no values
@pytest.mark.parametrize("device", ["gpu", "cuda:99", "xla", "hpu", "meta"])
def test_a_device_that_is_not_there_is_refused_in_a_line(device):
    with pytest.raises(ValueError, match=f"must be auto or one that torch can use here, got {device}") as refused:
        choose_device(device)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        ("cuda:1", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "^cuda:1 is full; device cpu uses"),
        ("cpu", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "^cpu is full$"),
    ],
)
def test_a_device_without_memory_enough_is_named_in_a_line(device, error, message):
    with pytest.raises(MemoryError, match=message), limits_of(torch.device(device)):
        raise error


def test_a_device_without_an_operation_is_named_in_a_line():
    lacking = NotImplementedError("The operator 'aten::one' is not implemented for the MPS device. If you want\nmore")
    message = r"got mps \(The operator 'aten::one' is .* MPS device\)$"
    with pytest.raises(ValueError, match=message), limits_of(torch.device("mps")):
        raise lacking
    with pytest.raises(NotImplementedError), limits_of(torch.device("cpu")):
        raise lacking


def test_other_errors_of_torch_are_not_taken_for_a_full_device():
    with pytest.raises(RuntimeError, match="mat1 and mat2"), limits_of(torch.device("cpu")):
        torch.ones(2, 3) @ torch.ones(2, 3)
