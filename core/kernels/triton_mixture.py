"""The GPU kernels of `kernels.mixture`, in Triton: a map is read once and written once, sums in float32.

`count` is the number of phases' pixels: (B, C, h, w) beside a map (B, C, 2h, 2w). Phase k is the row plus twice the
column.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 512


@triton.jit
def _corner(place, channels, height, width, LAST: tl.constexpr):
    # image and channel of a pixel of the phases, and the offset of its 2 x 2 pixels in the map
    if LAST:
        channel = place % channels
        pixel = place // channels
        row, column = pixel // width, pixel % width
        image = row // height
        start = (row * 4 * width + 2 * column) * channels + channel
    else:
        row, column = place // width, place % width
        plane = row // height
        image, channel = plane // channels, plane % channels
        start = row * 4 * width + 2 * column
    return image, channel, start


@triton.jit
def _steps(channels, width, LAST: tl.constexpr):
    # offsets to the next row and to the next column of the map
    if LAST:
        down, across = 2 * width * channels, channels
    else:
        down, across = 2 * width, 1
    return down, across


@triton.jit
def _mix(
    x,
    weights,
    y,
    channels,
    height,
    width,
    count,
    SHARED: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    image, channel, start = _corner(place, channels, height, width, LAST)
    down, across = _steps(channels, width, LAST)
    own = image * 4 if SHARED else (image * channels + channel) * 4
    total = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(4):
        value = tl.load(x + start + k % 2 * down + k // 2 * across, mask=inside, other=0.0).to(tl.float32)
        total += value * tl.load(weights + own + k, mask=inside, other=0.0)
    tl.store(y + place, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _spread(
    y,
    weights,
    x,
    channels,
    height,
    width,
    count,
    SHARED: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    image, channel, start = _corner(place, channels, height, width, LAST)
    down, across = _steps(channels, width, LAST)
    own = image * 4 if SHARED else (image * channels + channel) * 4
    value = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
    for k in tl.static_range(4):
        part = value * tl.load(weights + own + k, mask=inside, other=0.0)
        tl.store(x + start + k % 2 * down + k // 2 * across, part.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _weigh(
    x,
    y,
    weights,
    channels,
    height,
    width,
    LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # one program handles a block of an image's channels and visits their pixels in a fixed order
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    size = height * width
    down, across = _steps(channels, width, LAST)
    sums = tl.zeros([4, CHANNELS], tl.float32)
    which = tl.arange(0, 4)
    for first in range(0, size, PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        inside = (pixel < size)[:, None] & (channel < channels)[None, :]
        if LAST:
            place = (image * size + pixel[:, None]) * channels + channel[None, :]
        else:
            place = (image * channels + channel[None, :]) * size + pixel[:, None]
        _, _, start = _corner(place, channels, height, width, LAST)
        value = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
        for k in tl.static_range(4):
            there = tl.load(x + start + k % 2 * down + k // 2 * across, mask=inside, other=0.0).to(tl.float32)
            part = tl.sum(value * there, 0)
            sums += tl.where((which == k)[:, None], part[None, :], 0.0)
    target = weights + (image * channels + channel[None, :]) * 4 + which[:, None]
    tl.store(target, sums, mask=(channel < channels)[None, :] & (which < 4)[:, None])


def mix(x: Tensor, weights: Tensor, y: Tensor, last: bool) -> None:
    """Fills `y`; `last`: maps are channels-last; weights (B, 4) or (B, C, 4) are float32."""
    _elementwise(_mix, x, weights, y, y, last)


def spread(x: Tensor, weights: Tensor, y: Tensor, last: bool) -> None:
    """Fills `x` with the adjoint of `mix`, applied to `y`."""
    _elementwise(_spread, y, weights, x, y, last)


def weigh(x: Tensor, weights: Tensor, y: Tensor, last: bool) -> None:
    """Fills `weights` with the derivative of `mix` by the weights, for a gradient `y`."""
    count, channels, height, width = y.shape
    if not y.numel():
        weights.zero_()
        return
    own = weights if weights.ndim == 3 else torch.empty(count, channels, 4, dtype=weights.dtype, device=y.device)
    pixels, block = (16, 32) if last else (512, 1)
    options = {"LAST": last, "PIXELS": pixels, "CHANNELS": block}
    _weigh[(count, triton.cdiv(channels, block))](x, y, own, channels, height, width, **options)
    if weights.ndim == 2:
        torch.sum(own, 1, out=weights)


def _elementwise(kernel, source: Tensor, weights: Tensor, target: Tensor, y: Tensor, last: bool) -> None:
    if not y.numel():
        return
    _, channels, height, width = y.shape
    options = {"SHARED": weights.ndim == 2, "LAST": last, "BLOCK": _BLOCK}
    grid = (triton.cdiv(y.numel(), _BLOCK),)
    kernel[grid](source, weights, target, channels, height, width, y.numel(), **options)
