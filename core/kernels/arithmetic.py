"""Which implementation runs on a device: kernels and plain PyTorch agree up to rounding, which decides near ties."""

from typing import Literal

import torch

from stillpoint.core.kernels import native
from stillpoint.core.kernels.pool import HAS_TRITON

Arithmetic = Literal["compiled", "triton", "plain"]


def arithmetic(device: torch.device) -> Arithmetic:
    """ "compiled" for the C++ on a CPU, "triton" on a GPU, "plain" for PyTorch only.

    It depends on the process and the device, not on the network. On a CPU the float32 kernels are loaded, and compiled
    first if needed; if any kernel that the process requested is missing, the answer is "plain".
    """
    if device.type == "cuda":
        return "triton" if HAS_TRITON and native.enabled() else "plain"
    return "compiled" if device.type == "cpu" and native.complete() else "plain"
