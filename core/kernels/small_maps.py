"""Convolutions of small maps with many channels, of which oneDNN computes more than is needed, or slowly."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.kernels import weight_gradient
from stillpoint.core.kernels.layout import is_channels_last, memory_format
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


def spare_taps(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int] | str, dilation: Sequence[int]
) -> tuple[int, int]:
    """How many rows and columns of taps, at each end, never meet a pixel of (B, C, H, W), only padding with zeros.

    Over a single pixel, only the middle one of 3x3 taps meets it. 0 unless the taps have a middle and the convolution
    keeps the size.
    """
    if isinstance(padding, str) or tuple(stride) != (1, 1) or tuple(dilation) != (1, 1):
        return 0, 0
    found = [
        max(p + 1 - n, 0) if k == 2 * p + 1 and n else 0
        for n, k, p in zip(x.shape[2:], weight.shape[2:], padding, strict=True)
    ]
    return found[0], found[1]


def without(weight: Tensor, spare: tuple[int, int]) -> Tensor:
    """(O, C, kh, kw) without so many rows and columns at each end: a copy, but a view where it needs no gradient."""
    if not any(spare):
        return weight
    if torch.is_grad_enabled() and weight.requires_grad:
        return _Middle.apply(weight, *spare)  # type: ignore[no-untyped-call]
    # autograd notices that the weight has changed in place only if it saves a view of it
    return weight[_middle(weight, *spare)]


def _middle(weight: Tensor, rows: int, columns: int) -> tuple[Any, ...]:
    down, right = weight.shape[2:]
    return ..., slice(rows, down - rows), slice(columns, right - columns)


class _Middle(torch.autograd.Function):
    """A slice whose gradient has the layout of its input: autograd's takes five times as long channels last."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: int, columns: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.spare, ctx.middle = (rows, columns), _middle(weight, rows, columns)
        # the layout of the weight decides that of the convolution's result
        return weight[ctx.middle].clone(memory_format=memory_format(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        if not ordinary(grad):  # as under vmap, which writes no batch of gradients into one weight
            rows, columns = ctx.spare
            return F.pad(grad, (columns, columns, rows, rows)), None, None
        found = torch.zeros_like(weight)
        found[ctx.middle] = grad
        return found, None, None


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """`torch.nn.functional.conv2d` without taps that meet no pixel; computed channels-first, or with a weight gradient
    of our own, where that is faster."""
    plain = torch.compiler.is_compiling() or plain_only()
    # a mode that watches, such as one that counts operations, sees the whole convolution
    if type(x) is not Tensor or x.ndim != 4 or plain or torch._C._len_torch_dispatch_stack():
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    spare = spare_taps(x, weight, stride, padding, dilation)
    if any(spare) and x.shape[1] == groups * weight.shape[1]:  # PyTorch's refusal names the whole weight
        weight = without(weight, spare)
        # 512 channels over one pixel, with gradients: 6 ms instead of 114 (AVX2, 64 images)
        assert not isinstance(padding, str)
        padding = [p - n for p, n in zip(padding, spare, strict=True)]
    options: tuple[Any, ...] = stride, padding, dilation, groups
    if not torch.is_autocast_enabled("cpu"):
        batch = is_channels_last(x) and len(x) >= _BATCH
        if batch and small(x, weight, *options) and ordinary(x, weight):
            y = F.conv2d(x.contiguous(), weight.contiguous(), bias, *options)
            return y.contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled() and weight.requires_grad and weight_gradient.faster(x, weight, *options):
            assert not isinstance(padding, str)
            return weight_gradient.convolution(x, weight, bias, stride, padding)
    return F.conv2d(x, weight, bias, *options)
