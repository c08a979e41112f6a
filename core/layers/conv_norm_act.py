"""Convolution, batch norm, sum with a shortcut and activation, fused into one convolution while weights are fixed."""

import torch
from torch import Tensor, nn

from stillpoint.core.base.modes import fixed_weights
from stillpoint.core.kernels import folded
from stillpoint.core.kernels.layout import is_channels_last
from stillpoint.core.kernels.operators import ordinary
from stillpoint.core.kernels.pool import plain_only
from stillpoint.core.kernels.small_maps import small, spare_taps, without
from stillpoint.core.layers.norm_act import KNOWN, fusible, norm_act, unwatched
from stillpoint.core.layers.padding import PaddedConv2d, pad
from stillpoint.core.layers.pointwise import PointwiseConv2d

#: the classes that can be folded; a subclass may compute something else
CONVOLUTIONS = (nn.Conv2d, PaddedConv2d, PointwiseConv2d)


def conv_norm_act(
    x: Tensor, conv: nn.Module, norm: nn.Module, act: nn.Module | None = None, residual: Tensor | None = None
) -> Tensor:
    """``act(norm(conv(x)) + residual)``.

    Args:
        x: (B, C, H, W).
        conv: any module; its output is (B, C', H', W').
        norm: any module that keeps the shape.
        act: any module that keeps the shape; None: no activation.
        residual: (B, C', H', W'), added before the activation; None: nothing is added.

    Returns:
        (B, C', H', W').

    While weights are fixed (`stillpoint.core.base.modes.weights_fixed`, as in every evaluation), an `nn.BatchNorm2d` in
    evaluation mode is folded into the convolution once, and oneDNN computes convolution, sum and activation in one
    pass: on a CPU, for channels-last maps in float32 or under bfloat16 autocast, without derivatives. Otherwise, and
    wherever hooks, tracing or subclasses would notice, it is the convolution followed by `norm_act`.

    Law: up to rounding, the modules' own output; but if folded, a rectifier turns NaN of `x` or `residual` into 0.

    Examples:
        >>> conv, norm = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8).eval()
        >>> layers.conv_norm_act(torch.randn(2, 3, 4, 4), conv, norm, torch.nn.ReLU()).shape
        torch.Size([2, 8, 4, 4])
    """
    kept = fixed_weights()
    if kept is not None and isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        y = _one_convolution(x, conv, norm, act, residual, kept) if _foldable(x, conv, norm, act) else None
        if y is not None:
            return y
    return norm_act(conv(x), norm, act, residual)


def _foldable(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, act: nn.Module | None) -> bool:
    if type(x) is not Tensor or x.ndim != 4 or x.numel() == 0 or torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling() or plain_only() or norm.training or type(conv) not in CONVOLUTIONS:
        return False
    if not (fusible(norm, act) and unwatched(conv)):
        return False
    own = [t for t in (conv.weight, conv.bias, *_statistics(norm)) if t is not None]
    if not (ordinary(x, *own) and all(t.dtype == torch.float32 for t in own)):
        return False
    return is_channels_last(x) or is_channels_last(conv.weight)


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor | None, ...]:
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


def _one_convolution(
    x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, act: nn.Module | None, residual: Tensor | None, kept: dict
) -> Tensor | None:
    """The folded convolution; None for dtypes, shapes and paddings that it does not support."""
    if torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    padding, around = conv.padding, conv.padding_mode
    if not folded.available(x.dtype) or (residual is not None and residual.dtype != x.dtype):
        return None
    if residual is not None and (conv.groups != 1 or not ordinary(residual)):
        return None
    if isinstance(padding, str) or (around != "zeros" and type(conv) is not PaddedConv2d):
        return None
    if around != "zeros":
        left, right, top, bottom = conv._reversed_padding_repeated_twice
        x, padding = pad(x, [(top, bottom), (left, right)], padding=around), (0, 0)
    options = conv.stride, padding, conv.dilation, conv.groups
    # oneDNN would read a residual of another shape beyond its end; PyTorch broadcasts or refuses it
    if residual is not None and residual.shape != folded.output_shape(x, conv.weight, *options[:3]):
        return None
    spare = spare_taps(x, conv.weight, *options[:3])
    first = not any(spare) and small(x, conv.weight, *options)
    key = (conv, norm, x.dtype, first, spare)
    if key not in kept:
        if any(t.shape != conv.weight.shape[:1] for t in (conv.bias, *_statistics(norm)) if t is not None):
            return None
        folding = _folded(conv, norm, x.dtype, torch.contiguous_format if first else torch.channels_last, spare)
        # oneDNN's rectifier would turn the NaN of weights that have diverged into 0
        kept[key] = folding if all(bool(t.isfinite().all()) for t in folding) else None
    if kept[key] is None:
        return None
    activation = "none" if act is None else KNOWN[type(act)]
    if first:
        x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    weight, bias = kept[key]
    options = conv.stride, (padding[0] - spare[0], padding[1] - spare[1]), conv.dilation, conv.groups
    y = folded.convolution(x, weight, bias, residual, options, activation)
    return y.contiguous(memory_format=torch.channels_last)


def _folded(
    conv: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype, layout: torch.memory_format, spare: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Weight and bias of norm(conv(x)) as one convolution without `spare` taps; in float64, rounded once."""
    weight, bias, mean, variance = (t.double() for t in _statistics(norm) if t is not None)
    scale = weight / (variance + norm.eps).sqrt()
    if conv.bias is not None:
        mean = mean - conv.bias.double()
    kernel = (without(conv.weight, spare).double() * scale[:, None, None, None]).to(dtype)
    return kernel.contiguous(memory_format=layout), (bias - mean * scale).to(dtype)
