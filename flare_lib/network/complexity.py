"""What a net costs and what it sees: parameters and operations, part by part, memory, and the receptive field.

References: torch's flop counter (a multiply-add is 2 operations); Luo et al., Understanding the Effective Receptive
Field in Deep Convolutional Neural Networks, NeurIPS 2016.
"""

import copy
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from flare_lib.network.unet import UNet

Answer = Callable[[UNet, torch.Tensor], torch.Tensor]

PARTS = ("encoder", "ups", "decoder", "heads")


def count_parameters(net: UNet) -> dict[str, list[int]]:
    """Count the numbers that are learnt, {part: one count per stage, finest first}; in total `net.n_parameters`."""
    return {part: [sum(p.numel() for p in stage.parameters()) for stage in getattr(net, part)] for part in PARTS}


def count_operations(net: UNet, size_zyx: Sequence[int]) -> dict[str, list[int]]:
    """Count the floating-point operations for a patch of `size_zyx` voxels, {part: one count per stage, finest first}.

    Only convolutions are counted; normalisation and activation are merely linear in the voxels. Nothing is actually
    computed (torch's meta device), so it costs neither time nor memory. Raises ValueError for a size the net refuses.
    """
    shapes_only = copy.deepcopy(net).to("meta")
    image = torch.empty(1, net.architecture["in_channels"], *size_zyx, device="meta")
    with FlopCounterMode(display=False) as counter:
        shapes_only(image)
    counts = {name: sum(by_operator.values()) for name, by_operator in counter.get_flop_counts().items()}
    layers = {name: n for name, n in counts.items() if not any(other.startswith(f"{name}.") for other in counts)}
    root = type(net).__name__

    def of(stage: str) -> int:
        return sum(n for name, n in layers.items() if f"{name}.".startswith(f"{root}.{stage}."))

    return {part: [of(f"{part}.{s}") for s in range(len(getattr(net, part)))] for part in PARTS}


def peak_bytes(net: UNet, size_zyx: Sequence[int], answer: Answer = UNet.finest) -> int:
    """Return the most bytes that the finest head's answer to one patch holds at once, in float32, the weights included.

    `answer`: how it is computed (see also `in_place.finest_in_place`). The tensors that exist together are counted,
    without computing anything (torch's meta device). The working memory that a library of convolutions takes besides
    is not. Raises ValueError for a size the net refuses.
    """
    shapes_only = copy.deepcopy(net).to("meta").eval()
    image = torch.empty(1, net.architecture["in_channels"], *size_zyx, device="meta")
    with torch.inference_mode(), LiveBytes() as counted:
        answer(shapes_only, image)
    return counted.peak + 4 * (net.n_parameters + image.numel())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, from when they appear until nothing refers to them."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(answer):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return answer

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, n_bytes = id(storage), storage.nbytes()
        if key in self._known:  # a view of it, or a change in place
            return

        def gone(_: weakref.ref) -> None:
            self.live -= n_bytes
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.live += n_bytes


def receptive_field(
    strides: Sequence[Sequence[int]], voxel_zyx: Sequence[int] = (0, 0, 0)
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (start, stop) ZYX of the input voxels that the finest head's answer at `voxel_zyx` is computed from.

    `strides` (z, y, x) from one stage to the next. The region may reach beyond the image, where there are zeros. It is
    that of the convolutions; instance normalisation adds two numbers, mean and SD, that come from all voxels.
    """
    edges = [_field_along([stride[axis] for stride in strides], voxel_zyx[axis]) for axis in range(3)]
    starts, stops = zip(*edges, strict=True)
    return starts, stops


def _field_along(strides: Sequence[int], at: int) -> tuple[int, int]:
    """Trace one axis back from the finest head, down the decoder and up the encoder: first and last + 1 voxel."""
    low = high = at
    for stride in strides:
        low, high = low - 2, high + 2  # two convolutions of 3
        low, high = low // stride, high // stride  # a transposed convolution reads one coarse voxel for each fine one
    for stride in reversed(strides):
        low, high = low - 1, high + 1  # the second convolution of the stage
        low, high = low * stride - 1, high * stride + 1  # the first, which makes the grid smaller
    return low - 2, high + 3
