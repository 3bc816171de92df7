"""The number format a net computes in: the fastest that the hardware supports natively.

bfloat16 has the range of float32 and three digits; float16 has four digits and a small range, so its gradients are
scaled during training. Torch emulates a format the device lacks, but slowly: bfloat16 on a processor without it takes
tens of times as long as float32 (benchmarks/README.md, `precision`). Numbers are always stored in float32, and computed
in float32 where the short formats would not do (torch's autocast).

References: https://docs.pytorch.org/docs/stable/amp.html; Micikevicius et al., Mixed Precision Training, ICLR 2018
"""

from typing import NamedTuple

import torch

from flare_lib.machine.device import has_x86_onednn


class Precision(NamedTuple):
    """A number format, `bfloat16`, `float16` or `float32`, and why it was chosen."""

    name: str
    reason: str

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context in which a net on `device` computes in this format."""
        return torch.autocast(device.type, dtype=getattr(torch, self.name), enabled=self.name != "float32")

    def grad_scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Return the scaler that keeps gradients within the range of float16; for other formats it does nothing."""
        return torch.amp.GradScaler(device.type, enabled=self.name == "float16")


FLOAT32 = Precision("float32", "the default")


def choose_precision(precision: str | Precision = "auto", *, device: torch.device) -> Precision:
    """Return the requested format; "auto" is the fastest that `device` supports natively.

    A `Precision` is returned as it is, even one that torch emulates. Raises ValueError for a name that is unknown or a
    format that `device` does not support natively.
    """
    if isinstance(precision, Precision):
        return precision
    names, reason = _native(device)
    if precision == "auto":
        return Precision(names[0], reason)
    if precision not in names:
        raise ValueError(
            f"precision must be auto or what this {device.type} computes natively ({', '.join(names)}: {reason}), "
            f"got {precision}"
        )
    return Precision(precision, "asked for")


def _native(device: torch.device) -> tuple[tuple[str, ...], str]:
    """Return the names of the formats that `device` supports natively, fastest first, and the reason."""
    if device.type == "cpu":
        return _native_to_cpu()
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        capability = f"compute capability {major}.{minor}"
        if (major, minor) >= (8, 0):
            return ("bfloat16", "float16", "float32"), f"{capability} has bfloat16"
        if (major, minor) >= (7, 0):
            return ("float16", "float32"), f"{capability} has float16, bfloat16 from 8.0 on"
        return ("float32",), f"{capability} is below 7.0, from which on float16 is faster"
    if device.type == "mps":
        return ("float16", "float32"), "Apple's GPU has float16"
    return ("float32",), f"nothing else is known of {device.type}"


def _native_to_cpu() -> tuple[tuple[str, ...], str]:
    if not has_x86_onednn():  # without it, torch has no convolution kernels worth the name
        return ("float32",), "short formats are used only on x86 processors with oneDNN"
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    has_float16 = torch.ops.mkldnn._is_mkldnn_fp16_supported()
    names = (*(["bfloat16"] if has_bfloat16 else []), *(["float16"] if has_float16 else []), "float32")
    return names, f"oneDNN has {'kernels' if has_bfloat16 else 'no kernels'} for bfloat16 on this processor"
