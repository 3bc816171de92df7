"""What computes a net: torch itself, or OpenVINO, which compiles our U-Net for the processor at hand (opt-in).

OpenVINO gets the net layer by layer, as a graph of its own operations, for patches of one size at a time. The
arithmetic is the same but the order of sums is not, so logits differ in their last digits. On a processor that has AVX2
and no more it is the faster one (benchmarks/README.md, `against nnU-Net`); it is an extra because it is large.
OpenVINO has telemetry, which reports to its makers as soon as it is loaded: here it is loaded without.

Reference: https://docs.openvino.ai, operation set 13 (Convolution, MVN, PRelu)
"""

import locale
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from flare_lib.machine.extras import check_extra, extra
from flare_lib.machine.precision import Precision
from flare_lib.network.unet import NEGATIVE_SLOPE, ConvBlock, UNet

ENGINES = ("torch", "openvino")
Predict = Callable[[torch.Tensor], torch.Tensor]  # patches (1, C, Z, Y, X) to logits (1, n_classes, Z, Y, X)

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def check_engine(engine: str, device: torch.device) -> None:
    """Raise ValueError for an unknown engine or one for another device, MissingExtra if it is not installed."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be {' or '.join(ENGINES)}, got {engine}")
    if engine == "openvino":
        if device.type != "cpu":
            raise ValueError(f"the engine openvino computes on the CPU (--device cpu), got {device}")
        check_extra("openvino", "openvino")


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Within the block OpenVINO is loaded as if its telemetry, a package apart, were not installed."""
    if "openvino_telemetry" in sys.modules:  # somebody else has loaded it
        yield
        return
    sys.modules["openvino_telemetry"] = cast(Any, None)
    try:
        yield
    finally:
        del sys.modules["openvino_telemetry"]


@contextmanager
def _plain_letters() -> Iterator[None]:
    """Within the block a small I is an i, also where the user's language is Turkish: OpenVINO compares its names so."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        yield
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def compile_net(net: nn.Module, patch_size: Sequence[int], precision: Precision) -> Predict:
    """Return `UNet.finest` compiled by OpenVINO for one patch (1, C, *patch_size) on the CPU, in torch's threads.

    For a patch of another size it is compiled again, which takes as long as it did at first, and the last one is
    forgotten. `precision`: what OpenVINO computes in. It shares the net's weights: they must not change. Raises
    ValueError for a net that is not our UNet or that OpenVINO refuses, MissingExtra if it is not installed. The
    function returned raises ValueError for a patch that the net cannot compute, and MemoryError if memory runs out.
    """
    if not isinstance(net, UNet):
        raise ValueError(f"the engine openvino computes plain U-Nets (without it: any), got a {type(net).__name__}")
    with extra("openvino"), _without_telemetry():
        import openvino
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": _HINTS[precision.name],
    }

    def compiled(size: tuple[int, ...]) -> Any:
        try:
            with _plain_letters():
                return openvino.Core().compile_model(_graph(net, size), "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise ValueError(f"OpenVINO must know this processor and net, got: {_last_line(error)}") from error

    size: tuple[int, ...] = (1, net.architecture["in_channels"], *patch_size)
    request = compiled(size)

    def predict(patch: torch.Tensor) -> torch.Tensor:
        nonlocal size, request
        if tuple(patch.shape) != size:
            net.check_input(patch)
            size, request = (), None  # two at once would take twice the memory
            request = compiled(tuple(patch.shape))
            size = tuple(patch.shape)
        try:
            logits = torch.empty((1, net.architecture["n_classes"], *size[2:]))
            request.set_output_tensor(openvino.Tensor(logits.numpy(), shared_memory=True))  # or it is copied
            request.infer([patch.float().contiguous().numpy()], share_outputs=True)
            return logits
        except RuntimeError as error:  # after a compilation that succeeded, only memory can be lacking
            raise MemoryError(f"OpenVINO must have memory for a patch of {size}, got: {_last_line(error)}") from error

    return predict


def _last_line(error: RuntimeError) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no reason")


def _graph(net: UNet, size: Sequence[int]) -> Any:
    """Return the net as an OpenVINO model: what `UNet._decode` and the finest head do, in the same order."""
    import openvino
    from openvino import opset13 as ops

    def constant(parameter: torch.Tensor, *shape: int) -> Any:
        array = parameter.detach().cpu().float().contiguous()
        return ops.constant(array.reshape(shape or array.shape).numpy(), shared_memory=True)

    def with_bias(node: Any, layer: nn.Conv3d | nn.ConvTranspose3d | nn.InstanceNorm3d) -> Any:
        return node if layer.bias is None else ops.add(node, constant(layer.bias, 1, -1, 1, 1, 1))

    def conv(node: Any, layer: nn.Conv3d) -> Any:
        pad = list(layer.padding)
        node = ops.convolution(node, constant(layer.weight), list(layer.stride), pad, pad, [1, 1, 1])
        return with_bias(node, layer)

    def block(node: Any, layers: ConvBlock) -> Any:
        node = ops.mvn(conv(node, layers.conv), ops.constant([2, 3, 4]), True, layers.norm.eps, "inside_sqrt")
        node = with_bias(ops.multiply(node, constant(layers.norm.weight, 1, -1, 1, 1, 1)), layers.norm)
        return ops.prelu(node, ops.constant([NEGATIVE_SLOPE], openvino.Type.f32))

    def up(node: Any, layer: nn.ConvTranspose3d) -> Any:
        return with_bias(ops.convolution_backprop_data(node, constant(layer.weight), list(layer.stride)), layer)

    encoder, ups, decoder, heads = cast(Any, (net.encoder, net.ups, net.decoder, net.heads))  # lists of known layers
    image = node = ops.parameter(list(size), openvino.Type.f32)
    skips = []
    for stage in encoder:
        for layers in stage:
            node = block(node, layers)
        skips.append(node)
    skips.pop()
    for layer, stage in zip(reversed(ups), reversed(decoder), strict=True):
        node = ops.concat([up(node, layer), skips.pop()], 1)
        for layers in stage:
            node = block(node, layers)
    return openvino.Model([conv(node, heads[0])], [image], "UNet")
