"""The GPU kernels of `kernels.activity`, in Triton: the map is read once; sums are in float32, in a fixed order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _forward(x, means, channels, extent, LAST: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    # one program handles a block of an image's channels and visits their pixels in a fixed order
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    total = tl.zeros([CHANNELS], tl.float32)
    for first in range(0, extent, PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        inside = (pixel < extent)[:, None] & known[None, :]
        if LAST:
            place = (image * extent + pixel[:, None]) * channels + channel[None, :]
        else:
            place = (image * channels + channel[None, :]) * extent + pixel[:, None]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL), 0)
    tl.store(means + image * channels + channel, total / extent, mask=known)


@triton.jit
def _backward(means, x, to_x, channels, extent, count, LAST: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    if LAST:
        own = place // (channels * extent) * channels + place % channels
    else:
        own = place // extent
    share = tl.load(means + own, mask=inside, other=0.0).to(tl.float32) / extent
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(to_x + place, tl.where(value <= 0, 0.0, share).to(to_x.dtype.element_ty), mask=inside)


def forward(x: Tensor, last: bool) -> Tensor:
    """The means (N, C) in float32; `last` says whether the map is channels-last."""
    count, channels, extent = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    means = torch.zeros(count, channels, dtype=torch.float32, device=x.device)
    if x.numel():
        pixels, block = (32, 32) if last else (1024, 1)
        options = {"LAST": last, "PIXELS": pixels, "CHANNELS": block}
        _forward[count, triton.cdiv(channels, block)](x, means, channels, extent, **options)
    return means


def backward(grad: Tensor, x: Tensor, last: bool) -> Tensor:
    """The gradient of the map from that of the means, (N, C)."""
    to_x = torch.empty_like(x)
    if x.numel():
        grid, extent = (triton.cdiv(x.numel(), _BLOCK),), x.shape[2] * x.shape[3]
        _backward[grid](grad, x, to_x, x.shape[1], extent, x.numel(), LAST=last, BLOCK=_BLOCK)
    return to_x
