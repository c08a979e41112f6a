"""Shifted views of a batch of images, and a network's logits of them.

Draws are a function of (name, seed, repeat, image number), so that no view depends on the batch.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.base.modes import evaluating
from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.data.shifts import crop_window, roll
from stillpoint.core.metrics.outputs import Output, as_tensor, logits_of

#: What enters at the edge: the pixels that leave at the opposite one, or zeros (the mean colour of normalised images).
Boundary = Literal["circular", "zeros"]


def check_boundary(boundary: str) -> None:
    """ValueError unless the boundary is one of `Boundary`."""
    if boundary not in get_args(Boundary):
        raise ValueError(f"boundary must be one of {', '.join(get_args(Boundary))}, not {boundary!r}")


def shifted_pairs(
    images: Tensor,
    indices: Tensor,
    *,
    boundary: Boundary = "circular",
    max_shift: int = 3,
    repeats: int = 5,
    name: str = "circular",
    seed: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """`repeats` pairs of shifted views of images (B, C, H, W), each axis uniform in -max_shift..max_shift-1 pixels.

    `indices` (B,) number the images in their set, and `name` separates the draws of different evaluations. With
    boundary "zeros" the views are windows of the padded images, as in APS's standard consistency.
    """
    padded = F.pad(images, (max_shift,) * 4) if boundary == "zeros" else images
    for repeat in range(repeats):
        drawn = uniform_integers(indices, -max_shift, max_shift, 4, name, seed, repeat).to(images.device)
        if images.shape[2] == 1:
            drawn[:, 0::2] = 0  # signals have one row
        yield tuple(_moved(padded, drawn[:, k : k + 2], images, max_shift) for k in (0, 2))  # type: ignore[misc]


def _moved(padded: Tensor, shifts: Tensor, images: Tensor, max_shift: int) -> Tensor:
    if padded is images:
        return roll(images, shifts)
    return crop_window(padded, max_shift + shifts, (images.shape[2], images.shape[3]))


def every_shift(images: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All H x W circular shifts of images (B, C, H, W), in batches of (positions of images, these images shifted).

    Batches run over (image, shift) pairs, shift by shift in the order of rows and columns, so that few images are no
    slower per view than many.
    """
    count, (height, width) = len(images), images.shape[2:]
    shifts = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(images.device)  # (S, 2)
    for start in range(0, len(shifts) * count, batch_size):
        pair = torch.arange(start, min(start + batch_size, len(shifts) * count), device=images.device)
        image = pair % count
        yield image, roll(images[image], shifts[pair // count])


def prepared(
    net: Callable[..., Any], images: Any, first: int = 0, indices: Any = None, output: Output | None = None
) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """(`net` as a function from images to float32 logits, images (B, C, H, W), their numbers (B,) in the set).

    A module is in eval mode during a call. Signals (B, C, L) are handled as images of one row, which the network does
    not see. The numbers are `indices`, or count up from `first`. ValueError for another number of indices than images.
    """
    images = as_tensor(images)
    numbers = torch.arange(first, first + len(images)) if indices is None else as_tensor(indices).cpu()
    if numbers.shape != (len(images),):
        raise ValueError(f"each of {len(images)} images needs an index, got indices of shape {tuple(numbers.shape)}")
    signals = images.ndim == 3

    def predict(views: Tensor) -> Tensor:
        with evaluating(net):
            return logits_of(net(views.squeeze(2) if signals else views), output).float()

    return predict, images.unsqueeze(2) if signals else images, numbers
