"""nnU-Net's plain 3D UNet with supervised heads, as the paper uses it (2.2, Fig. 2).

An encoder halves the grid stage by stage and a decoder doubles it again; at every size the decoder also sees what the
encoder saw there. Index s stands for the same grid everywhere: stage 0 is the full resolution, and `encoder[s]`,
`decoder[s]` and `heads[s]` work on the same number of voxels.

    encoder[0] ------------------------> decoder[0] -> heads[0]   the finest: the prediction
        encoder[1] ----------------> decoder[1] ----> heads[1]
            ...                         ...
                encoder[last] -> ups[last - 1]

References:
1) Ronneberger et al., U-Net, MICCAI 2015, and Cicek et al., 3D U-Net, MICCAI 2016
2) Isensee et al., nnU-Net, Nature Methods 2021: the block, the strides, deep supervision
3) He et al., Delving Deep into Rectifiers, ICCV 2015: the initial weights
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from flare_lib.ct.volume import triple

NEGATIVE_SLOPE = 0.01


class ConvBlock(nn.Module):
    """Convolution 3x3x3, instance normalisation, leaky ReLU; a stride above 1 makes the grid smaller."""

    def __init__(self, in_features: int, out_features: int, stride: tuple[int, int, int] = (1, 1, 1)) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_features, out_features, kernel_size=3, stride=stride, padding=1)
        self.norm = nn.InstanceNorm3d(out_features, eps=1e-5, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, out_features, Z / stride, Y / stride, X / stride)."""
        return self.activate(self.conv(x))

    def activate(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the convolution gave, normalised and rectified."""
        return F.leaky_relu(self.norm(x), NEGATIVE_SLOPE, inplace=True)


class UNet(nn.Module):
    """The network for both stages: from an image (B, C, Z, Y, X) to logits at `n_heads` resolutions, finest first.

    `features_per_stage`: channels of each stage, full resolution first; `strides`: (z, y, x) from one stage to the
    next, so one fewer; `n_heads`: supervised decoder stages, at most as many as there are strides. The defaults give
    the paper's net: 30.79 M parameters. `up_and_head_bias`: nnU-Net v2 gives transposed convolutions and heads a bias,
    v1 and the paper do not. `architecture` holds these arguments in a form for JSON. Raises ValueError for values that
    do not make a net.
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 14,
        features_per_stage: Sequence[int] = (32, 64, 128, 256, 320, 320),
        strides: Sequence[Sequence[int]] = ((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)),
        n_heads: int = 4,
        *,
        up_and_head_bias: bool = False,
    ) -> None:
        super().__init__()
        self.architecture: dict[str, Any] = {
            "in_channels": in_channels,
            "n_classes": n_classes,
            "features_per_stage": [int(n) for n in features_per_stage],
            "strides": [[int(n) for n in stride] for stride in strides],
            "n_heads": n_heads,
            "up_and_head_bias": up_and_head_bias,
        }
        _check_architecture(**self.architecture)
        features, strides_zyx = tuple(features_per_stage), tuple(triple(stride) for stride in strides)
        before, bias = (in_channels, *features), up_and_head_bias

        self.encoder = nn.ModuleList(
            nn.Sequential(ConvBlock(before[s], n, stride), ConvBlock(n, n))
            for s, (n, stride) in enumerate(zip(features, ((1, 1, 1), *strides_zyx), strict=True))
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(features[s + 1], features[s], kernel_size=stride, stride=stride, bias=bias)
            for s, stride in enumerate(strides_zyx)
        )
        self.decoder = nn.ModuleList(nn.Sequential(ConvBlock(2 * n, n), ConvBlock(n, n)) for n in features[:-1])
        self.heads = nn.ModuleList(nn.Conv3d(n, n_classes, kernel_size=1, bias=bias) for n in features[:n_heads])
        self.apply(_initialize)

    @property
    def size_multiple_zyx(self) -> tuple[int, int, int]:
        """What each side of the input must be a multiple of: the product of the strides."""
        z, y, x = (math.prod(along) for along in zip(*self.architecture["strides"], strict=True))
        return z, y, x

    @property
    def n_parameters(self) -> int:
        """The number of learnt parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits of every head, finest first: (B, n_classes, Z, Y, X), then (B, n_classes, Z/2, Y/2, X/2)...

        `x` is (B, in_channels, Z, Y, X). Raises ValueError unless Z, Y, X are multiples of `size_multiple_zyx`.
        """
        decoded = [*self._decode(x)][::-1]
        return [head(features) for head, features in zip(self.heads, decoded, strict=False)]

    def finest(self, x: torch.Tensor) -> torch.Tensor:
        """Return `forward(x)[0]` alone, (B, n_classes, Z, Y, X): what inference needs."""
        return self.heads[0](deque(self._decode(x), maxlen=1).pop())

    def _decode(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the decoder's features of every stage, coarsest first; each is kept only until the next is there."""
        self.check_input(x)
        skips = []
        for stage in self.encoder:
            x = stage(x)  # (B, features[s], Z, Y, X of stage s)
            skips.append(x)
        skips.pop()  # the coarsest is where the decoder starts
        for up, stage in zip(reversed(self.ups), reversed(self.decoder), strict=True):
            first, second = cast(tuple[ConvBlock, ConvBlock], tuple(stage.children()))
            # the joined tensor, (B, 2 * features[s], Z, Y, X of stage s), has no name: it is gone before the next comes
            x = first.conv(torch.cat([up(x), skips.pop()], dim=1))
            x = second(first.activate(x))  # (B, features[s], Z, Y, X of stage s)
            yield x

    def check_input(self, x: torch.Tensor) -> None:
        """Raise ValueError unless the net can compute an image of this shape, TypeError unless it is of floats.

        Its values do not matter.
        """
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            raise TypeError(f"the image must be a tensor of floats, got {getattr(x, 'dtype', type(x).__name__)}")
        channels, multiple = self.architecture["in_channels"], self.size_multiple_zyx
        if x.ndim != 5 or x.shape[1] != channels:
            raise ValueError(f"the image must have the shape (B, {channels}, Z, Y, X), got {tuple(x.shape)}")
        if not len(x):
            raise ValueError("a batch must hold at least 1 image, got none")
        size = tuple(x.shape[2:])
        if any(n % m or not n for n, m in zip(size, multiple, strict=True)):
            raise ValueError(f"the image's size ZYX must be a multiple of {multiple}, got {size}")
        if size == multiple:
            # a single voxel has no spread to normalise by
            raise ValueError(f"the image's size ZYX must leave 2 voxels to the coarsest stage, got {size}")


def _check_architecture(
    in_channels: int,
    n_classes: int,
    features_per_stage: list[int],
    strides: list[list[int]],
    n_heads: int,
    up_and_head_bias: bool,
) -> None:
    if min(in_channels, n_classes, *features_per_stage) < 1:
        raise ValueError(
            f"in_channels, n_classes and features_per_stage must be 1 or more, "
            f"got {in_channels}, {n_classes} and {features_per_stage}"
        )
    if len(strides) < 1 or len(strides) != len(features_per_stage) - 1:
        raise ValueError(
            f"strides must be one fewer than features_per_stage, got {len(strides)} and {len(features_per_stage)}"
        )
    if any(len(stride) != 3 or min(stride) < 1 for stride in strides):
        raise ValueError(f"each of the strides must be 3 numbers of 1 or more, got {strides}")
    if not 1 <= n_heads <= len(strides):
        raise ValueError(f"n_heads must be 1 to {len(strides)}, one per decoder stage, got {n_heads}")


def _initialize(module: nn.Module) -> None:
    """Set He's normal initial weights, for the leaky ReLU that follows, and biases of 0.

    On the meta device there is nothing to set, and torch would load its compiler to do so: seconds on a slow machine.
    """
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) and not module.weight.is_meta:
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
