"""The GPU kernels of `kernels.channel_norm`, in Triton: sums are in float32, those over pixels in a fixed order.

`extent` is the number of pixels. Means are (B, extent), inverse divisors (B,) where WHOLE, else (B, extent).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _tile(image, pixel, channel, channels, extent, LAST: tl.constexpr):
    # offsets of a block of an image's pixels and channels, and which of them exist
    if LAST:
        place = (image * extent + pixel[:, None]) * channels + channel[None, :]
    else:
        place = (image * channels + channel[None, :]) * extent + pixel[:, None]
    return place, (pixel < extent)[:, None] & (channel < channels)[None, :]


@triton.jit
def _measure(x, mean, squares, channels, extent, LAST: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    total = tl.zeros([PIXELS], tl.float32)
    for first in range(0, channels, CHANNELS):
        place, inside = _tile(image, pixel, first + tl.arange(0, CHANNELS), channels, extent, LAST)
        total += tl.sum(tl.load(x + place, mask=inside, other=0.0).to(tl.float32), 1)
    middle = total / channels
    found = tl.zeros([PIXELS], tl.float32)
    for first in range(0, channels, CHANNELS):
        place, inside = _tile(image, pixel, first + tl.arange(0, CHANNELS), channels, extent, LAST)
        centred = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - middle[:, None]
        found += tl.sum(tl.where(inside, centred * centred, 0.0), 1)
    tl.store(mean + image * extent + pixel, middle, mask=pixel < extent)
    tl.store(squares + image * extent + pixel, found, mask=pixel < extent)


@triton.jit
def _apply(
    x,
    weights,
    biases,
    mean,
    inverse,
    y,
    channels,
    extent,
    count,
    WHOLE: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    if LAST:
        channel, spot = place % channels, place // channels
    else:
        channel, spot = place // extent % channels, place // (channels * extent) * extent + place % extent
    middle = tl.load(mean + spot, mask=inside, other=0.0)
    scale = tl.load(inverse + (spot // extent if WHOLE else spot), mask=inside, other=0.0)
    gain = scale * tl.load(weights + channel, mask=inside, other=0.0)
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - middle
    found = value * gain + tl.load(biases + channel, mask=inside, other=0.0)
    tl.store(y + place, found.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gather(
    grad,
    x,
    weights,
    mean,
    drift,
    product,
    channels,
    extent,
    LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # for every pixel: the mean of gradient times weight, and the sum of its products with the centred values
    image = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    spot = image * extent + pixel
    middle = tl.load(mean + spot, mask=pixel < extent, other=0.0)
    first_sum = tl.zeros([PIXELS], tl.float32)
    second_sum = tl.zeros([PIXELS], tl.float32)
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        place, inside = _tile(image, pixel, channel, channels, extent, LAST)
        weight = tl.load(weights + channel, mask=channel < channels, other=0.0)
        seed = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32) * weight[None, :]
        centred = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - middle[:, None]
        first_sum += tl.sum(seed, 1)
        second_sum += tl.sum(seed * centred, 1)
    tl.store(drift + spot, first_sum / channels, mask=pixel < extent)
    tl.store(product + spot, second_sum, mask=pixel < extent)


@triton.jit
def _spread(
    grad,
    x,
    weights,
    mean,
    inverse,
    drift,
    pull,
    to_x,
    to_weights,
    channels,
    extent,
    WHOLE: tl.constexpr,
    LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # one program handles a block of an image's channels and visits their pixels in a fixed order
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    weight = tl.load(weights + channel, mask=known, other=0.0)[None, :]
    slope = tl.zeros([CHANNELS], tl.float32)
    shift = tl.zeros([CHANNELS], tl.float32)
    for first in range(0, extent, PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        place, inside = _tile(image, pixel, channel, channels, extent, LAST)
        spot = image * extent + pixel
        own = image + tl.zeros([PIXELS], tl.int64) if WHOLE else spot
        there = pixel < extent
        scale = tl.load(inverse + own, mask=there, other=0.0)[:, None]
        force = tl.load(pull + own, mask=there, other=0.0)[:, None]
        common = tl.load(drift + spot, mask=there, other=0.0)[:, None]
        middle = tl.load(mean + spot, mask=there, other=0.0)[:, None]
        seed = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        centred = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - middle
        found = scale * (seed * weight - common) - force * centred
        tl.store(to_x + place, found.to(to_x.dtype.element_ty), mask=inside)
        slope += tl.sum(seed * centred * scale, 0)
        shift += tl.sum(seed, 0)
    target = to_weights + image * 2 * channels + channel
    tl.store(target, slope, mask=known)
    tl.store(target + channels, shift, mask=known)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, mean: Tensor, scale: Tensor, eps: float, last: bool
) -> None:
    """Fills `y`, `mean` (B, H, W) and `scale`, (B,) or (B, H, W).

    `last`: maps are channels-last; everything but the maps is float32.
    """
    count, channels, extent = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    squares = torch.empty_like(mean)
    options, grid = _by_pixel(count, extent, last)
    _measure[grid](x, mean, squares, channels, extent, LAST=last, **options)
    if scale.ndim == 1:
        found = squares.flatten(1).sum(1, dtype=torch.float64) / (channels * extent)
    else:
        found = squares.double() / channels
    scale.copy_(torch.rsqrt(found + eps))
    _apply[(triton.cdiv(x.numel(), 512),)](
        *(x, weight, bias, mean, scale, y, channels, extent, x.numel()), WHOLE=scale.ndim == 1, LAST=last, BLOCK=512
    )


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    scale: Tensor,
    to_x: Tensor,
    to_weights: Tensor,
    last: bool,
) -> None:
    """Fills `to_x`, and `to_weights` (B, 2, C) with each image's gradients for weight and bias."""
    count, channels, extent = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    drift, product = torch.empty_like(mean), torch.empty_like(mean)
    options, grid = _by_pixel(count, extent, last)
    _gather[grid](grad, x, weight, mean, drift, product, channels, extent, LAST=last, **options)
    if scale.ndim == 1:
        total = product.flatten(1).sum(1, dtype=torch.float64) / (channels * extent)
    else:
        total = product.double() / channels
    pull = (scale.double() ** 3 * total).to(scale.dtype)
    pixels, block = (32, 32) if last else (1024, 1)
    _spread[count, triton.cdiv(channels, block)](
        *(grad, x, weight, mean, scale, drift, pull, to_x, to_weights, channels, extent),
        **{"WHOLE": scale.ndim == 1, "LAST": last, "PIXELS": pixels, "CHANNELS": block},
    )


def _by_pixel(count: int, extent: int, last: bool) -> tuple[dict[str, int], tuple[int, int]]:
    pixels, block = (16, 64) if last else (128, 4)
    return {"PIXELS": pixels, "CHANNELS": block}, (count, triton.cdiv(extent, pixels))
