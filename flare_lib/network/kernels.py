"""Which of torch's own kernels a net computes with when it infers on a processor: the faster of two that agree.

For a batch of one and fewer than about 20,000 channels x slices x rows, the deep stages of any patch, torch's 3-D
convolution leaves oneDNN aside and falls back on a kernel that copies every voxel 27 times. And instance normalisation
is computed as a batch normalisation, though a group normalisation with one channel a group has the same mean and
variance from a quicker kernel. Here both are asked for by name, whatever net it is, and no net is changed. Logits
differ in their last digits (benchmarks/README.md, `kernels`). Large convolutions are computed a few slices at a time,
which gives the same numbers in less memory.

References: PyTorch, aten/src/ATen/native/Convolution.cpp (`use_mkldnn`); Wu and He, Group Normalization, ECCV 2018
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from flare_lib.machine.device import has_x86_onednn
from flare_lib.machine.precision import Precision

PIECE_BYTES = 16 * 2**20  # of the input: oneDNN computes on copies in its own order, which are as large


@contextmanager
def inferring(device: torch.device, precision: Precision) -> Iterator[None]:
    """Within the block, nets on `device` infer: in this number format, without gradients, by the faster kernels.

    The kernels are chosen for float32 on an x86 processor where torch has oneDNN and may use it; elsewhere torch
    chooses, as always.
    """
    chosen = device.type == "cpu" and precision.name == "float32" and has_x86_onednn()
    with torch.inference_mode(), precision.autocast(device), _Chosen() if chosen else nullcontext():
        yield


class _Chosen(TorchFunctionMode):
    """Takes the place of 3-D convolutions and instance normalisations; it knows no gradients."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        other = _REPLACED.get(func)
        answer = None if other is None else other(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if answer is None else answer


def _conv3d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """Return oneDNN's convolution of a batch (B, C, Z, Y, X), a few slices at a time; None for what torch decides."""
    if x.ndim != 5 or isinstance(padding, str) or not _all_float32(x, weight):
        return None
    padding, stride, dilation = (([n] * 3 if isinstance(n, int) else [*n]) for n in (padding, stride, dilation))
    step, reach = stride[0], dilation[0] * (weight.shape[2] - 1)  # of the windows along z
    depth, n_out = x.shape[2], (x.shape[2] + 2 * padding[0] - reach - 1) // step + 1
    n_slices = max(1, int(PIECE_BYTES / x.nbytes * n_out))
    if n_slices >= n_out or padding[0] > reach:  # it is one piece, or there are windows that see no slice at all
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, dilation, groups)
    answer = torch.empty(0)
    for start in range(0, n_out, n_slices):
        stop = min(start + n_slices, n_out)
        first, last = start * step - padding[0], (stop - 1) * step - padding[0] + reach  # that the windows see
        seen = x[:, :, max(first, 0) : last + 1]
        seen = F.pad(seen, (0, 0, 0, 0, max(-first, 0), max(last + 1 - depth, 0)))
        part = torch.mkldnn_convolution(seen, weight, bias, [0, *padding[1:]], stride, dilation, groups)
        if not answer.numel():
            answer = part.new_empty((*part.shape[:2], n_out, *part.shape[3:]))
        answer[:, :, start:stop] = part
    return answer


def _instance_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor | None:
    """Return the normalisation of every channel by its own mean and SD; None where other statistics are asked for.

    A channel of a single voxel, which torch refuses, is left to torch, too.
    """
    if running_mean is not None or not use_input_stats or x.ndim != 5 or x[0, 0].numel() < 2 or not _all_float32(x):
        return None
    return F.group_norm(x, x.shape[1], weight, bias, eps)


def _all_float32(*tensors: torch.Tensor) -> bool:
    return all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)


_REPLACED: dict[Any, Callable[..., torch.Tensor | None]] = {F.conv3d: _conv3d, F.instance_norm: _instance_norm}
