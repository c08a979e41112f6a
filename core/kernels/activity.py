"""The mean over all pixels of a rectified map as one PyTorch operator, which scores the phases in learnable sampling.

On a GPU the forward pass and its derivative are one Triton kernel each, one pass over the map, and only the map is
saved. On a CPU the convolution before it takes most of the time, so the plain code is used.
"""

import torch
from torch import Tensor

from stillpoint.core.kernels.layout import is_channels_last, memory_format
from stillpoint.core.kernels.mixture import packed, sum_dtype
from stillpoint.core.kernels.operators import operator
from stillpoint.core.kernels.pool import plain_only, triton_takes


def fused(x: Tensor) -> bool:
    """Whether the fused operator supports `x`."""
    return x.ndim == 4 and triton_takes(x) and x.numel() > 0 and not plain_only()


def mean_rectified(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C), the mean of max(x, 0), in float32 or better."""
    return _mean(x)


def plain(x: Tensor) -> Tensor:
    """`mean_rectified` by PyTorch's own operators."""
    return x.relu().mean((2, 3), dtype=sum_dtype(x.dtype))


@operator("stillpoint::mean_rectified")
def _mean(x: Tensor) -> Tensor:
    return plain(x)


@torch.library.register_fake(_mean.overload)
def _(x: Tensor) -> Tensor:
    return torch.empty(x.shape[:2], dtype=sum_dtype(x.dtype), device=x.device)


@operator("stillpoint::mean_rectified_backward")
def _backward(grad: Tensor, x: Tensor) -> Tensor:
    share = (grad / (x.shape[2] * x.shape[3])).to(x.dtype)[:, :, None, None]
    return torch.where(x <= 0, torch.zeros_like(share), share).contiguous(memory_format=memory_format(x))


@torch.library.register_fake(_backward.overload)
def _(grad: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(packed(x))


@torch.library.impl(_mean.overload.name(), "cuda")
def _(x: Tensor) -> Tensor:
    from stillpoint.core.kernels import triton_activity

    x = packed(x)
    return triton_activity.forward(x, is_channels_last(x))


@torch.library.impl(_backward.overload.name(), "cuda")
def _(grad: Tensor, x: Tensor) -> Tensor:
    from stillpoint.core.kernels import triton_activity

    x = packed(x)
    return triton_activity.backward(grad.contiguous(), x, is_channels_last(x))


def _keep(ctx, inputs, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _mean_backward(ctx, grad: Tensor):
    (x,) = ctx.saved_tensors
    if torch.is_grad_enabled():  # for a second derivative
        return torch.autograd.grad(plain(x), x, grad, create_graph=True)[0]
    return _backward(grad, x)


torch.library.register_autograd(_mean.overload, _mean_backward, setup_context=_keep)
