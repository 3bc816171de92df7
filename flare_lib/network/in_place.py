"""Our U-Net at inference in the memory of a few feature maps: at every size, one map is written over again and again.

A feature map of the paper's net at full size takes 240 MiB, and `UNet.finest` needs four and more of them at once: the
encoder's, the upsampled one, both joined. But at inference nobody reads again what a layer has read. So here a
convolution writes its answer over its own input, a few slices at a time: they go through a small window, which holds
on to the slices that the next ones still have to see. The decoder's first convolution of a size writes over the map
that the encoder left there, and the upsampled map exists in the window alone. Normalisation and rectification happen
where the map lies. What is left at full size is one map and, while it is normalised, as many of its channels again as
there are threads; the sums are the same, and so are the logits. Channels that lie last (`kernels`, in bfloat16) are
normalised together, through a second map; two of these take no more than one in float32.

Reference: Bulo et al., In-Place Activated BatchNorm, CVPR 2018 (why a map need not be kept beside its activation)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from flare_lib.machine.memory import give_back_freed
from flare_lib.network import kernels
from flare_lib.network.kernels import slices_at_a_time
from flare_lib.network.unet import NEGATIVE_SLOPE, ConvBlock, UNet

PIECES = 4  # computed between two looks at what was freed: an allocator's gaps grow meanwhile

Read = Callable[[int, int, torch.Tensor], None]  # of an input: slices from, to, and where they are wanted


@torch.no_grad()
def finest_in_place(net: UNet, image: torch.Tensor) -> torch.Tensor:
    """Return `net.finest(image)`, (B, n_classes, Z, Y, X); the image (B, in_channels, Z, Y, X) stays as it is.

    On a processor, in little memory, and as the first channels of a map that has more, where it has enough; elsewhere
    by `UNet.finest` itself, which keeps a card's kernels large. Knows no gradients. Raises its ValueError.
    """
    if image.device.type not in ("cpu", "meta"):
        return net.finest(image)
    net.check_input(image)
    x, skips = image, []
    for stage in net.encoder:
        first, second = _blocks(stage)
        x = _activate(first, first.conv(x))  # (B, features[s], Z, Y, X of stage s), a new map
        x = second(x) if _is_small(x) else _convolve_and_activate(second, x, partial(_read, x))
        _make_room_beside(x)
        skips.append(x)
    largest = skips[0]
    skips.pop()  # the coarsest is where the decoder starts
    for up, stage in zip(reversed(net.ups), reversed(net.decoder), strict=True):
        first, second = _blocks(stage)
        skip = skips.pop()
        if _is_small(skip):
            _make_room_beside(largest, pieces=8)
            x = stage(torch.cat([up(x), skip], dim=1))
            continue
        x = _convolve_and_activate(first, skip, partial(_read_joined, up, x, skip))
        x = _convolve_and_activate(second, x, partial(_read, x))
    _make_room_beside(x)
    return _classify(cast(nn.Conv3d, net.heads[0]), x)


def _is_small(x: torch.Tensor) -> bool:
    """Return whether a map would go through the window as a whole, which would save nothing."""
    return x.nbytes <= kernels.PIECE_BYTES


def _make_room_beside(x: torch.Tensor, pieces: int = 2) -> None:
    """Give back what was freed before more is needed; beside a map of few pieces that is too little to be worth it."""
    if x.nbytes > pieces * kernels.PIECE_BYTES:
        give_back_freed()


def _blocks(stage: nn.Module) -> Sequence[ConvBlock]:
    return cast(Sequence[ConvBlock], tuple(stage.children()))


def _read(x: torch.Tensor, start: int, stop: int, window: torch.Tensor) -> None:
    window.copy_(x[:, :, start:stop])


def _read_joined(
    up: nn.Module, below: torch.Tensor, skip: torch.Tensor, start: int, stop: int, window: torch.Tensor
) -> None:
    """Read what `torch.cat([up(below), skip], dim=1)` holds, of which no more is ever made."""
    step, n_features = cast(nn.ConvTranspose3d, up).stride[0], skip.shape[1]
    first = start // step  # of the slices below that these come from
    upsampled = up(below[:, :, first : -(-stop // step)])
    window[:, :n_features] = upsampled[:, :, start - first * step : stop - first * step]
    window[:, n_features:] = skip[:, :, start:stop]


def _convolve_and_activate(block: ConvBlock, x: torch.Tensor, read: Read) -> torch.Tensor:
    """Write over `x` (B, C, Z, Y, X), and return, what the block gives for an input of the same grid, read by slices.

    `x` may be the input: of slice z nothing is written before slice z + 1 has been read.
    """
    conv, (batch, _, depth, *in_slice) = block.conv, x.shape
    n = min(slices_at_a_time(x[:, :1, :1].nbytes * conv.in_channels), depth)
    order = torch.contiguous_format if x.is_contiguous() else torch.channels_last_3d
    size = (batch, conv.in_channels, n + 2, *in_slice)  # of a piece, with a slice on either side
    window = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=order).zero_()
    for piece, start in enumerate(range(0, depth, n)):
        stop = min(start + n, depth)
        if piece % PIECES == 0:
            _make_room_beside(x)
        if start:
            window[:, :, :2] = window[:, :, n:].clone()  # they were the last two and are the first two now
        unread, until = (start + 1 if start else 0), min(stop + 1, depth)
        if unread < until:
            read(unread, until, window[:, :, unread - start + 1 : until - start + 1])
        if stop == depth:
            window[:, :, stop - start + 1] = 0  # padding
        seen = window[:, :, : stop - start + 2]
        x[:, :, start:stop] = F.conv3d(seen, conv.weight, conv.bias, padding=(0, 1, 1))
    return _activate(block, x)


def _activate(block: ConvBlock, x: torch.Tensor) -> torch.Tensor:
    """Do in place what `ConvBlock.activate` does, for some channels at a time; for all of them where they lie last."""
    norm = block.norm
    some = max(torch.get_num_threads(), slices_at_a_time(x[:, :1].nbytes))
    n = some if x.is_contiguous() else x.shape[1]
    for c in range(0, x.shape[1], n):
        own = slice(c, c + n)
        normal = F.instance_norm(x[:, own], weight=norm.weight[own], bias=norm.bias[own], eps=norm.eps)
        torch.ops.aten.leaky_relu.out(normal, NEGATIVE_SLOPE, out=x[:, own])
    return x


def _classify(head: nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    """Return the head's logits (B, n_classes, Z, Y, X) of a map, written over its first channels if it has so many."""
    n_classes = head.out_channels
    if _is_small(x) or n_classes > x.shape[1]:
        return head(x)
    n = slices_at_a_time(x[:, :, :1].nbytes)
    for z in range(0, x.shape[2], n):
        x[:, :n_classes, z : z + n] = head(x[:, :, z : z + n])
    return x[:, :n_classes]
