"""The gradient of a convolution's weights as one matrix product, for many channels and few pixels; AVX2, float32.

oneDNN has no good code for it on these processors: for 512 channels over 4x4 pixels it makes 24 GFLOP/s, a matrix
product 65, copies included.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.kernels.operators import ordinary

#: the fewest products of input and output channels, and the largest side of the result, for which it pays. On one core
#: with AVX2 (Zen 3), batches of 64: 0.38 of oneDNN's time for 512 x 512 channels over 4x4 pixels, 0.74 for 256 x 256
#: over 8x8, 0.42 for 256 x 512 with a stride, 0.63 for 128 x 256 over 4x4; 1.3 for 64 x 64 over 8x8, 1.07 for 128 x 128
#: over 16x16.
_CHANNELS, _SIDE = 128 * 256, 8
#: numbers in the matrix of all windows of a part of the batch
_NUMBERS = 2**23


@lru_cache(1)
def _slow() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def faster(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> bool:
    """Whether `weight_gradient` is faster than PyTorch's for this convolution of (B, C, H, W), channels last."""
    if not (x.dtype == weight.dtype == torch.float32 and groups == 1 and tuple(dilation) == (1, 1) and _slow()):
        return False
    if isinstance(padding, str) or weight.shape[0] * weight.shape[1] < _CHANNELS or not ordinary(x, weight):
        return False
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    if not all(0 <= n + 2 * p - k < _SIDE * s for n, k, s, p in sizes):
        return False
    last = torch.channels_last
    return x.is_contiguous(memory_format=last) and weight.is_contiguous(memory_format=last)


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The gradient of `weight` (O, C, kh, kw), channels last, for the `grad` (B, O, h, w) of a convolution of `x`."""
    outputs, channels, down, right = weight.shape
    (top, left), (s, t) = padding, stride
    pixels = x.permute(0, 2, 3, 1)
    if top or left:
        pixels = F.pad(pixels, (0, 0, left, left, top, top))
    windows = pixels.unfold(1, down, s).unfold(2, right, t).permute(0, 1, 2, 4, 5, 3)  # (B, h, w, kh, kw, C)
    rows = grad.permute(0, 2, 3, 1).reshape(-1, outputs)
    found = torch.zeros(outputs, down * right * channels, dtype=x.dtype)
    pixels_each, width = windows.shape[1] * windows.shape[2], found.shape[1]
    images = max(1, _NUMBERS // (pixels_each * width))
    for part, seeds in zip(windows.split(images), rows.split(images * pixels_each), strict=True):
        found.addmm_(seeds.T, part.reshape(-1, width))
    return found.view(outputs, down, right, channels).permute(0, 3, 1, 2)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """`torch.nn.functional.conv2d` whose backward pass calls `weight_gradient`; for tensors that `faster` accepts."""
    return _Convolution.apply(x, weight, bias, list(stride), list(padding))  # type: ignore[no-untyped-call]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *options: list[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options, ctx.biased = options, bias is not None
        stride, padding = options
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (x, weight), (stride, padding) = ctx.saved_tensors, ctx.options
        needs = list(ctx.needs_input_grad[:3])
        ours = needs[1] and not torch.is_grad_enabled() and ordinary(grad)
        needs[1] &= not ours
        found: list[Tensor | None] = [None, None, None]
        if any(needs):
            sizes = [len(weight)] if ctx.biased else None
            found = list(
                torch.ops.aten.convolution_backward(
                    grad, x, weight, sizes, stride, padding, [1, 1], False, [0, 0], 1, needs
                )
            )
        if ours:
            found[1] = weight_gradient(grad, x, weight, stride, padding)
        return (*found, None, None)
