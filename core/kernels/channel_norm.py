"""Layer norms over the channels of maps as one PyTorch operator: C++ on a CPU, Triton on a GPU.

The plain code makes six passes over a map and saves two maps for the derivative; this reads the map twice, the second
time from the caches, and saves the means and divisors.
"""

from typing import Any

import torch
from torch import Tensor

from stillpoint.core.kernels import native, pool
from stillpoint.core.kernels.layout import is_channels_last, memory_format
from stillpoint.core.kernels.mixture import packed, sum_dtype
from stillpoint.core.kernels.operators import operator, unseen


def fused(x: Tensor) -> bool:
    """Whether the operator takes maps of this dtype on this device; see `stillpoint.core.kernels.pool.fused`."""
    if x.ndim != 4 or pool.plain_only() or x.numel() == 0:
        return False
    if x.is_cpu:
        return x.dtype in pool.CPU and native.available(pool.CPU[x.dtype], "channel_norm")
    return pool.triton_takes(x)


def norm(x: Tensor, weight: Tensor, bias: Tensor, *, divisor: str, eps: float) -> Tensor:
    """`plain` by the fused operator, for a map that `fused` accepts."""
    dtype = sum_dtype(x.dtype)
    if weight.dtype != dtype or bias.dtype != dtype:
        weight, bias = weight.to(dtype), bias.to(dtype)
    whole = divisor == "image"
    if x.is_cpu and unseen((x, weight, bias)):
        x = packed(x)
        y = torch.empty_like(x)
        # with cold caches every further tensor costs time
        _cpu_forward(x, weight.contiguous(), bias.contiguous(), (y, None, None), whole, eps)
        return y
    return _norm(x, weight, bias, whole, eps)[0]


def plain(x: Tensor, weight: Tensor, bias: Tensor, divisor: str, eps: float) -> Tensor:
    """(x - mean over channels) / sqrt(variance + eps) * weight + bias by PyTorch's own operators.

    The variance is that of each "pixel" or of each "image".
    """
    real = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = real - real.mean(1, keepdim=True)
    over = [1] if divisor == "pixel" else [1, 2, 3]
    # two passes: the mean of squares of centred numbers loses no digits
    scale = torch.rsqrt(centred.square().mean(over, keepdim=True) + eps)
    return (centred * (scale * weight[:, None, None]) + bias[:, None, None]).to(x.dtype)


@operator("stillpoint::channel_norm")
def _norm(x: Tensor, weight: Tensor, bias: Tensor, whole: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The norm, the means (B, H, W) and the inverse divisors (B,) or (B, H, W)."""
    x = packed(x)
    y, mean, scale = _outputs(x, whole)
    weight, bias = weight.contiguous(), bias.contiguous()
    if not x.is_cpu:
        from stillpoint.core.kernels import triton_channel_norm

        triton_channel_norm.forward(x, weight, bias, y, mean, scale, eps, is_channels_last(x))
    else:
        _cpu_forward(x, weight, bias, (y, mean, scale), whole, eps)
    return y, mean, scale


def _cpu_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    outputs: tuple[Tensor, Tensor | None, Tensor | None],
    whole: bool,
    eps: float,
) -> None:
    y, mean, scale = outputs
    pool.cpu_library(x.dtype, "channel_norm").stillpoint_channel_norm(
        x.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        y.data_ptr(),
        None if mean is None else mean.data_ptr(),
        None if scale is None else scale.data_ptr(),
        *_rest(x, whole, eps),
    )


@torch.library.register_fake(_norm.overload)
def _(x: Tensor, weight: Tensor, bias: Tensor, whole: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(packed(x), whole)


@operator("stillpoint::channel_norm_backward")
def _gradients(grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients for the map, and for weight and bias, (2, C)."""
    x, weight = packed(x), weight.contiguous()
    grad = grad.contiguous(memory_format=memory_format(x))
    to_x, to_weights = torch.empty_like(x), torch.empty(x.shape[0], 2, x.shape[1], dtype=weight.dtype, device=x.device)
    if not x.is_cpu:
        from stillpoint.core.kernels import triton_channel_norm

        triton_channel_norm.backward(grad, x, weight, mean, scale, to_x, to_weights, is_channels_last(x))
    else:
        pool.cpu_library(x.dtype, "channel_norm").stillpoint_channel_norm_backward(
            *(part.data_ptr() for part in (x, grad, weight, mean, scale, to_x, to_weights)),
            *_rest(x, scale.ndim == 1, 0.0),
        )
    return to_x, to_weights.sum(0)


@torch.library.register_fake(_gradients.overload)
def _(grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(packed(x)), weight.new_empty((2, x.shape[1]))


for _op in (_norm, _gradients):
    torch.library.impl(_op.overload.name(), "cuda", _op.function)


def _outputs(x: Tensor, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
    numbers: dict[str, Any] = {"dtype": sum_dtype(x.dtype), "device": x.device}
    pixels = (x.shape[0], x.shape[2], x.shape[3])
    return torch.empty_like(x), torch.empty(pixels, **numbers), torch.empty(pixels[:1] if whole else pixels, **numbers)


def _rest(x: Tensor, whole: bool, eps: float) -> tuple[int, int, int, bool, bool, float, int]:
    batch, channels, height, width = x.shape
    return batch, channels, height * width, is_channels_last(x), whole, eps, torch.get_num_threads()


def _keep(ctx, inputs, output) -> None:
    x, weight, bias, ctx.whole, ctx.eps = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad: Tensor | None, *_: Tensor | None):
    if grad is None:
        return None, None, None, None, None
    x, weight, bias, mean, scale = ctx.saved_tensors
    if torch.is_grad_enabled():
        # for a second derivative, for which the kernel has no rule
        y = plain(x, weight, bias, "image" if ctx.whole else "pixel", ctx.eps)
        wanted = [v for v, needed in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if needed]
        found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
        return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None
    to_x, to_weights = _gradients(grad, x, weight, mean, scale)
    return to_x, to_weights[0], to_weights[1], None, None


torch.library.register_autograd(_norm.overload, _backward, setup_context=_keep)
