"""A device without float64, as Apple's GPUs are, played by the processor under the name of torch's meta device."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")


class There(torch.Tensor):
    """A tensor on that device; its numbers lie in the processor's memory."""

    @staticmethod
    def __new__(cls, numbers):
        if numbers.dtype == torch.float64:
            raise TypeError("the device has no float64")
        form = {"strides": numbers.stride(), "dtype": numbers.dtype, "device": DEVICE}
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, **form)

    def __init__(self, numbers):
        self.numbers = numbers

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        raise RuntimeError("the device is there within WithoutFloat64 alone")


class WithoutFloat64(TorchDispatchMode):
    """Within the block, the device is there: torch computes on it, and is refused what it would be refused."""

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # torch would load its compiler to say so, which takes seconds

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        there = any(isinstance(t, There) for t in given)
        if kwargs.get("device") is not None:
            there, kwargs["device"] = torch.device(kwargs["device"]) == DEVICE, "cpu"
        elif any(isinstance(t, There) != there and t.ndim for t in given):
            raise RuntimeError(f"{operation} is given tensors of two devices")
        args, kwargs = tree_map_only(There, lambda t: t.numbers, (args, kwargs))
        made = operation(*args, **kwargs)
        return tree_map_only(torch.Tensor, There, made) if there else made
