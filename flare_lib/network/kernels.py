"""Which of torch's own kernels a net computes with on a processor: the faster of two that agree.

**Inference.** For a batch of one and at most 20,480 channels x slices x rows, the deep stages of any patch, torch's 3-D
convolution leaves oneDNN aside and falls back on a kernel that copies every voxel 27 times. And instance normalisation
is computed as a batch normalisation, though a group normalisation with one channel a group has the same mean and
variance from a quicker kernel. Here both are asked for by name, whatever net it is, and no net is changed. Logits
differ in their last digits (benchmarks/README.md, `kernels`). Large convolutions are computed a few slices at a time,
which gives the same numbers in less memory. In bfloat16 torch leaves nothing aside, but oneDNN copies every map into an
order of its own and back; maps that lie channels last (B, Z, Y, X, C) it computes where they are.

**Training.** Half of a step goes into the gradients of the convolutions' weights. oneDNN sums these up faster from
copies that lie channels last; nothing else of a step gains by them. A convolution's answer is torch's own to the last
bit, and its gradients are rounded no worse. Only for a batch of one that torch would keep from oneDNN, as above, is
everything oneDNN's, and differs in its last digits.

In bfloat16, torch chooses here, except for convolutions whose window is deeper than the input. To sum up the gradient
of their weights, oneDNN reads memory that nobody has written, and now and then finds infinity there. They are computed
in float32: they belong to the smallest maps of a net.

References: PyTorch, aten/src/ATen/native/Convolution.cpp (`use_mkldnn`); Wu and He, Group Normalization, ECCV 2018
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from flare_lib.machine.device import has_x86_onednn
from flare_lib.machine.precision import Precision

PIECE_BYTES = 8 * 2**20  # read or written: oneDNN computes on copies in its own order, which are as large
LEAST_VOXELS = 1000  # of a batch: below, copying the weights takes longer than summing up their gradients
_AUTOCAST = (torch.float32, torch.bfloat16)  # what it turns into bfloat16, or leaves so
_LEFT_ASIDE = 20480  # channels x slices x rows up to which torch leaves oneDNN aside for a batch of one


def slices_at_a_time(slice_bytes: int) -> int:
    """Return how many slices, or channels, of so many bytes are computed together: at least 1."""
    return max(1, int(PIECE_BYTES / slice_bytes))


@contextmanager
def inferring(device: torch.device, precision: Precision) -> Iterator[None]:
    """Within the block, nets on `device` infer: in this number format, without gradients, by the faster kernels.

    The kernels are chosen for float32 and bfloat16 on an x86 processor where torch has oneDNN and may use it;
    elsewhere torch chooses, as always. In bfloat16, answers lie channels last.
    """
    with torch.inference_mode(), precision.autocast(device), _chosen(_IN_INFERENCE, device, precision):
        yield


def plain_float32(logits: torch.Tensor) -> torch.Tensor:
    """Return logits as float32 in the plain order (B, C, Z, Y, X), in which they are summed up fastest."""
    return logits.to(torch.float32, memory_format=torch.contiguous_format)


@contextmanager
def learning(device: torch.device, precision: Precision) -> Iterator[None]:
    """Within the block, what nets on `device` compute is to be learnt from: in this number format, by faster kernels.

    Only the way from images to logits needs to be in the block; the way back, the loss's `backward()`, finds its
    kernels itself. They are chosen where those of `inferring` are, for bfloat16 a single one. What those for float32
    give can be differentiated once; a second time raises torch's RuntimeError.
    """
    with precision.autocast(device), _chosen(_IN_LEARNING, device, precision):
        yield


Replaced = Mapping[Any, Callable[..., torch.Tensor | None]]


def _chosen(
    replaced: Mapping[str, Replaced], device: torch.device, precision: Precision
) -> AbstractContextManager[object]:
    """Return the context in which nets compute by the functions replaced in this format, or one that does nothing."""
    fitting = device.type == "cpu" and precision.name in replaced and has_x86_onednn()
    return _Chosen(replaced[precision.name]) if fitting else nullcontext()


class _Chosen(TorchFunctionMode):
    """Computes functions of torch by others: {function: one that returns None for what it leaves to torch}."""

    def __init__(self, replaced: Replaced) -> None:
        super().__init__()
        self.replaced = replaced

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        other = self.replaced.get(func)
        answer = None if other is None else other(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if answer is None else answer


def _conv3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """Return oneDNN's convolution of a batch (B, C, Z, Y, X), a few slices at a time; None for what torch decides."""
    stride, padding, dilation = _along_zyx(stride, 1), _along_zyx(padding, 0), _along_zyx(dilation, 1)
    if not (stride and padding and dilation) or input.ndim != 5 or weight.ndim != 5:
        return None
    reach = [d * (n - 1) for d, n in zip(dilation, weight.shape[2:], strict=True)]  # of a window, from its first voxel
    starts = [n + 2 * pad - r for n, pad, r in zip(input.shape[2:], padding, reach, strict=True)]  # where it may begin
    if not input.numel() or min(starts) < 1 or not _all_in([torch.float32], input, weight, bias):
        return None
    n_out, *in_slice = ((n - 1) // step + 1 for n, step in zip(starts, stride, strict=True))
    read, written = stride[0] * input.nbytes // input.shape[2], 4 * len(input) * len(weight) * math.prod(in_slice)
    n_slices = slices_at_a_time(max(read, written))
    if n_slices >= n_out or padding[0] > reach[0]:  # it is one piece, or there are windows that see no slice at all
        return torch.mkldnn_convolution(input, weight, bias, padding, stride, dilation, groups)
    answer = input.new_empty((len(input), len(weight), n_out, *in_slice))
    for start in range(0, n_out, n_slices):
        stop = min(start + n_slices, n_out)
        first, last = (k * stride[0] - padding[0] for k in (start, stop - 1))  # slices at which a window begins
        last += reach[0]
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
    if not fitting or not _all_in(_AUTOCAST, input, weight, bias):
        return None
    if input.shape[1] == 1 and input.shape[2] < weight.shape[2]:  # there, oneDNN reads beyond a single channel
        return None
    # as they are, if they lie so already
    input, weight = (t.to(torch.bfloat16, memory_format=torch.channels_last_3d) for t in (input, weight))
    return F.conv3d(input, weight, bias, *others, **named)


def _learnt_conv3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """Return torch's convolution of a batch (B, C, Z, Y, X), and the weights' gradient channels last.

    Of a batch of one that torch does not give to oneDNN, it is oneDNN's. None where that would not be faster: for
    strides, kernels of one voxel, a single channel, little data in a larger batch, and weights that do not learn; and
    for what torch may refuse.
    """
    padding_zyx = _along_zyx(padding, 0)
    if padding_zyx is None or input.ndim != 5 or weight.ndim != 5 or not _all_in([torch.float32], input, weight, bias):
        return None
    if (_along_zyx(stride, 1), _along_zyx(dilation, 1), groups) != ([1, 1, 1], [1, 1, 1], 1):
        return None
    if weight.shape[1] == 1 or weight.shape[2:].numel() == 1 or not (weight.requires_grad and torch.is_grad_enabled()):
        return None
    answers = [n + 2 * pad - k + 1 for n, pad, k in zip(input.shape[2:], padding_zyx, weight.shape[2:], strict=True)]
    if min(answers) < 1 or input.shape[1] != weight.shape[1]:
        return None
    if len(input) == 1 and input.shape[1:4].numel() <= _LEFT_ASIDE:
        return _LoneConvolution.apply(input, weight, bias, padding_zyx)
    if len(input) * math.prod(answers) < LEAST_VOXELS:
        return None
    return _Convolution.apply(input, weight, bias, padding_zyx)


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
    if not _all_in(_AUTOCAST, input, weight, bias):
        return None
    with torch.autocast("cpu", enabled=False):
        return F.conv3d(input.float(), weight.float(), None if bias is None else bias.float(), *how, **more)


def _instance_norm(
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
    if not (_all_in(_AUTOCAST, input) and _all_in([torch.float32], weight, bias)):
        return None
    n_channels = input.shape[1]
    fitting = all(scale is None or scale.shape == (n_channels,) for scale in (weight, bias))
    if not fitting or not input.numel() or input.shape[2:].numel() < 2:
        return None
    return F.group_norm(input, n_channels, weight, bias, eps)


def _along_zyx(setting: Any, least: int) -> list[int] | None:
    """Return a convolution's setting for three axes, given for each or for all; None for what torch may refuse."""
    try:
        along = [operator.index(n) for n in (setting if isinstance(setting, Sequence) else [setting])]
    except TypeError:  # "same", for example
        return None
    along = along * 3 if len(along) == 1 else along
    return along if len(along) == 3 and min(along) >= least else None


def _all_in(formats: Sequence[torch.dtype], *tensors: torch.Tensor | None) -> bool:
    return all(t is None or (t.dtype in formats and t.device.type == "cpu") for t in tensors)


_IN_INFERENCE: Mapping[str, Replaced] = {
    "float32": {F.conv3d: _conv3d, F.instance_norm: _instance_norm},
    "bfloat16": {F.conv3d: _conv3d_channels_last, F.instance_norm: _instance_norm},
}
_IN_LEARNING: Mapping[str, Replaced] = {
    "float32": {F.conv3d: _learnt_conv3d, F.instance_norm: _instance_norm},
    "bfloat16": {F.conv3d: _conv3d_of_few_slices},
}
