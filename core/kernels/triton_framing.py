"""The GPU kernels of `kernels.framing`, in Triton: a map is read once and its phases are written once, or the reverse.

`height` and `width` are those of a phase, and `count` is the number of pixels to write.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 512


@triton.jit
def _place(place, channels, rows, columns, LAST: tl.constexpr):
    # image, channel, row and column of an element of (N, channels, rows, columns)
    if LAST:
        channel, pixel = place % channels, place // channels
        column, line = pixel % columns, pixel // columns
        row, image = line % rows, line // rows
    else:
        column, line = place % columns, place // columns
        row, plane = line % rows, line // rows
        channel, image = plane % channels, plane // channels
    return image, channel, row, column


@triton.jit
def _offset(image, channel, row, column, channels, rows, columns, LAST: tl.constexpr):
    if LAST:
        found = ((image * rows + row) * columns + column) * channels + channel
    else:
        found = ((image * channels + channel) * rows + row) * columns + column
    return found


@triton.jit
def _split(x, y, channels, height, width, count, WRAPS: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    image, channel, row, column = _place(place, channels, height + 2, width + 2, LAST)
    phase = image % 4
    # row and column in the phase, without its frame
    i, j = row - 1, column - 1
    if WRAPS:
        i, j = (i + height) % height, (j + width) % width
        taken = inside
    else:
        taken = inside & (i >= 0) & (i < height) & (j >= 0) & (j < width)
    source = _offset(image // 4, channel, 2 * i + phase % 2, 2 * j + phase // 2, channels, 2 * height, 2 * width, LAST)
    tl.store(y + place, tl.load(x + source, mask=taken, other=0.0), mask=inside)


@triton.jit
def _join(y, x, channels, height, width, count, WRAPS: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    image, channel, row, column = _place(place, channels, 2 * height, 2 * width, LAST)
    own = image * 4 + row % 2 + 2 * (column % 2)
    i, j = row // 2 + 1, column // 2 + 1
    total = tl.zeros([BLOCK], tl.float32)
    # the pixel itself and its copies in the frame: beyond the end for the first, before the start for the last
    for across in tl.static_range(3 if WRAPS else 1):
        at = j if across == 0 else (j + width if across == 1 else j - width)
        seen = inside if across == 0 else inside & (at == (width + 1 if across == 1 else 0))
        part = tl.zeros([BLOCK], tl.float32)
        for down in tl.static_range(3 if WRAPS else 1):
            line = i if down == 0 else (i + height if down == 1 else i - height)
            there = seen if down == 0 else seen & (line == (height + 1 if down == 1 else 0))
            source = _offset(own, channel, line, at, channels, height + 2, width + 2, LAST)
            part += tl.load(y + source, mask=there, other=0.0).to(tl.float32)
        total += part
    tl.store(x + place, total.to(x.dtype.element_ty), mask=inside)


def split(x: Tensor, y: Tensor, wraps: bool, last: bool) -> None:
    """Fills `y` with the framed phases; `last`: both are channels-last."""
    _run(_split, x, y, x.shape, wraps, last)


def join(x: Tensor, y: Tensor, wraps: bool, last: bool) -> None:
    """Fills `x` with the adjoint of `split`, applied to `y`."""
    _run(_join, y, x, x.shape, wraps, last)


def _run(kernel, source: Tensor, target: Tensor, shape: torch.Size, wraps: bool, last: bool) -> None:
    if not target.numel():
        return
    _, channels, height, width = shape
    options = {"WRAPS": wraps, "LAST": last, "BLOCK": _BLOCK}
    grid = (triton.cdiv(target.numel(), _BLOCK),)
    kernel[grid](source, target, channels, height // 2, width // 2, target.numel(), **options)
