"""The adversarial shifts of alias-free convnets, and the images that stay correct under all of them.

From Michaeli, Michaeli and Soudry, CVPR 2023, and their code: every set is fixed and the same for all images, and an
image counts only if it is correct without a shift and under every shift of the set.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.data.shifts import fourier_shift, roll

#: (rows, columns) in pixels, positive downwards and to the right
Shift = tuple[float, float]


def integer_grid(max_shift: int) -> list[Shift]:
    """Shifts by 1..max_shift-1 whole pixels on both axes, never along one axis alone."""
    return [(a, b) for a in range(1, max_shift) for b in range(1, max_shift)]


def half_grid(max_shift: int) -> list[Shift]:
    """Shifts by (2a-1)/2 pixels up and (2b-1)/2 pixels left, a and b from 1 to max_shift-1."""
    return [((1 - 2 * a) / 2, (1 - 2 * b) / 2) for a in range(1, max_shift) for b in range(1, max_shift)]


def fraction_grid(max_factor: int) -> list[Shift]:
    """Shifts by (a/u, b/u) pixels up and left, a and b from 1 to u-1, for every factor u from 2 to `max_factor` without
    a multiple among the larger ones: with a `max_factor` of 4, u is 3 and 4."""
    factors = [u for u in range(2, max_factor + 1) if not any(v % u == 0 for v in range(u + 1, max_factor + 1))]
    return [(-a / u, -b / u) for u in factors for a in range(1, u) for b in range(1, u)]


def shifted(images: Tensor, shift: Shift) -> Tensor:
    """Images (B, C, H, W) shifted circularly: rolled by whole pixels, by Fourier interpolation for fractions."""
    if all(float(s).is_integer() for s in shift):
        return roll(images, (int(shift[0]), int(shift[1])))
    return fourier_shift(images, shift)


def right_under_all(
    predict: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, shifts: Iterable[Shift]
) -> Tensor:
    """Whether each image is classified correctly without a shift and under all `shifts`: bool (B,).

    Args:
        predict: (B, C, H, W) -> logits (B, K).
        labels: (B,).

    Images that have failed once are not tried again.
    """
    right = predict(images).argmax(1) == labels
    for shift in shifts:
        (left,) = right.nonzero(as_tuple=True)
        if not len(left):
            break
        right[left] = predict(shifted(images[left], shift)).argmax(1) == labels[left]
    return right


def translate_bilinear(images: Tensor, translation: Shift, *, rule: str = "exact") -> Tensor:
    """Shifts the content by a fraction of the image's side, with zeros entering and bilinear interpolation.

    Args:
        images: (B, C, H, W), floating.
        translation: (rows, columns) as fractions of the side; positive moves the content up and left.
        rule: "exact" shifts by that fraction; "authors" builds the sampling grid with align_corners=True and samples it
            with False, which shrinks the image slightly: even a zero translation blurs it.

    Raises:
        ValueError: an unknown rule.
    """
    if rule not in ("exact", "authors"):
        raise ValueError(f"rule must be exact or authors, got {rule!r}")
    places = []
    for size, by in zip(images.shape[2:], translation, strict=True):
        if rule == "authors":
            line = torch.linspace(-1, 1, size, dtype=images.dtype, device=images.device)
        else:
            line = (2 * torch.arange(size, dtype=images.dtype, device=images.device) + 1) / size - 1
        places.append(line + 2 * by)
    rows, columns = torch.meshgrid(*places, indexing="ij")
    grid = torch.stack((columns, rows), -1).expand(images.shape[0], -1, -1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def translation_grid(constraint: float, size: int, *, side: int = 280) -> Sequence[float]:
    """The fractions of the side tried on each axis, `size` of them from -constraint/side to constraint/side."""
    return torch.linspace(-constraint / side, constraint / side, size).tolist()
