"""Functions of torch that are computed by others within a block, where these are faster and agree.

Nets call convolutions and normalisations by name, and are not changed: whatever net it is, it then calls the other.
What the other cannot do, or torch would refuse, is left to torch.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

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


def along_zyx(setting: Any, least: int) -> list[int] | None:
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
