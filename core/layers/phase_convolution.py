"""Convolutions of all phases of a map at once, and means of convolutions without computing them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.kernels import activity, framing
from stillpoint.core.layers.padding import pad
from stillpoint.core.layers.phases import Stride, stride_pair

TAPS = 3  # taps of every convolution here along an axis


def convolution(
    inputs: int,
    outputs: int,
    *,
    taps: int = TAPS,
    bias: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.ParameterDict:
    """Weight (outputs, inputs, k, k) and bias (outputs,) of a convolution, initialised as PyTorch does.

    Not an `nn.Conv2d`, which a backbone would reinitialise by its own rule.
    """
    weight = torch.empty(outputs, inputs, taps, taps, device=device, dtype=dtype)
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    found = {"weight": weight}
    if bias:
        bound = (inputs * taps**2) ** -0.5
        found["bias"] = torch.empty(outputs, device=device, dtype=dtype).uniform_(-bound, bound)
    return nn.ParameterDict({name: nn.Parameter(tensor) for name, tensor in found.items()})


def wide(x: Tensor) -> Tensor:
    """`x` in float32 or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def split_phases(x: Tensor, *, stride: Stride) -> Tensor:
    """All phases of (B, C, H, W) along the batch, image by image in the order of `polyphase_components`.

    Returns (B * s * t, C, H/s, W/t) in the memory layout of `x`. ValueError unless the stride divides both sides.
    """
    s, t = _dividing(x, stride)
    channels, height, width = x.shape[1:]
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        grids = x.permute(0, 2, 3, 1).unflatten(2, (-1, t)).unflatten(1, (-1, s))  # (B, h, s, w, t, C)
        grids = grids.permute(0, 4, 2, 1, 3, 5).reshape(-1, height // s, width // t, channels)
        return grids.permute(0, 3, 1, 2)
    grids = x.unflatten(3, (-1, t)).unflatten(2, (-1, s))  # (B, C, h, s, w, t)
    return grids.permute(0, 5, 3, 1, 2, 4).reshape(-1, channels, height // s, width // t)


def phase_means(x: Tensor, *, stride: Stride) -> Tensor:
    """Mean of every phase and channel of (B, C, H, W), (B, s * t, C) in float32 or better; errors as `split_phases`."""
    s, t = _dividing(x, stride)
    grids = wide(x).unflatten(3, (-1, t)).unflatten(2, (-1, s))  # (B, C, h, s, w, t)
    return grids.mean((2, 4)).permute(0, 3, 2, 1).flatten(1, 2)


def convolve_phases(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Stride, padding: str) -> Tensor:
    """The 3x3 convolution of every phase, padded to keep its size: (B * s * t, outputs, H/s, W/t)."""
    phases = framed_phases(x, stride, padding)
    return F.conv2d(phases, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def framed_phases(x: Tensor, stride: Stride, padding: str) -> Tensor:
    """`split_phases`, each phase padded by one pixel on every side: (B * s * t, C, H/s + 2, W/t + 2)."""
    if torch.jit.is_scripting():
        return _framed(x, stride, padding)
    else:  # TorchScript does not compile this branch
        if stride_pair(stride) == (2, 2) and framing.fused(x, padding):
            return framing.framed_phases(x, padding)
        return _framed(x, stride, padding)


def _framed(x: Tensor, stride: Stride, padding: str) -> Tensor:
    s, t = _dividing(x, stride)
    if padding in ("circular", "zeros"):
        # padding the map by multiples of the stride is faster than padding its phases
        return split_phases(pad(x, [(s, s), (t, t)], padding=padding), stride=stride)
    return pad(split_phases(x, stride=stride), [(1, 1), (1, 1)], padding=padding)


def mean_convolution(x: Tensor, weight: Tensor, bias: Tensor, *, padding: str, rectified: bool) -> Tensor:
    """Mean over all pixels of the padded 3x3 convolution of (N, C, h, w): (N, outputs), float32 or better.

    The mean of a convolution is linear in the means of the regions under its taps, so nothing is convolved. With
    circular padding every tap covers the whole map. `rectified`: convolve max(x, 0); `x` may then be overwritten.
    """
    height, width = x.shape[2:]
    weight, bias = wide(weight), wide(bias)
    if padding == "circular":
        means = mean_rectified(x) if rectified else _mean(x, [2, 3])
        return F.linear(means.to(weight.dtype), weight.sum((2, 3)), bias)
    x = pad(x.relu_() if rectified else x, [(1, 1), (1, 1)], padding=padding)
    taps = weight.shape[-1]
    rows = torch.stack([_mean(x[:, :, i : i + height], [2]) for i in range(taps)], 2)  # (N, C, 3, w + 2)
    means = torch.stack([rows[..., j : j + width].mean(3) for j in range(taps)], 3)  # (N, C, 3, 3)
    return F.linear(means.flatten(1).to(weight.dtype), weight.flatten(1), bias)


def mean_rectified(x: Tensor) -> Tensor:
    """Mean over all pixels of max(x, 0), (N, C) in float32 or better; `x` (N, C, h, w) may be overwritten."""
    if torch.jit.is_scripting():
        return _mean(x.relu_(), [2, 3])
    else:  # TorchScript does not compile this branch
        return activity.mean_rectified(x) if activity.fused(x) else _mean(x.relu_(), [2, 3])


def _mean(x: Tensor, axes: list[int]) -> Tensor:
    return x.mean(axes, dtype=torch.promote_types(x.dtype, torch.float32))


def _dividing(x: Tensor, stride: Stride) -> tuple[int, int]:
    s, t = stride_pair(stride)
    if x.dim() != 4:
        raise ValueError(f"a batch of maps (B, C, H, W) has four axes, got {x.dim()}")
    if x.shape[-2] % s or x.shape[-1] % t:
        sides = f"{x.shape[-2]}x{x.shape[-1]}"
        raise ValueError(
            f"a map of {sides} has no phases of one size at stride {(s, t)}: its sides must be multiples of the "
            "stride; extend it first"
        )
    return s, t
