"""The GPU kernels of `kernels.translation`, in Triton: convolution, ReLU and quadrants' means in one pass over a map.

`triton_mixture` mixes by the weights. The backward pass recomputes the convolution, as on a CPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stillpoint.core.kernels import triton_mixture


@triton.jit
def _tile(image, pixel, channel, channels, extent, LAST: tl.constexpr):
    # offsets of a block of an image's pixels and channels, and which of them exist
    if LAST:
        place = (image * extent + pixel[:, None]) * channels + channel[None, :]
    else:
        place = (image * channels + channel[None, :]) * extent + pixel[:, None]
    return place, (pixel < extent)[:, None] & (channel < channels)[None, :]


@triton.jit
def _tap(x, place, inside, pixel, height, width, step, tap, TURNED: tl.constexpr):
    # the neighbours under a tap of a 3x3 convolution, zeros beyond the border
    down, across = tap // 3 - 1, tap % 3 - 1
    if TURNED:
        down, across = -down, -across
    row, column = pixel // width + down, pixel % width + across
    there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    moved = place + (down * width + across) * step
    return tl.load(x + moved, mask=inside & there[:, None], other=0.0).to(tl.float32)


@triton.jit
def _judge(
    x,
    weights,
    means,
    psi,
    channels,
    height,
    width,
    KEEP: tl.constexpr,
    LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # one program handles a block of an image's channels and visits their pixels in a fixed order
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known, extent = channel < channels, height * width
    step = channels if LAST else 1
    which = tl.arange(0, 4)
    sums = tl.zeros([4, CHANNELS], tl.float32)
    for first in range(0, extent, PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        place, inside = _tile(image, pixel, channel, channels, extent, LAST)
        value = tl.zeros([PIXELS, CHANNELS], tl.float32)
        for tap in tl.static_range(9):
            weight = tl.load(weights + channel * 9 + tap, mask=known, other=0.0)[None, :]
            value += weight * _tap(x, place, inside, pixel, height, width, step, tap, False)
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
        if KEEP:
            tl.store(psi + place, value.to(psi.dtype.element_ty), mask=inside)
        value = tl.where(inside, value, 0.0)
        quadrant = (pixel // width * 2 >= height).to(tl.int32) * 2 + (pixel % width * 2 >= width).to(tl.int32)
        for k in tl.static_range(4):
            part = tl.sum(tl.where((quadrant == k)[:, None], value, 0.0), 0)
            sums += tl.where((which == k)[:, None], part[None, :], 0.0)
    target = means + (image * channels + channel[None, :]) * 4 + which[:, None]
    tl.store(target, sums * 4 / extent, mask=known[None, :] & (which < 4)[:, None])


@triton.jit
def _edge(
    x,
    weights,
    pull,
    to_psi,
    edge,
    to_taps,
    channels,
    height,
    width,
    GIVEN: tl.constexpr,
    LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # the gradient before the ReLU, and each image's gradient of the taps, (B, C, 9)
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known, extent = channel < channels, height * width
    step = channels if LAST else 1
    which = tl.arange(0, 16)
    sums = tl.zeros([16, CHANNELS], tl.float32)
    for first in range(0, extent, PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        place, inside = _tile(image, pixel, channel, channels, extent, LAST)
        value = tl.zeros([PIXELS, CHANNELS], tl.float32)
        for tap in tl.static_range(9):
            weight = tl.load(weights + channel * 9 + tap, mask=known, other=0.0)[None, :]
            value += weight * _tap(x, place, inside, pixel, height, width, step, tap, False)
        quadrant = (pixel // width * 2 >= height).to(tl.int32) * 2 + (pixel % width * 2 >= width).to(tl.int32)
        own = (image * channels + channel[None, :]) * 4 + quadrant[:, None]
        found = tl.load(pull + own, mask=inside, other=0.0)
        if GIVEN:
            found += tl.load(to_psi + place, mask=inside, other=0.0).to(tl.float32)
        found = tl.where(value > 0, found, 0.0)
        tl.store(edge + place, found, mask=inside)
        for tap in tl.static_range(9):
            part = tl.sum(found * _tap(x, place, inside, pixel, height, width, step, tap, False), 0)
            sums += tl.where((which == tap)[:, None], part[None, :], 0.0)
    target = to_taps + (image * channels + channel[None, :]) * 9 + which[:, None]
    tl.store(target, sums, mask=known[None, :] & (which < 9)[:, None])


@triton.jit
def _pull(
    edge,
    weights,
    tau,
    to_y,
    to_x,
    channels,
    height,
    width,
    LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # the transposed convolution of the gradient before the ReLU, plus the gradient through the mixture
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    pixel = tl.program_id(2) * PIXELS + tl.arange(0, PIXELS)
    known, extent = channel < channels, height * width
    step = channels if LAST else 1
    place, inside = _tile(image, pixel, channel, channels, extent, LAST)
    value = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tap in tl.static_range(9):
        weight = tl.load(weights + channel * 9 + tap, mask=known, other=0.0)[None, :]
        value += weight * _tap(edge, place, inside, pixel, height, width, step, tap, True)
    row, column = pixel // width, pixel % width
    phase = row % 2 + column % 2 * 2
    sampled = row // 2 * (width // 2) + column // 2
    small, _ = _tile(image, sampled, channel, channels, extent // 4, LAST)
    share = tl.load(tau + (image * channels + channel[None, :]) * 4 + phase[:, None], mask=inside, other=0.0)
    value += share * tl.load(to_y + small, mask=inside, other=0.0).to(tl.float32)
    tl.store(to_x + place, value.to(to_x.dtype.element_ty), mask=inside)


def forward(x: Tensor, weight: Tensor, scale: Tensor, y: Tensor, tau: Tensor, psi: Tensor | None, last: bool) -> None:
    """Fills `y`, `tau` (B, C, 4) and `psi`; `last`: maps are channels-last; the rest is float32."""
    tau.copy_((_means(x, weight, psi, last) * scale[:, None]).softmax(2))
    triton_mixture.mix(x, tau, y, last)


def backward(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    to_y: Tensor,
    to_tau: Tensor | None,
    to_psi: Tensor | None,
    to_x: Tensor,
    to_weights: Tensor,
    last: bool,
) -> None:
    """Fills `to_x`, and `to_weights` (B, C, 10) with each image's gradients for the taps and the scale."""
    count, channels, height, width = x.shape
    means = _means(x, weight, None, last)
    tau, total = (means * scale[:, None]).softmax(2), torch.empty_like(means)
    triton_mixture.weigh(x, total, to_y, last)
    if to_tau is not None:
        total = total + to_tau
    step = tau * (total - (tau * total).sum(2, keepdim=True))
    to_weights[:, :, 9] = (step * means).sum(2)
    pull = step * scale[:, None] / (height * width // 4)
    edge = torch.empty_like(x, dtype=torch.float32)
    taps = torch.empty(count, channels, 9, dtype=torch.float32, device=x.device)
    options, grid = _blocks(x, last)
    _edge[grid](
        *(x, weight, pull, x if to_psi is None else to_psi, edge, taps, channels, height, width),
        **{"GIVEN": to_psi is not None, "LAST": last, **options},
    )
    to_weights[:, :, :9] = taps
    pixels, block = (16, 32) if last else (512, 1)
    _pull[count, triton.cdiv(channels, block), triton.cdiv(height * width, pixels)](
        *(edge, weight, tau, to_y, to_x, channels, height, width), LAST=last, PIXELS=pixels, CHANNELS=block
    )


def _means(x: Tensor, weight: Tensor, psi: Tensor | None, last: bool) -> Tensor:
    means = torch.empty(*x.shape[:2], 4, dtype=torch.float32, device=x.device)
    options, grid = _blocks(x, last)
    kept = {"KEEP": psi is not None, "LAST": last, **options}
    _judge[grid](x, weight, means, x if psi is None else psi, *x.shape[1:], **kept)
    return means


def _blocks(x: Tensor, last: bool) -> tuple[dict[str, int], tuple[int, int]]:
    pixels, block = (16, 32) if last else (512, 1)
    return {"PIXELS": pixels, "CHANNELS": block}, (x.shape[0], triton.cdiv(x.shape[1], block))
