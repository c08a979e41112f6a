"""Ideal resampling of periodic maps, by their Fourier series.

A filter that is 0 or 1 in each Fourier bin, and sampling at any step, are linear and separable. So one small matrix for
each axis does both: two matrix products are several times faster than two transforms for sides up to a thousand pixels,
and write only the result.

Source of the rules for the bins: Michaeli, Michaeli and Soudry, "Alias-free convnets", CVPR 2023, and their code where
`rule` is "authors".
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from stillpoint.core.layers.checks import check_map
from stillpoint.core.layers.phases import Stride, stride_pair
from stillpoint.core.layers.precision import without_autocast

RULES = ("exact", "authors")

# torch.fx, which cannot follow their checks, takes each of these as one step
torch.fx.wrap("ideal_upsample2d")
torch.fx.wrap("band_limit2d")


def ideal_upsample2d(x: Tensor, *, factor: int = 2, rule: str = "exact") -> Tensor:
    """Trigonometric interpolation of a periodic map to `factor` times the resolution.

    Args:
        x: (B, C, H, W), any floating dtype; computed in float32 or better.
        factor: new pixels for each old one along an axis, at least 1.
        rule: "exact" splits the Nyquist bin of an even size between both signs; "authors" halves the highest kept bin
            if the new size is a multiple of four. They are the same at factor 2.

    Returns:
        (B, C, factor * H, factor * W) in the dtype of `x`; pixel (factor * i, factor * j) is pixel (i, j) of `x`.

    Raises:
        ValueError: a factor that is not a positive integer, an unknown rule, an input that is not four-dimensional and
            floating.

    Law: a circular shift of `x` by one pixel shifts the result by `factor` pixels.

    Examples:
        >>> x = torch.randn(1, 3, 5, 5)
        >>> torch.allclose(layers.ideal_upsample2d(x)[..., ::2, ::2], x, atol=1e-5)
        True
    """
    check_map(x)
    check_factor(factor)
    check_rule(rule)
    h, w = x.shape[-2], x.shape[-1]
    return apply_to_axes(x, upsampling(h, factor, rule == "authors", x), upsampling(w, factor, rule == "authors", x))


def band_limit2d(
    x: Tensor, *, cutoff: float = 0.5, stride: Stride = 1, fixed_size: int = 0, rule: str = "exact"
) -> Tensor:
    """Remove the frequencies of a periodic map at or above `cutoff` times Nyquist, then keep every stride-th pixel.

    Args:
        x: (B, C, H, W), any floating dtype; computed in float32 or better.
        cutoff: in (0, 1], a fraction of half a cycle per pixel. Of N bins on an axis those with |k| < N * cutoff / 2
            are kept; a stride of s needs 1 / s.
        stride: one integer or (rows, columns), from the first pixel.
        fixed_size: if positive, keep the bins |k| <= fixed_size // 2 instead, whatever N (all bins of a smaller map):
            the bandwidth of maps of that size.
        rule: "exact", or "authors", which drops one more bin where N is a multiple of four that the cutoff does not
            divide (N = 12, 20, 28, ... at a cutoff of 1/4; never at 1/2).

    Returns:
        (B, C, ceil(H/s), ceil(W/t)) in the dtype of `x`.

    Raises:
        ValueError: a cutoff outside (0, 1], a bad stride or size, an unknown rule, an input that is not
            four-dimensional and floating.

    Law: at stride 1 it commutes with every shift, fractional ones included, and is idempotent.

    Examples:
        >>> layers.band_limit2d(torch.randn(1, 3, 8, 8), cutoff=0.5, stride=2).shape
        torch.Size([1, 3, 4, 4])
    """
    s, t = stride_pair(stride)
    check_map(x)
    check_band(cutoff, fixed_size, rule)
    return limited(x, cutoff, s, t, fixed_size, rule)


def limited(x: Tensor, cutoff: float, s: int, t: int, fixed_size: int, rule: str) -> Tensor:
    """`band_limit2d` without its checks."""
    h, w = x.shape[-2], x.shape[-1]
    rows = filtering(h, highest_bin(h, cutoff, fixed_size, rule), s, x)
    return apply_to_axes(x, rows, filtering(w, highest_bin(w, cutoff, fixed_size, rule), t, x))


def highest_bin(n: int, cutoff: float, fixed_size: int = 0, rule: str = "exact") -> int:
    """The largest |k| that `band_limit2d` keeps of the bins of an axis of `n` pixels."""
    if fixed_size > 0:
        return min(fixed_size // 2, n // 2) if fixed_size < n else n // 2
    if rule == "authors":
        return int(n * cutoff / 2) - (1 if n % 4 == 0 else 0)
    if cutoff == 1:
        return n // 2
    # the largest integer below n * cutoff / 2, robust to rounding (n / 3 may be an integer)
    return math.ceil(n * cutoff / 2 - 1e-9) - 1


def apply_to_axes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ x @ columns.T`` for every map of (B, C, H, W), in its layout: rows (H', H), columns (W', W)."""
    if torch.jit.is_scripting():
        return torch.matmul(rows, torch.matmul(x.to(rows.dtype), columns.transpose(0, 1))).to(x.dtype)
    else:  # TorchScript does not compile this branch
        return _applied(x, rows, columns)


