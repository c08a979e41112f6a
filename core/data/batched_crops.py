"""The views of `data.shifted_crops` for a batch of images of one size, bit for bit as Pillow makes them.

Pillow resizes 8-bit images in two passes, along rows and then along columns, with weights rounded to 22 bits and pixels
rounded to 8 bits in between. Integer arithmetic repeats that exactly, and one pass along rows serves all vertical
shifts.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from math import ceil

import torch
from torch import Tensor

#: bits of Pillow's fixed-point weights
_BITS = 22


@cache
def _taps(source: int, target: int) -> tuple[Tensor, Tensor]:
    """(positions, weights) int64 and int32 (target, taps) of Pillow's bilinear filter from `source` to `target`."""
    scale = source / target
    support = max(scale, 1.0)
    count = ceil(support) * 2 + 1
    positions, weights = torch.zeros(target, count, dtype=torch.int64), torch.zeros(target, count, dtype=torch.int32)
    for place in range(target):
        centre = (place + 0.5) * scale
        first, last = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), source)
        # Python's floats round like C's doubles; a tensor's arithmetic could be fused and differ in the last bit
        raw = [max(0.0, 1.0 - abs((x - centre + 0.5) / support)) for x in range(first, last)]
        total = sum(raw)
        for tap, weight in enumerate(raw):
            positions[place, tap] = first + tap
            weights[place, tap] = int(0.5 + weight / total * (1 << _BITS))
    # drop taps that no pixel uses
    used = int((weights != 0).any(0).nonzero().max()) + 1
    return positions[:, :used], weights[:, :used]


def _weighted(images: Tensor, source: int, target: int, start: int, dim: int) -> Tensor:
    """One pass: resizes `source` pixels from `start` on along `dim` (-1 or -2) to `target` pixels; uint8 to uint8."""
    if source == target:
        return images.narrow(dim, start, source)
    positions, weights = (part.to(images.device) for part in _taps(source, target))
    total = torch.full((), 1 << (_BITS - 1), dtype=torch.int32, device=images.device)
    for tap in range(positions.shape[1]):
        weight = weights[:, tap] if dim == -1 else weights[:, tap, None]
        # 255 times weights that sum to 2**22, plus the rounding half, is below 2**31
        total = total + images.index_select(dim, positions[:, tap] + start).to(torch.int32) * weight
    return (total >> _BITS).clamp_(0, 255).to(torch.uint8)


def resize_batch(images: Tensor, height: int, width: int) -> Tensor:
    """Pillow's bilinear ``resize`` of each image: uint8 (B, C, H, W) -> (B, C, height, width)."""
    rows = _weighted(images, images.shape[-1], width, 0, -1)
    return _weighted(rows, images.shape[-2], height, 0, -2)


def _square(images: Tensor, side: int) -> Tensor:
    """Resizes the shorter side to `side`, then cuts the central square."""
    height, width = images.shape[-2:]
    short = min(height, width)
    images = resize_batch(images, side * height // short, side * width // short)
    top, left = (round((extent - side) / 2) for extent in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


def ten_crops_batch(images: Tensor, size: int, *, resize: int) -> Iterator[Tensor]:
    """`ten_crops` of every image: ten batches uint8 (B, C, size, size)."""
    height, width = images.shape[-2:]
    short = min(height, width)
    images = resize_batch(images, resize * height // short, resize * width // short)
    bottom, right = (extent - size for extent in images.shape[-2:])
    middle = (round(bottom / 2), round(right / 2))
    for top, left in [*((top, left) for top in (0, bottom) for left in (0, right)), middle]:
        crop = images[..., top : top + size, left : left + size]
        yield crop
        yield crop.flip(-1)


def shifted_crops_batch(
    images: Tensor, size: int, offsets: Sequence[tuple[int, int]], *, max_shift: int, divide: int = 1
) -> Iterator[Tensor]:
    """`shifted_crops` of every image at `offsets` (vertical, horizontal) in 1/divide pixels: uint8 (B, C, size, size).

    Consecutive offsets with the same horizontal part share a pass along rows.
    """
    window = divide * size
    large = _square(images, divide * (size + max_shift))
    across: tuple[int, Tensor] | None = None
    for vertical, horizontal in offsets:
        if across is None or across[0] != horizontal:
            across = horizontal, _weighted(large, window, size, horizontal, -1)
        yield _weighted(across[1], window, size, vertical, -2)
