"""The GPU kernels of `kernels.correlation`, in Triton: all filters of a stage in one pass along one axis.

A program holds the sums of up to 16 filters for a block of neighbouring outputs, so an input is read from memory once
for all filters. The adjoint gathers too: only every stride-th tap contributes to a position, and only those are
visited. Sums are in float32, in the order of the taps, the same for every position.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK, _LANES = 128, 16


@triton.jit
def _correlate(
    x,
    weight,
    y,
    extent,
    count,
    across,
    stride,
    before,
    taps,
    filters,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # A block of one plane of outputs, in the order of memory; ROWS: the axis is the second last, else the last.
    image = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.program_id(2) * LANES + tl.arange(0, LANES)
    inside = place < count * across
    if ROWS:
        o, other, step = place // across, place % across, across
        start = other
    else:
        o, other, step = place % count, place // count, 1
        start = other * extent
    total = tl.zeros([LANES, BLOCK], tl.float32)
    for i in tl.static_range(INPUTS):
        plane = x + (image * INPUTS + i) * extent * across
        for k in range(taps):
            p = o * stride - before + k
            meets = inside & (p >= 0) & (p < extent)
            value = tl.load(plane + start + p * step, mask=meets, other=0.0).to(tl.float32)
            tap = tl.load(weight + (lane * INPUTS + i) * taps + k, mask=lane < filters, other=0.0).to(tl.float32)
            total += tap[:, None] * value[None, :]
    target = y + (image * filters + lane)[:, None] * count * across + place[None, :]
    tl.store(target, total.to(y.dtype.element_ty), mask=(lane < filters)[:, None] & inside[None, :])


@triton.jit
def _spread(
    y,
    weight,
    x,
    extent,
    count,
    across,
    stride,
    before,
    taps,
    filters,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # A block of one plane of the result; the taps k = r, r + stride, ... contribute to positions of remainder r.
    job = tl.program_id(0)
    image, i = (job // INPUTS).to(tl.int64), job % INPUTS
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < extent * across
    if ROWS:
        p, other, step = place // across, place % across, across
        start = other
    else:
        p, other, step = place % extent, place // extent, 1
        start = other * count
    first, remainder = (p + before) // stride, (p + before) % stride
    total = tl.zeros([BLOCK], tl.float32)
    for f in range(filters):
        plane = y + (image * filters + f) * count * across
        for j in range((taps + stride - 1) // stride):
            k, o = remainder + j * stride, first - j
            meets = inside & (k < taps) & (o >= 0) & (o < count)
            value = tl.load(plane + start + o * step, mask=meets, other=0.0).to(tl.float32)
            tap = tl.load(weight + (f * INPUTS + i) * taps + k, mask=meets, other=0.0).to(tl.float32)
            total += tap * value
    tl.store(x + job.to(tl.int64) * extent * across + place, total.to(x.dtype.element_ty), mask=inside)


def correlation(x: Tensor, weight: Tensor, axis: int, stride: int, before: int) -> Tensor:
    """(N, I, H, W) -> (N, O, ...), as in `strided_correlation`."""
    x, weight = x.contiguous(), weight.contiguous()
    filters, inputs, taps, extent = *weight.shape[:2], weight.shape[axis], x.shape[axis]
    shape = [x.shape[0], filters, *x.shape[2:]]
    shape[axis] = count = (extent + 2 * before - taps) // stride + 1
    y = x.new_empty(shape)
    if y.numel():
        across = x.shape[5 - axis]
        lanes = min(_LANES, triton.next_power_of_2(filters))
        grid = (x.shape[0], triton.cdiv(count * across, _BLOCK), triton.cdiv(filters, lanes))
        options = {"INPUTS": inputs, "ROWS": axis == 2, "LANES": lanes, "BLOCK": _BLOCK, "enable_fp_fusion": False}
        _correlate[grid](x, weight, y, extent, count, across, stride, before, taps, filters, **options)
    return y


def adjoint(y: Tensor, weight: Tensor, axis: int, stride: int, before: int, extent: int) -> Tensor:
    """(N, O, ...) -> (N, I, ...) with `extent` positions along the axis."""
    y, weight = y.contiguous(), weight.contiguous()
    filters, inputs, taps, count = *weight.shape[:2], weight.shape[axis], y.shape[axis]
    shape = [y.shape[0], inputs, *y.shape[2:]]
    shape[axis] = extent
    x = torch.empty(shape, dtype=y.dtype, device=y.device)
    if x.numel():
        across = y.shape[5 - axis]
        grid = (x.shape[0] * inputs, triton.cdiv(extent * across, _BLOCK))
        options = {"INPUTS": inputs, "ROWS": axis == 2, "BLOCK": _BLOCK, "enable_fp_fusion": False}
        _spread[grid](y, weight, x, extent, count, across, stride, before, taps, filters, **options)
    return x
