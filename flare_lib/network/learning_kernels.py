"""Which of torch's own kernels a net learns with on a processor: the faster of two that agree.

Half of a step goes into the gradients of the convolutions' weights. oneDNN sums these up faster from copies that lie
channels last; nothing else of a step gains by them. A convolution's answer is torch's own to the last bit, and its
gradients are rounded no worse. Only for a batch of one that torch would keep from oneDNN (see `kernels`) is everything
oneDNN's, and differs in its last digits.

In bfloat16, torch chooses here, except for convolutions whose window is deeper than the input. To sum up the gradient
of their weights, oneDNN reads memory that nobody has written, and now and then finds infinity there. They are computed
in float32: they belong to the smallest maps of a net.

Reference: PyTorch, aten/src/ATen/native/Convolution.cpp (`use_mkldnn`)
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from flare_lib.machine.precision import Precision
from flare_lib.network.kernels import instance_norm
from flare_lib.network.replaced_functions import AUTOCAST, Replaced, all_in, convolution, replacing

LEAST_VOXELS = 1000  # of a batch: below, copying the weights takes longer than summing up their gradients
_LEFT_ASIDE = 20480  # channels x slices x rows up to which torch leaves oneDNN aside for a batch of one


@contextmanager
def learning(device: torch.device, precision: Precision) -> Iterator[None]:
    """Within the block, what nets on `device` compute is to be learnt from: in this number format, by faster kernels.

    Only the way from images to logits needs to be in the block; the way back, the loss's `backward()`, finds its
    kernels itself. They are chosen where those of `inferring` are, for bfloat16 a single one. What those for float32
    give can be differentiated once; a second time raises torch's RuntimeError.
    """
    with precision.autocast(device), replacing(_IN_LEARNING, device, precision):
        yield


def _learnt_conv3d(*arguments: Any, **named: Any) -> torch.Tensor | None:
    """Return torch's convolution of a batch (B, C, Z, Y, X), and the weights' gradient channels last.

    Of a batch of one that torch does not give to oneDNN, it is oneDNN's. None where that would not be faster: for
    strides, kernels of one voxel, a single channel, little data in a larger batch, and weights that do not learn; and
    for what torch may refuse.
    """
    asked = convolution(*arguments, **named)
    if asked is None or (asked.stride, asked.dilation, asked.groups) != ([1, 1, 1], [1, 1, 1], 1):
        return None
    input, weight, bias, padding = asked.input, asked.weight, asked.bias, asked.padding
    if not all_in([torch.float32], input, weight, bias) or not (weight.requires_grad and torch.is_grad_enabled()):
        return None
    if weight.shape[1] == 1 or weight.shape[2:].numel() == 1:
        return None
    if min(asked.n_places) < 1 or input.shape[1] != weight.shape[1]:
        return None
    if len(input) == 1 and input.shape[1:4].numel() <= _LEFT_ASIDE:
        return _LoneConvolution.apply(input, weight, bias, padding)
    if len(input) * math.prod(asked.n_places) < LEAST_VOXELS:
        return None
    return _Convolution.apply(input, weight, bias, padding)


class _Convolution(torch.autograd.Function):
    """A convolution with stride 1, whose gradients are computed in the order that is the faster for each."""

    @staticmethod
    def forward(
        input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: list[int]
    ) -> torch.Tensor:
        return F.conv3d(input, weight, bias, padding=padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        input, weight, _, ctx.padding = inputs
        ctx.save_for_backward(input, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        for_input, for_weight, for_bias, _ = ctx.needs_input_grad
        of_input = _gradients(gradient, input, weight, ctx.padding, [for_input, False, False])[0]
        gradient, input, weight = (
            t.contiguous(memory_format=torch.channels_last_3d) for t in (gradient, input, weight)
        )
        _, of_weight, of_bias = _gradients(gradient, input, weight, ctx.padding, [False, for_weight, for_bias])
        return of_input, of_weight, of_bias, None


class _LoneConvolution(_Convolution):
    """The same for a batch of one that torch would keep from oneDNN: oneDNN's, there and back."""

    @staticmethod
    def forward(
        input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: list[int]
    ) -> torch.Tensor:
        return torch.mkldnn_convolution(input, weight, bias, padding, [1, 1, 1], [1, 1, 1], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        own = input.to_mkldnn()  # in oneDNN's layout, which torch gives to no other kernel
        of_input, *others = _gradients(gradient, own, weight, ctx.padding, list(ctx.needs_input_grad[:3]))
        return None if of_input is None else of_input.to_dense(), *others, None


def _gradients(
    gradient: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, padding: list[int], wanted: list[bool]
) -> tuple[torch.Tensor | None, ...]:
    """Return those that are wanted of the gradients of a convolution's input, weights and bias; None for the others."""
    ones, n_out = [1, 1, 1], [len(weight)]
    return torch.ops.aten.convolution_backward(
        gradient, input, weight, n_out, ones, padding, ones, False, [0, 0, 0], 1, wanted
    )


def _conv3d_of_few_slices(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *how: Any, **more: Any
) -> torch.Tensor | None:
    """Return a convolution in float32 if its window has more slices than the input; None for all others."""
    if input.ndim != 5 or weight.ndim != 5 or input.shape[2] >= weight.shape[2]:
        return None
    if not all_in(AUTOCAST, input, weight, bias):
        return None
    with torch.autocast("cpu", enabled=False):
        return F.conv3d(input.float(), weight.float(), None if bias is None else bias.float(), *how, **more)


_IN_LEARNING: Mapping[str, Replaced] = {
    "float32": {F.conv3d: _learnt_conv3d, F.instance_norm: instance_norm},
    "bfloat16": {F.conv3d: _conv3d_of_few_slices},
}
