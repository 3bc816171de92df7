"""Which of torch's own kernels a net infers with on a processor: the faster of two that agree.

For a batch of one and at most 20,480 channels x slices x rows, the deep stages of any patch, torch's 3-D convolution
leaves oneDNN aside and falls back on a kernel that copies every voxel 27 times. And instance normalisation is computed
as a batch normalisation, though a group normalisation with one channel a group has the same mean and variance from a
quicker kernel. Here both are asked for by name, whatever net it is, and no net is changed. Logits differ in their last
digits (benchmarks/README.md, `kernels`). Large convolutions are computed a few slices at a time, which gives the same
numbers in less memory. In bfloat16 torch leaves nothing aside, but oneDNN copies every map into an order of its own and
back; maps that lie channels last (B, Z, Y, X, C) it computes where they are.

References: PyTorch, aten/src/ATen/native/Convolution.cpp (`use_mkldnn`); Wu and He, Group Normalization, ECCV 2018
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from flare_lib.machine.precision import Precision
from flare_lib.network.replaced_functions import AUTOCAST, Replaced, all_in, convolution, replacing

PIECE_BYTES = 8 * 2**20  # read or written: oneDNN computes on copies in its own order, which are as large


def slices_at_a_time(slice_bytes: int) -> int:
    """Return how many slices, or channels, of so many bytes are computed together: at least 1."""
    return max(1, int(PIECE_BYTES / slice_bytes))


@contextmanager
def inferring(device: torch.device, precision: Precision) -> Iterator[None]:
    """Within the block, nets on `device` infer: in this number format, without gradients, by the faster kernels.

    The kernels are chosen for float32 and bfloat16 on an x86 processor where torch has oneDNN and may use it;
    elsewhere torch chooses, as always. In bfloat16, answers lie channels last.
    """
    with torch.inference_mode(), precision.autocast(device), replacing(_IN_INFERENCE, device, precision):
        yield


def plain_float32(logits: torch.Tensor) -> torch.Tensor:
    """Return logits as float32 in the plain order (B, C, Z, Y, X), in which they are summed up fastest."""
    return logits.to(torch.float32, memory_format=torch.contiguous_format)


def _conv3d(*arguments: Any, **named: Any) -> torch.Tensor | None:
    """Return oneDNN's convolution of a batch (B, C, Z, Y, X), a few slices at a time; None for what torch decides."""
    asked = convolution(*arguments, **named)
    if asked is None or not asked.input.numel() or min(asked.n_places) < 1:
        return None
    if not all_in([torch.float32], asked.input, asked.weight, asked.bias):
        return None
    (input, weight, bias, stride, padding, dilation, groups), reach = asked, asked.reach[0]
    n_out, *in_slice = ((n - 1) // step + 1 for n, step in zip(asked.n_places, stride, strict=True))
    read, written = stride[0] * input.nbytes // input.shape[2], 4 * len(input) * len(weight) * math.prod(in_slice)
    n_slices = slices_at_a_time(max(read, written))
    if n_slices >= n_out or padding[0] > reach:  # it is one piece, or there are windows that see no slice at all
        return torch.mkldnn_convolution(input, weight, bias, padding, stride, dilation, groups)
    answer = input.new_empty((len(input), len(weight), n_out, *in_slice))
    for start in range(0, n_out, n_slices):
        stop = min(start + n_slices, n_out)
        first, last = (k * stride[0] - padding[0] for k in (start, stop - 1))  # slices at which a window begins
        last += reach
        above, below = max(-first, 0), max(last + 1 - input.shape[2], 0)
        seen = input[:, :, max(first, 0) : last + 1]
        seen = F.pad(seen, (0, 0, 0, 0, above, below)) if above or below else seen
        part = torch.mkldnn_convolution(seen, weight, bias, [0, *padding[1:]], stride, dilation, groups)
        answer[:, :, start:stop] = part
    return answer


def _conv3d_channels_last(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *others: Any, **named: Any
) -> torch.Tensor | None:
    """Return what autocast makes of a convolution of a batch, in bfloat16, from maps and to one that lie channels last.

    None where autocast is off, and for what it would not turn into bfloat16.
    """
    fitting = torch.is_autocast_enabled("cpu") and input.ndim == weight.ndim == 5
    if not fitting or not all_in(AUTOCAST, input, weight, bias):
        return None
    if input.shape[1] == 1 and input.shape[2] < weight.shape[2]:  # there, oneDNN reads beyond a single channel
        return None
    # as they are, if they lie so already
    input, weight = (t.to(torch.bfloat16, memory_format=torch.channels_last_3d) for t in (input, weight))
    return F.conv3d(input, weight, bias, *others, **named)


def instance_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor | None:
    """Return the normalisation of every channel by its own mean and SD; None where other statistics are asked for.

    What torch refuses, like a channel of a single voxel, is left to torch, and so is an empty batch.
    """
    if running_mean is not None or not use_input_stats or input.ndim != 5:
        return None
    if not (all_in(AUTOCAST, input) and all_in([torch.float32], weight, bias)):
        return None
    n_channels = input.shape[1]
    fitting = all(scale is None or scale.shape == (n_channels,) for scale in (weight, bias))
    if not fitting or not input.numel() or input.shape[2:].numel() < 2:
        return None
    return F.group_norm(input, n_channels, weight, bias, eps)


_IN_INFERENCE: Mapping[str, Replaced] = {
    "float32": {F.conv3d: _conv3d, F.instance_norm: instance_norm},
    "bfloat16": {F.conv3d: _conv3d_channels_last, F.instance_norm: instance_norm},
}
