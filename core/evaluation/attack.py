"""Projected gradient descent: small perturbations of an image that change its class.

A network that withstands this attack may fail a stronger one; one that fails it is not robust. Attack the very network
that is evaluated: same weights, same settings, eval mode.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Norm = Literal["linf", "l2"]


def pgd(
    logits: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    radius: float = 8 / 255,
    steps: int = 20,
    step_size: float | None = None,
    start: Tensor | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> Tensor:
    """Images (B, C, H, W) within `radius` of `images` and within [low, high] that maximise the cross entropy.

    logits      pixels (B, C, H, W) in [low, high] -> (B, K); differentiable, its parameters take no gradient
    norm        of the perturbation: maximum ("linf") or Euclidean ("l2"), in the units of `images`
    step_size   default 2.5 radius / steps
    start       an initial perturbation (B, C, H, W), projected to the ball; default: none

    For each image the worst point visited is returned, so more steps from the same start are never weaker. Source:
    Madry et al. (ICLR 2018), section 2.1. ValueError for an unknown norm and numbers out of range.
    """
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, not {norm!r}")
    if radius < 0 or steps < 1:
        raise ValueError(f"radius must be at least 0 and steps at least 1, not {radius} and {steps}")
    size = 2.5 * radius / steps if step_size is None else step_size
    images = images.detach()
    moved = images if start is None else _inside(images + project(start, norm, radius), images, norm, radius, low, high)
    worst, highest = images, torch.full((len(images),), -torch.inf, device=images.device)
    for step in range(steps + 1):
        moved = moved.detach().requires_grad_(True)
        with torch.enable_grad():
            losses = F.cross_entropy(logits(moved), labels, reduction="none")  # (B,)
        higher = losses.detach() > highest
        worst = torch.where(higher.view(-1, 1, 1, 1), moved.detach(), worst)
        highest = torch.where(higher, losses.detach(), highest)
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(losses.sum(), moved)
        with torch.no_grad():
            moved = _inside(moved + size * _direction(gradient, norm), images, norm, radius, low, high)
    return worst


def project(change: Tensor, norm: Norm, radius: float) -> Tensor:
    """The point nearest to `change` (B, C, H, W) in the ball of this norm and radius, image by image."""
    if norm == "linf":
        return change.clamp(-radius, radius)
    length = change.flatten(1).norm(dim=1).clamp_min(1e-12)
    return change * (radius / length).clamp_max(1.0).view(-1, 1, 1, 1)


def _direction(gradient: Tensor, norm: Norm) -> Tensor:
    if norm == "linf":
        return gradient.sign()
    return gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)


def _inside(moved: Tensor, images: Tensor, norm: Norm, radius: float, low: float, high: float) -> Tensor:
    # clipping to the pixel range moves values towards the image, so the result stays in the ball
    return (images + project(moved - images, norm, radius)).clamp(low, high)
