"""Views of one photograph, by Pillow: a centre crop, ten crops, and crops shifted by pixels or fractions of one.

Source: the evaluation of Leterme et al., "From CNNs to Shift-Invariant Twin Models Based on Complex Wavelets". All
views are uint8, (V, C, size, size), before any normalisation.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from stillpoint.core.data.streaming import centre_crop, resize_short_side

Direction = Literal["horizontal", "vertical", "diagonal", "all"]


def one_crop(image: Image.Image, size: int, *, resize: int | None = None) -> Tensor:
    """The central window after resizing the shorter side to `resize` (None: `size`): uint8 (1, C, size, size)."""
    return _stack([centre_crop(resize_short_side(image, _at_least(size, resize)), size)])


def ten_crops(image: Image.Image, size: int, *, resize: int) -> Tensor:
    """Corners (left before right, top before bottom) and centre, each before its mirror image: (10, C, size, size)."""
    image = resize_short_side(image, _at_least(size, resize))
    right, bottom = image.width - size, image.height - size
    corners = [(left, top) for top in (0, bottom) for left in (0, right)]
    crops = [image.crop((left, top, left + size, top + size)) for left, top in corners]
    crops.append(centre_crop(image, size))
    return _stack([view for crop in crops for view in (crop, ImageOps.mirror(crop))])


def shifted_crops(
    image: Image.Image, size: int, *, max_shift: int, divide: int = 1, direction: Direction = "all"
) -> Tensor:
    """Windows that move over the image by 1/divide of a pixel at a time, from 0 to `max_shift` pixels.

    The image is resized to `divide` times the resolution, where windows are cut, and then reduced to `size` by Pillow's
    bilinear filter, which averages over the pixels it merges. So the content of view k is shifted by k / divide pixels
    towards the top left.

    Args:
        image: any size and mode.
        size: side of a view, in pixels.
        max_shift: largest shift, in pixels of a view.
        divide: steps per pixel.
        direction: "horizontal", "vertical", "diagonal" (both at once): divide * max_shift + 1 views; or "all" pairs of
            shifts, the vertical one outermost: the square of that.

    Returns:
        uint8 (V, C, size, size).

    Raises:
        ValueError: an unknown direction, a negative `max_shift`, `divide` below 1.
    """
    if direction not in get_args(Direction):
        raise ValueError(f"direction must be one of {', '.join(get_args(Direction))}, got {direction!r}")
    if max_shift < 0 or divide < 1:
        raise ValueError(f"max_shift must be at least 0 and divide at least 1, got {max_shift} and {divide}")
    return crops_at(image, size, shift_offsets(direction, divide * max_shift), max_shift=max_shift, divide=divide)


def shift_offsets(direction: Direction, steps: int) -> list[tuple[int, int]]:
    """The shifts (vertical, horizontal) of a direction in the order of the views, 0..steps along an axis."""
    line = range(steps + 1)
    return {
        "horizontal": [(0, k) for k in line],
        "vertical": [(k, 0) for k in line],
        "diagonal": [(k, k) for k in line],
        "all": [(v, h) for v in line for h in line],
    }[direction]


def crops_at(
    image: Image.Image, size: int, offsets: Sequence[tuple[int, int]], *, max_shift: int, divide: int = 1
) -> Tensor:
    """The views of `shifted_crops` at `offsets` (vertical, horizontal) in 1/divide pixels: uint8 (V, C, size, size)."""
    whole, window = divide * (size + max_shift), divide * size
    image = centre_crop(resize_short_side(image, whole), whole)
    views = [image.crop((h, v, h + window, v + window)) for v, h in offsets]
    return _stack([view.resize((size, size), Image.Resampling.BILINEAR) for view in views])


def _at_least(size: int, resize: int | None) -> int:
    if resize is not None and resize < size:
        raise ValueError(f"resize must be at least the crop's size {size}, got {resize}")
    return resize or size


def _stack(views: list[Image.Image]) -> Tensor:
    arrays = np.stack([np.asarray(view) for view in views])
    arrays = arrays[..., None] if arrays.ndim == 3 else arrays  # (V, H, W, C)
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()
