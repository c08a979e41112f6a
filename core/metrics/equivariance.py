"""Equivariance errors of maps under shifts of the input, and image-to-image errors (NMSE, PSNR, SSIM)."""

from itertools import product
from math import ceil, floor

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.data.shifts import fourier_shift
from stillpoint.core.metrics.logit_change import relative_logit_change


def equivariance_error(
    features: Tensor, shifted: Tensor, *, shift: tuple[int, int], size: tuple[int, int], fractional: bool = False
) -> Tensor:
    """Smallest relative change between roll(F(x), r) and F(roll(x, s)) over the rolls r that a shift by s may cause.

    features, shifted   (B, C, h, w), or (B, K) without positions: F(x) and F(roll(x, s))
    shift               s = (rows, columns) of the input
    size                (H, W) of the input
    fractional          also try a shift by s/t itself, by trigonometric interpolation, as a band-limited map on a fixed
                        grid moves
    Returns (B,): max |difference| / max |F(x)|, the maxima over channels and positions.

    With the cumulative stride t = H/h the map moves by s/t if that is an integer. Otherwise a map with a chosen grid
    (adaptive polyphase sampling) moves by s/t rounded down or up on each axis (rounding once, or at each stride of a
    cascade, spans the same two numbers); each image takes the better one. With a fixed grid no roll fits, and the error
    is due to aliasing. ValueError for maps of different shapes.

    Examples:
        >>> x = torch.randn(1, 3, 8, 8)
        >>> metrics.equivariance_error(x, x.roll(2, -1), shift=(0, 2), size=(8, 8)).item()
        0.0
    """
    if features.ndim == 2:
        return relative_logit_change(features, shifted)
    if features.ndim != 4 or features.shape != shifted.shape:
        raise ValueError(
            f"maps must be (B, C, h, w) or (B, K) of one shape, not {tuple(features.shape)} and {tuple(shifted.shape)}"
        )
    moves = []
    for s, full, h in zip(shift, size, features.shape[-2:], strict=True):
        # s * h / H, not s / (H / h): exact for whole results
        moves.append(sorted({floor(s * h / full) % h, ceil(s * h / full) % h}))
    errors = [relative_logit_change(features.roll(roll, (-2, -1)), shifted) for roll in product(*moves)]
    if fractional and len(errors) > 1:
        way = [s * h / full for s, full, h in zip(shift, size, features.shape[-2:], strict=True)]
        errors.append(relative_logit_change(fourier_shift(features, way), shifted))
    return torch.stack(errors).amin(0)


def nmse(target: Tensor, output: Tensor) -> Tensor:
    """Normalised mean squared error ||target - output||^2 / ||target||^2 of each image: (B, ...) -> float64 (B,).

    Examples:
        >>> metrics.nmse(torch.ones(1, 4), torch.zeros(1, 4)).item()
        1.0
    """
    target, output = _pair(target, output)
    return (target - output).square().flatten(1).sum(1) / target.square().flatten(1).sum(1)


def psnr(target: Tensor, output: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, the peak being the target's maximum: (B, ...) -> float64 (B,).

    Infinite if both are equal. The target's maximum must be positive (it is for magnitude images).

    Examples:
        >>> round(metrics.psnr(torch.ones(1, 4), torch.full((1, 4), 0.9)).item(), 2)
        20.0
    """
    target, output = _pair(target, output)
    error = (target - output).square().flatten(1).mean(1)
    return 10 * torch.log10(target.flatten(1).amax(1).square() / error)


def ssim(target: Tensor, output: Tensor, *, window: int = 7) -> Tensor:
    """Structural similarity of each image: (B, C, H, W) -> float64 (B,), 1 for equal images.

    Wang et al. 2004 with the settings of fastMRI's evaluation: a uniform `window` x `window`, unbiased local variances,
    terms (0.01 L)^2 and (0.03 L)^2 for the target's maximum L over the image, mean over channels and all windows that
    fit.

    Examples:
        >>> x = torch.rand(1, 1, 16, 16)
        >>> round(metrics.ssim(x, x).item(), 4)
        1.0
    """
    target, output = _pair(target, output)
    if target.ndim != 4 or min(target.shape[-2:]) < window:
        raise ValueError(f"images must be (B, C, H, W) of at least {window}x{window} pixels, not {tuple(target.shape)}")
    peak = target.flatten(1).amax(1)[:, None, None, None]
    first, second = (0.01 * peak) ** 2, (0.03 * peak) ** 2

    def local(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, stride=1)

    unbiased = window**2 / (window**2 - 1)
    a, b = local(target), local(output)  # (B, C, H - window + 1, W - window + 1)
    variance_a = unbiased * (local(target * target) - a * a)
    variance_b = unbiased * (local(output * output) - b * b)
    covariance = unbiased * (local(target * output) - a * b)
    luminance = (2 * a * b + first) / (a * a + b * b + first)
    structure = (2 * covariance + second) / (variance_a + variance_b + second)
    return (luminance * structure).flatten(1).mean(1)


def _pair(target: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    if target.shape != output.shape:
        raise ValueError(f"images of shapes {tuple(target.shape)} and {tuple(output.shape)} cannot be compared")
    wide = torch.float32 if target.device.type == "mps" else torch.float64
    return target.to(wide), output.to(wide)
