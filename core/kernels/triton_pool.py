"""The GPU kernels, in Triton: every blur, its adjoint and sampling on a chosen grid are one kernel with two tables.

A table lists, for every output position of an axis, the inputs and taps that contribute. Padding, cropping, phase and
the wrap of odd sizes are only in the tables, and the adjoint uses the transposed tables. Each element is read from
memory once (its neighbours' taps find it in the cache) and written once; sums are in float32, down the columns first
and in the order of the taps, the same for every pixel.

Every function takes the arguments of its operator.
"""

from functools import lru_cache
from math import comb

import torch
import triton
import triton.language as tl
from torch import Tensor

from stillpoint.core.kernels.layout import is_channels_last


@triton.jit
def _apply(
    x,
    y,
    row_from,
    row_weight,
    column_from,
    column_weight,
    phase,
    channels,
    height,
    width,
    height_out,
    width_out,
    stride,
    HAS_PHASE: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One program is a block of one plane, or of one row of pixels where the channels come last.
    job = tl.program_id(0)
    offset = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if LAST:
        image = job // height_out
        row = job % height_out + tl.zeros_like(offset)
        column = offset // channels
        inside = column < width_out
        source = x + image.to(tl.int64) * height * width * channels + offset % channels
        target = y + job.to(tl.int64) * width_out * channels + offset
        row_step, column_step = width * channels, channels
    else:
        image = job // channels
        row = offset // width_out
        column = offset % width_out
        inside = row < height_out
        source = x + job.to(tl.int64) * height * width
        target = y + job.to(tl.int64) * height_out * width_out + offset
        row_step, column_step = width, 1
    if HAS_PHASE:
        k = tl.load(phase + image).to(tl.int32)
        row += k % stride * height_out
        column += k // stride * width_out
    total = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(COLUMNS):
        across = tl.load(column_from + column * COLUMNS + j, mask=inside, other=0)
        weight = tl.load(column_weight + column * COLUMNS + j, mask=inside, other=0.0)
        down = tl.zeros([BLOCK], tl.float32)
        for i in tl.static_range(ROWS):
            at = tl.load(row_from + row * ROWS + i, mask=inside, other=0)
            tap = tl.load(row_weight + row * ROWS + i, mask=inside, other=0.0)
            meets = inside & (tap != 0) & (weight != 0)
            value = tl.load(source + at * row_step + across * column_step, mask=meets, other=0.0)
            down += tap * value.to(tl.float32)
        total += weight * down
    tl.store(target, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _measure(
    x,
    pixels,
    ways,
    row_from,
    row_weight,
    column_from,
    column_weight,
    channels,
    height,
    width,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CRITERION: tl.constexpr,
    SCALED: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # All channels of a block of pixels of one image of the blurred map, which is never written. SCALED: a second pass,
    # only for images whose squares over- or underflow, scaled by a power of two: up (1), down (-1) or not at all (0).
    image = tl.program_id(0)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    row, column, inside = pixel // width, pixel % width, pixel < height * width
    lane = tl.arange(0, CHANNELS)
    source = x + image.to(tl.int64) * channels * height * width
    if LAST:
        row_step, column_step, channel_step = width * channels, channels, 1
    else:
        row_step, column_step, channel_step = width, 1, height * width
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    if CRITERION == "max":
        total -= float("inf")
    looked_at = channels
    if SCALED:
        way = tl.load(ways + image)
        inside = inside & (way + tl.zeros_like(pixel) != 0)
        looked_at = tl.where(way != 0, channels, 0)
        # 2**80 and 2**-80
        scale = tl.where(way > 0, 1208925819614629174706176.0, 8.271806125530277e-25)
    for first in range(0, looked_at, CHANNELS):
        channel = first + lane
        blurred = tl.zeros([PIXELS, CHANNELS], tl.float32)
        for j in tl.static_range(COLUMNS):
            across = tl.load(column_from + column * COLUMNS + j, mask=inside, other=0)
            weight = tl.load(column_weight + column * COLUMNS + j, mask=inside, other=0.0)
            down = tl.zeros([PIXELS, CHANNELS], tl.float32)
            for i in tl.static_range(ROWS):
                at = tl.load(row_from + row * ROWS + i, mask=inside, other=0)
                tap = tl.load(row_weight + row * ROWS + i, mask=inside, other=0.0)
                meets = (inside & (tap != 0) & (weight != 0))[:, None] & (channel < channels)[None, :]
                place = (at * row_step + across * column_step)[:, None] + (channel * channel_step)[None, :]
                value = tl.load(source + place, mask=meets, other=0.0)
                down += tap[:, None] * value.to(tl.float32)
            blurred += weight[:, None] * down
        if SCALED:
            blurred = blurred * scale
        if CRITERION == "l2":
            total += blurred * blurred
        elif CRITERION == "l1":
            total += tl.abs(blurred)
        elif CRITERION == "l_infty":
            total = tl.maximum(total, tl.abs(blurred), propagate_nan=tl.PropagateNan.ALL)
        else:
            known = tl.where((channel < channels)[None, :], blurred, float("-inf"))
            total = tl.maximum(total, known, propagate_nan=tl.PropagateNan.ALL)
    place = pixels + image.to(tl.int64) * height * width + pixel
    if CRITERION == "l2" or CRITERION == "l1":
        tl.store(place, tl.sum(total, axis=1), mask=inside)
    else:
        spoilt = tl.sum((total != total).to(tl.int32), axis=1) > 0
        tl.store(place, tl.where(spoilt, float("nan"), tl.max(total, axis=1)), mask=inside)


def blur_pool(x: Tensor, phase: Tensor | None, size: int, stride: list[int], padding: str, pad_off: int) -> Tensor:
    """Blur and subsample: (B, C, H, W) -> (B, C, h, w)."""
    out = [(n + 2 * pad_off - 1) // s + 1 for n, s in zip(x.shape[2:], stride, strict=True)]
    return _run(x, phase, list(x.shape[2:]), out, size, stride, padding, pad_off, adjoint=False)


def blur_pool_adjoint(
    y: Tensor, phase: Tensor | None, shape: list[int], size: int, stride: list[int], padding: str, pad_off: int
) -> Tensor:
    """The transpose: (B, C, h, w) -> (B, C, *shape)."""
    return _run(y, phase, shape, list(y.shape[2:]), size, stride, padding, pad_off, adjoint=True)


def polyphase_pool(
    x: Tensor, size: int, stride: list[int], padding: str, criterion: str, after_blur: bool
) -> tuple[Tensor, Tensor]:
    """Choose each image's phase in one pass, sample there in another: (B, C, h, w) and (B,) int64."""
    phase = _choose(x, size if after_blur else 1, stride, padding, criterion)
    return blur_pool(x, phase, size, stride, padding, 0), phase


def choose_phase(x: Tensor, stride: list[int], criterion: str) -> Tensor:
    """Each image's phase, (B,) int64."""
    return _choose(x, 1, stride, "circular", criterion)


def _run(
    x: Tensor,
    phase: Tensor | None,
    shape: list[int],
    out: list[int],
    size: int,
    stride: list[int],
    padding: str,
    pad_off: int,
    *,
    adjoint: bool,
) -> Tensor:
    last = is_channels_last(x)
    x = x if last else x.contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    result = shape if adjoint else out
    y = torch.empty((*x.shape[:2], *result), dtype=x.dtype, device=x.device, memory_format=layout)
    if not y.numel():
        return y
    tables = [
        tensor
        for n, m, s in zip(shape, out, stride, strict=True)
        for tensor in _table(n, m, s, size, padding, pad_off, s if phase is not None else 1, adjoint, x.device)
    ]
    batch, channels = x.shape[:2]
    area = result[1] * channels if last else result[0] * result[1]
    block = min(1024, triton.next_power_of_2(area))
    _apply[(batch * (result[0] if last else channels), triton.cdiv(area, block))](
        x,
        y,
        *tables,
        tables[0] if phase is None else phase.contiguous(),
        channels,
        *x.shape[2:],
        *result,
        stride[0],
        HAS_PHASE=phase is not None,
        LAST=last,
        ROWS=tables[0].shape[-1],
        COLUMNS=tables[2].shape[-1],
        BLOCK=block,
        num_warps=max(1, min(8, block // 128)),
        enable_fp_fusion=False,
    )
    return y


def _choose(x: Tensor, size: int, stride: list[int], padding: str, criterion: str) -> Tensor:
    batch, channels, height, width = x.shape
    if not x.numel():
        return torch.zeros(batch, dtype=torch.int64, device=x.device)
    last = is_channels_last(x)
    x = x if last else x.contiguous()
    pixels = torch.empty((batch, height, width), dtype=torch.float32, device=x.device)
    kind = criterion.removesuffix("_min")
    tables = [t for n in (height, width) for t in _table(n, n, 1, size, padding, 0, 1, False, x.device)]
    lanes = min(64, triton.next_power_of_2(channels)) if last else 1
    block = min(max(1, 256 // lanes), triton.next_power_of_2(height * width))
    for again in (False, True) if kind in ("l1", "l2") else (False,):
        # decided on the GPU, without synchronising: only images that need it are read twice
        ways = _ways(pixels.amax((1, 2))) if again else pixels
        _measure[(batch, triton.cdiv(height * width, block))](
            x,
            pixels,
            ways,
            *tables,
            channels,
            height,
            width,
            LAST=last,
            ROWS=tables[0].shape[-1],
            COLUMNS=tables[2].shape[-1],
            CRITERION=kind,
            SCALED=again,
            PIXELS=block,
            CHANNELS=lanes,
            enable_fp_fusion=False,
        )
    s, t = stride
    # The pixels of a phase are few: PyTorch sums them, in float64.
    rows, columns = (
        torch.arange(-(-n // k) * k, device=x.device) % n for n, k in ((height, s), (width, t))
    )  # repeats the first rows and columns where the stride does not divide the size
    grids = pixels.double()[:, rows][:, :, columns].unflatten(2, (-1, t)).unflatten(1, (-1, s))  # (B, h, s, w, t)
    scores = grids.sum((1, 3)) if kind in ("l1", "l2") else grids.amax((1, 3))
    scores = scores.transpose(1, 2).flatten(1)  # (B, s * t)
    return scores.argmin(1) if criterion.endswith("_min") else scores.argmax(1)


def _ways(largest: Tensor) -> Tensor:
    """1 where a sum of squares may underflow in float32, -1 where it may overflow, else 0; `largest`: each image's
    largest sum."""
    return (largest < 2.0**-80).int() - (largest > 2.0**90).int()


def _padded(i: int, n: int, padding: str) -> int | None:
    if 0 <= i < n:
        return i
    if padding == "reflect":
        return -i if i < 0 else 2 * (n - 1) - i
    if padding == "replicate":
        return 0 if i < 0 else n - 1
    return i % n if padding == "circular" else None


@lru_cache(maxsize=256)
def _table(
    n: int, m: int, stride: int, size: int, padding: str, pad_off: int, phases: int, adjoint: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(phases, positions, terms) each: the input positions of every output of an axis, int32, and their taps, float32,
    padded with 0."""
    taps = [comb(size - 1, i) / 2 ** (size - 1) for i in range(size)]
    before = (size - 1) // 2 + pad_off
    lists: list[list[list[tuple[int, float]]]] = []
    for phase in range(phases):
        meets: list[list[tuple[int, float]]] = [[] for _ in range(n if adjoint else m)]
        for j, tap in enumerate(taps):
            for o in range(m):
                source = _padded((o * stride + phase) % (n + 2 * pad_off) - before + j, n, padding)
                if source is not None:
                    meets[source if adjoint else o].append((o if adjoint else source, tap))
        lists.append(meets)
    width = max(1, max(len(terms) for meets in lists for terms in meets))
    filled = [[terms + [(0, 0.0)] * (width - len(terms)) for terms in meets] for meets in lists]
    table = torch.tensor(filled, dtype=torch.float64)  # (phases, positions, terms, 2)
    return (
        table[..., 0].to(device=device, dtype=torch.int32).contiguous(),
        table[..., 1].to(device=device, dtype=torch.float32).contiguous(),
    )
