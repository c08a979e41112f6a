"""The GPU kernels of `kernels.quadratic`, in Triton: every map is read once and written once, sums in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _forward(x, coefficients, y, channels, extent, size, LAST: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    channel = place % channels if LAST else place // extent % channels
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    constant = tl.load(coefficients + 3 * channel, mask=inside, other=0.0)
    slope = tl.load(coefficients + 3 * channel + 1, mask=inside, other=0.0)
    curve = tl.load(coefficients + 3 * channel + 2, mask=inside, other=0.0)
    tl.store(y + place, (constant + value * (slope + curve * value)).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad,
    x,
    coefficients,
    to_x,
    pixels,
    channels,
    extent,
    LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # one program handles a block of an image's channels and visits their pixels in a fixed order
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    slope = tl.load(coefficients + 3 * channel + 1, mask=known, other=0.0)[None, :]
    curve = tl.load(coefficients + 3 * channel + 2, mask=known, other=0.0)[None, :]
    first_sum = tl.zeros([CHANNELS], tl.float32)
    second_sum = tl.zeros([CHANNELS], tl.float32)
    third_sum = tl.zeros([CHANNELS], tl.float32)
    for first in range(0, extent, PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        inside = (pixel < extent)[:, None] & known[None, :]
        if LAST:
            place = (image * extent + pixel[:, None]) * channels + channel[None, :]
        else:
            place = (image * channels + channel[None, :]) * extent + pixel[:, None]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        seed = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(to_x + place, (seed * (slope + 2.0 * curve * value)).to(to_x.dtype.element_ty), mask=inside)
        first_sum += tl.sum(seed, 0)
        second_sum += tl.sum(seed * value, 0)
        third_sum += tl.sum(seed * value * value, 0)
    target = pixels + (image * channels + channel) * 3
    tl.store(target, first_sum, mask=known)
    tl.store(target + 1, second_sum, mask=known)
    tl.store(target + 2, third_sum, mask=known)


def forward(x: Tensor, coefficients: Tensor, last: bool) -> Tensor:
    """`stillpoint.core.kernels.quadratic.quadratic`; `last`: the map is channels-last."""
    y = torch.empty_like(x)
    if x.numel():
        grid, options = (triton.cdiv(x.numel(), _BLOCK),), {"LAST": last, "BLOCK": _BLOCK}
        extent = x.shape[2] * x.shape[3]
        _forward[grid](x, coefficients.float().contiguous(), y, x.shape[1], extent, x.numel(), **options)
    return y


def backward(grad: Tensor, x: Tensor, coefficients: Tensor, last: bool) -> tuple[Tensor, Tensor]:
    """Gradients for the map and for the coefficients (C, 3)."""
    count, channels, extent = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    to_x = torch.empty_like(x)
    sums = torch.zeros(count, channels, 3, dtype=torch.float32, device=x.device)
    if x.numel():
        grad = grad.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        pixels, block = (32, 32) if last else (1024, 1)
        options = {"LAST": last, "PIXELS": pixels, "CHANNELS": block}
        taken = coefficients.float().contiguous()
        _backward[count, triton.cdiv(channels, block)](grad, x, taken, to_x, sums, channels, extent, **options)
    return to_x, sums.sum(0).to(coefficients.dtype)
