"""Which code answers on a device: kernels and plain PyTorch agree to rounding, and rounding decides near ties."""

from typing import Literal

import torch

from stillpoint.core.kernels import native
from stillpoint.core.kernels.pool import HAS_TRITON

Arithmetic = Literal["compiled", "triton", "plain"]


def arithmetic(device: torch.device) -> Arithmetic:
    """ "compiled" for the C++ on a CPU, "triton" on a GPU, "plain" for PyTorch alone.

    It is asked of the process and the device, whatever a network is made of. On a CPU the kernels for float32 are
    loaded, and compiled where that has not been done; where any that was asked for is missing, the answer is "plain".
    """
    if device.type == "cuda":
        return "triton" if HAS_TRITON and native.enabled() else "plain"
    return "compiled" if device.type == "cpu" and native.complete() else "plain"
