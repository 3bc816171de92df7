"""Where a net runs: the device asked for, or the best there is."""

import torch


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Return a device that torch can use here; "auto" is the GPU (CUDA) where there is one, else the CPU.

    Raises ValueError for a device that is unknown or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA raises the latter
        reason = str(error).splitlines()[0]
        raise ValueError(f"device must be auto or one that torch can use here, got {device} ({reason})") from error
