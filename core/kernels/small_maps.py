"""Convolutions of small maps with many channels, which oneDNN computes faster channels-first than channels-last."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.kernels.layout import is_channels_last
from stillpoint.core.kernels.operators import ordinary
from stillpoint.core.kernels.pool import plain_only

#: the fewest input and output channels, the largest side of the result, and the fewest images for which it pays.
#: With AVX-512, 3x3 convolutions of 512 channels over 4x4 pixels take 0.70 of the channels-last time, with their
#: gradients 0.75; over 5x5 pixels 0.80. Over 7x7 pixels, with 128 channels, or with AVX2 nothing is gained.
_CHANNELS, _SIDE, _BATCH = 256, 5, 16


@lru_cache(1)
def _wide() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def small(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> bool:
    """Whether a convolution with these options is faster channels-first."""
    outputs, inputs, *taps = weight.shape
    if x.dtype != torch.float32 or not x.is_cpu or groups != 1 or min(outputs, inputs) < _CHANNELS or taps != [3, 3]:
        return False
    if isinstance(padding, str) or tuple(stride) != (1, 1) or tuple(dilation) != (1, 1):
        return False
    return max(n + 2 * p - 2 for n, p in zip(x.shape[2:], padding, strict=True)) <= _SIDE and _wide()


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """`torch.nn.functional.conv2d`, computed channels-first where that is faster."""
    options: tuple[Any, ...] = stride, padding, dilation, groups
    if type(x) is Tensor and not torch.compiler.is_compiling() and not plain_only() and x.ndim == 4:
        batch = is_channels_last(x) and len(x) >= _BATCH and not torch.is_autocast_enabled("cpu")
        if batch and small(x, weight, *options) and ordinary(x, weight):
            y = F.conv2d(x.contiguous(), weight.contiguous(), bias, *options)
            return y.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, bias, *options)
