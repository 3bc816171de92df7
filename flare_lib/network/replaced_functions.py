"""Functions of torch that are computed by others within a block, where these are faster and agree.

Nets call convolutions and normalisations by name, and are not changed: whatever net it is, it then calls the other.
What the other cannot do, or torch would refuse, is left to torch.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from flare_lib.machine.device import has_x86_onednn
from flare_lib.machine.precision import Precision

AUTOCAST = (torch.float32, torch.bfloat16)  # what autocast turns into bfloat16, or leaves so
# {function: another that returns None for what it leaves to torch}
Replaced = Mapping[Any, Callable[..., torch.Tensor | None]]


def replacing(
    replaced: Mapping[str, Replaced], device: torch.device, precision: Precision
) -> AbstractContextManager[object]:
    """Return the context in which nets on `device` compute by what {number format: functions} replaces in theirs.

    It does nothing on anything but an x86 processor where torch has oneDNN and may use it.
    """
    fitting = device.type == "cpu" and precision.name in replaced and has_x86_onednn()
    return _Replacing(replaced[precision.name]) if fitting else nullcontext()


class _Replacing(TorchFunctionMode):
    """Computes functions of torch by others."""

    def __init__(self, replaced: Replaced) -> None:
        super().__init__()
        self.replaced = replaced

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        other = self.replaced.get(func)
        answer = None if other is None else other(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if answer is None else answer


class Convolution(NamedTuple):
    """What `conv3d` is asked for: a batch (B, C, Z, Y, X), its weights, and settings along z, y and x."""

    input: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    @property
    def reach(self) -> list[int]:
        """How many voxels a window reaches beyond its first, along z, y and x."""
        return [d * (n - 1) for d, n in zip(self.dilation, self.weight.shape[2:], strict=True)]

    @property
    def n_places(self) -> list[int]:
        """At how many voxels of the padded image a window may begin; below 1 where it does not fit in."""
        axes = zip(self.input.shape[2:], self.padding, self.reach, strict=True)
        return [n + 2 * pad - reach for n, pad, reach in axes]


def convolution(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Convolution | None:
    """Return what these arguments of `conv3d` ask for; None for what is no batch, or what torch may refuse."""
    stride, padding, dilation = _along_zyx(stride, 1), _along_zyx(padding, 0), _along_zyx(dilation, 1)
    if not (stride and padding and dilation) or input.ndim != 5 or weight.ndim != 5:
        return None
    return Convolution(input, weight, bias, stride, padding, dilation, groups)


def _along_zyx(setting: Any, least: int) -> list[int] | None:
    """Return a convolution's setting for three axes, given for each or for all; None for what torch may refuse."""
    try:
        along = [operator.index(n) for n in (setting if isinstance(setting, Sequence) else [setting])]
    except TypeError:  # "same", for example
        return None
    along = along * 3 if len(along) == 1 else along
    return along if len(along) == 3 and min(along) >= least else None


def all_in(formats: Sequence[torch.dtype], *tensors: torch.Tensor | None) -> bool:
    """Return whether all tensors that are there lie on the processor, in one of these formats."""
    return all(t is None or (t.dtype in formats and t.device.type == "cpu") for t in tensors)
