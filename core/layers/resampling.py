"""Ideal resampling: maps taken as periodic, and what their Fourier series say between the pixels.

A filter that is 0 or 1 in each Fourier bin, and sampling at any step, are linear and act on each axis by itself. So one
small matrix an axis does both at once: two matrix products are several times faster than two transforms up to maps of
a thousand pixels, and nothing but the result is written.

Source of the rules for the bins: Michaeli, Michaeli and Soudry, "Alias-free convnets", CVPR 2023, and their code where
`rule` is "authors".
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from stillpoint.core.layers.phases import Stride, stride_pair
from stillpoint.core.layers.precision import without_autocast

RULES = ("exact", "authors")

# torch.fx, which cannot follow their checks, takes each of these as one step
torch.fx.wrap("ideal_upsample2d")
torch.fx.wrap("band_limit2d")


def ideal_upsample2d(x: Tensor, *, factor: int = 2, rule: str = "exact") -> Tensor:
    """The trigonometric interpolation of a periodic map, `factor` times as fine.

    Args:
        x: (B, C, H, W), any floating dtype; computed in float32 or better.
        factor: new pixels for each old one and axis, from 1.
        rule: "exact", which halves the highest frequency of an even size between its two signs; "authors" halves the
            highest bin kept where the finer size is a multiple of four. They are the same at factor 2.

    Returns:
        (B, C, factor * H, factor * W) in the dtype of `x`; pixel (factor * i, factor * j) is pixel (i, j) of `x`.

    Raises:
        ValueError: a factor below one, an unknown rule, an input that is not four-dimensional and floating.

    Law: a circular shift of `x` by one pixel is one of the result by `factor` pixels.
    """
    _check_map(x)
    if factor < 1:
        raise ValueError(f"factor must be a positive integer, got {factor}")
    _check_rule(rule)
    h, w = x.shape[-2], x.shape[-1]
    return apply_to_axes(x, upsampling(h, factor, rule == "authors", x), upsampling(w, factor, rule == "authors", x))


def band_limit2d(
    x: Tensor, *, cutoff: float = 0.5, stride: Stride = 1, fixed_size: int = 0, rule: str = "exact"
) -> Tensor:
    """Remove the frequencies of a periodic map from `cutoff` of the highest one on, then keep every stride-th pixel.

    Args:
        x: (B, C, H, W), any floating dtype; computed in float32 or better.
        cutoff: in (0, 1], a fraction of half a cycle per pixel. Of N bins on an axis those with |k| < N * cutoff / 2
            are kept; 1 / s is what a stride of s can bear.
        stride: one integer or (rows, columns), from the first pixel.
        fixed_size: where positive, the bins |k| <= fixed_size // 2 are kept instead, whatever N, or all of a smaller
            map: the band that maps of that size have.
        rule: "exact", or "authors", which drops one more bin where N is a multiple of four that the cutoff does not
            divide (N = 12, 20, 28, ... at a cutoff of 1/4; never at 1/2).

    Returns:
        (B, C, ceil(H/s), ceil(W/t)) in the dtype of `x`.

    Raises:
        ValueError: a cutoff outside (0, 1], a bad stride or size, an unknown rule, an input of another kind.

    Law: at stride 1 it commutes with every shift, also by a fraction of a pixel, and is idempotent.
    """
    s, t = stride_pair(stride)
    _check_map(x)
    _check_rule(rule)
    if not 0 < cutoff <= 1:
        raise ValueError(f"cutoff must be a fraction of the highest frequency in (0, 1], got {cutoff}")
    if fixed_size < 0:
        raise ValueError(f"fixed_size must be the side of a map, or 0 for none, got {fixed_size}")
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
    # the largest integer below n * cutoff / 2, where a third of n is a whole number too
    return math.ceil(n * cutoff / 2 - 1e-9) - 1


def apply_to_axes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ x @ columns.T`` for every map of (B, C, H, W), in its layout: rows (H', H), columns (W', W)."""
    if torch.jit.is_scripting():
        return torch.matmul(rows, torch.matmul(x.to(rows.dtype), columns.transpose(0, 1))).to(x.dtype)
    else:  # TorchScript compiles no other branch
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
    # of an even axis the last bin counts half; a product, for a branch would hold an exported axis to its parity
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
    else:  # TorchScript compiles no other branch
        return _kept(period, top, edge, gain, step, step_in, like, dtype)


def _kept(
    period: int, top: int, edge: float, gain: float, step: int, step_in: int, like: Tensor, dtype: torch.dtype
) -> Tensor:
    if torch.compiler.is_compiling():
        return _made(period, top, edge, gain, step, step_in, like.device).to(dtype)
    # to a tracer a size is a tensor
    kept = _cached(int(period), int(top), float(edge), gain, step, step_in, str(dtype).removeprefix("torch."))
    return torch.from_numpy(kept).to(like.device)


@lru_cache(maxsize=256)
def _cached(period: int, top: int, edge: float, gain: float, step: int, step_in: int, dtype: str) -> np.ndarray:
    # an array: a tensor of an inference mode or of a tracer would be kept for those who have none
    bins = np.arange(period // 2 + 1)
    weights = np.where(bins < top, 1.0, np.where(bins == top, edge, 0.0))
    response = gain * np.fft.irfft(weights, n=period)
    places = np.arange(0, period, step)[:, None] - np.arange(0, period, step_in)
    return response[places % period].astype(dtype)


def _made(period: int, top: int, edge: float, gain: float, step: int, step_in: int, device: torch.device) -> Tensor:
    """`_cached` in operations that a compiler may keep open for every size."""
    bins = torch.arange(period // 2 + 1, device=device)
    weights = (bins < top).to(torch.float64) + (bins == top).to(torch.float64) * edge
    response = gain * torch.fft.irfft(weights, n=period)
    places = torch.arange(0, period, step, device=device)[:, None] - torch.arange(0, period, step_in, device=device)
    return response[places % period]


def _check_map(x: Tensor) -> None:
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"a floating tensor (B, C, H, W) is needed, got {x.dtype} of shape {tuple(x.shape)}")


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