def _applied(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    with without_autocast(x.device):
        y = x.to(rows.dtype)
        if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            y = torch.matmul(rows, torch.matmul(y, columns.mT))
        else:
            b, c, h, _ = x.shape
            y = torch.matmul(columns, y.permute(0, 2, 3, 1))  # (B, H, W', C)
            y = torch.matmul(rows, y.reshape(b, h, -1)).view(b, rows.shape[0], columns.shape[0], c).permute(0, 3, 1, 2)
        return y.to(x.dtype)


def upsampling(n: int, factor: int, authors: bool, like: Tensor) -> Tensor:
    """The matrix (factor * n, n) of `ideal_upsample2d` along an axis, for maps such as `like`."""
    top = n // 2
    fine = factor * n
    # on an even axis the last bin counts half; arithmetic, since a branch would fix an exported axis's parity
    odd = min(fine % 4, 1) if authors else n % 2
    edge = 0.5 + 0.5 * odd if authors or factor > 1 else 1.0
    return _matrix(fine, top, edge, float(factor), 1, factor, like)


def filtering(n: int, top: int, stride: int, like: Tensor) -> Tensor:
    """The matrix (ceil(n / stride), n) that keeps the bins |k| <= `top`, then every stride-th pixel."""
    return _matrix(n, top, 1.0, 1.0, stride, 1, like)


def _matrix(period: int, top: int, edge: float, gain: float, step: int, step_in: int, like: Tensor) -> Tensor:
    dtype = torch.promote_types(like.dtype, torch.float32)
    if torch.jit.is_scripting():
        return _made(period, top, edge, gain, step, step_in, like.device).to(dtype)
    else:  # TorchScript does not compile this branch
        return _kept(period, top, edge, gain, step, step_in, like, dtype)


def _kept(
    period: int, top: int, edge: float, gain: float, step: int, step_in: int, like: Tensor, dtype: torch.dtype
) -> Tensor:
    if torch.compiler.is_compiling():
        return _made(period, top, edge, gain, step, step_in, like.device).to(dtype)
    # when traced, a size is a tensor
    kept = _cached(int(period), int(top), float(edge), gain, step, step_in, str(dtype).removeprefix("torch."))
    return torch.from_numpy(kept).to(like.device)


@lru_cache(maxsize=256)
def _cached(period: int, top: int, edge: float, gain: float, step: int, step_in: int, dtype: str) -> np.ndarray:
    # cached as an array: a tensor made in inference mode or while tracing could not be used outside
    bins = np.arange(period // 2 + 1)
    weights = np.where(bins < top, 1.0, np.where(bins == top, edge, 0.0))
    response = gain * np.fft.irfft(weights, n=period)
    places = np.arange(0, period, step)[:, None] - np.arange(0, period, step_in)
    return response[places % period].astype(dtype)


def _made(period: int, top: int, edge: float, gain: float, step: int, step_in: int, device: torch.device) -> Tensor:
    """`_cached` in tensor operations, which a compiler can keep dynamic in the size."""
    bins = torch.arange(period // 2 + 1, device=device)
    weights = (bins < top).to(torch.float64) + (bins == top).to(torch.float64) * edge
    response = gain * torch.fft.irfft(weights, n=period)
    places = torch.arange(0, period, step, device=device)[:, None] - torch.arange(0, period, step_in, device=device)
    return response[places % period]


def check_factor(factor: int) -> None:
    """Raises ValueError for a factor that is not a positive integer."""
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"factor must be a positive integer, got {factor!r}")


def check_band(cutoff: float, fixed_size: int, rule: str) -> None:
    """Raises ValueError for the options of `band_limit2d` that are out of range."""
    check_rule(rule)
    if not 0 < cutoff <= 1:
        raise ValueError(f"cutoff must be a fraction of the Nyquist frequency in (0, 1], got {cutoff}")
    if not isinstance(fixed_size, int) or fixed_size < 0:
        raise ValueError(f"fixed_size must be the side of a map in pixels, or 0 for none, got {fixed_size!r}")


def check_rule(rule: str) -> None:
    """Raises ValueError unless `rule` is one of `RULES`."""
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
