"""A quadratic polynomial of each channel as one PyTorch operator: one pass over the map, one for its derivatives.

C++ on a CPU, Triton on a GPU. The plain code makes three intermediate maps, saves two of them, and takes half of the
training time of a ConvNeXt with polynomial activations.
"""

import torch
from torch import Tensor

from stillpoint.core.kernels import native
from stillpoint.core.kernels.layout import is_channels_last, memory_format
from stillpoint.core.kernels.operators import operator
from stillpoint.core.kernels.pool import CPU, cpu_library, plain_only, triton_takes


def fused(x: Tensor) -> bool:
    """Whether the operator supports `x`; half precision is left to the plain code, which widens it."""
    if x.ndim != 4 or plain_only() or x.numel() == 0:
        return False
    if x.is_cpu:
        return _compiled(x)
    return x.dtype == torch.float32 and triton_takes(x)


def _compiled(x: Tensor) -> bool:
    return x.dtype in (torch.float32, torch.float64) and native.available(CPU[x.dtype], "quadratic")


def quadratic(x: Tensor, coefficients: Tensor) -> Tensor:
    """c0 + c1 x + c2 x^2 of (B, C, H, W), with coefficients (C, 3) or (1, 3) in float32 or better."""
    return _quadratic(x, coefficients.expand(x.shape[1], 3))


def plain(x: Tensor, coefficients: Tensor) -> Tensor:
    """`quadratic` by PyTorch's own operators."""
    c0, c1, c2 = coefficients[:, :, None, None].unbind(1)
    return (c0 + x * (c1 + c2 * x)).to(x.dtype)


@operator("stillpoint::quadratic")
def _quadratic(x: Tensor, coefficients: Tensor) -> Tensor:
    if not _compiled(x):
        return plain(x, coefficients)
    x = _packed(x)
    y, own = torch.empty_like(x), coefficients.to(x.dtype).t().contiguous()
    cpu_library(x.dtype, "quadratic").stillpoint_quadratic(x.data_ptr(), own.data_ptr(), y.data_ptr(), *_rest(x))
    return y


def _rest(x: Tensor) -> tuple[int, int, int, bool, int]:
    batch, channels, height, width = x.shape
    return batch, channels, height * width, is_channels_last(x), torch.get_num_threads()


@torch.library.register_fake(_quadratic.overload)
def _(x: Tensor, coefficients: Tensor) -> Tensor:
    return torch.empty_like(x)


@operator("stillpoint::quadratic_backward")
def _backward(grad: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients for x, and for the coefficients (C, 3)."""
    if not _compiled(x):
        c1, c2 = coefficients[:, 1, None, None], coefficients[:, 2, None, None]
        wide, seen = grad.to(coefficients.dtype), x.to(coefficients.dtype)
        found = [part.sum((0, 2, 3)) for part in (wide, wide * seen, wide * seen * seen)]
        return (wide * (c1 + 2 * c2 * seen)).to(x.dtype), torch.stack(found, 1)
    x = _packed(x)
    grad, to_x = grad.to(x.dtype).contiguous(memory_format=memory_format(x)), torch.empty_like(x)
    own, sums = coefficients.to(x.dtype).t().contiguous(), torch.empty(x.shape[0], 3, x.shape[1], dtype=torch.float64)
    cpu_library(x.dtype, "quadratic").stillpoint_quadratic_backward(
        x.data_ptr(), grad.data_ptr(), own.data_ptr(), to_x.data_ptr(), sums.data_ptr(), *_rest(x)
    )
    return to_x, sums.sum(0).t().to(coefficients.dtype).contiguous()


@torch.library.register_fake(_backward.overload)
def _(grad: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(coefficients, memory_format=torch.contiguous_format)


@torch.library.impl(_quadratic.overload.name(), "cuda")
def _(x: Tensor, coefficients: Tensor) -> Tensor:
    from stillpoint.core.kernels import triton_quadratic

    x = _packed(x)
    return triton_quadratic.forward(x, coefficients, is_channels_last(x))


@torch.library.impl(_backward.overload.name(), "cuda")
def _(grad: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    from stillpoint.core.kernels import triton_quadratic

    x = _packed(x)
    return triton_quadratic.backward(grad, x, coefficients, is_channels_last(x))


def _packed(x: Tensor) -> Tensor:
    return x if x.is_contiguous() or is_channels_last(x) else x.contiguous()


def _keep(ctx, inputs, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _quadratic_backward(ctx, grad: Tensor):
    x, coefficients = ctx.saved_tensors
    if torch.is_grad_enabled():  # for a second derivative
        return torch.autograd.grad(
            plain(x, coefficients), (x, coefficients), grad, create_graph=True, allow_unused=True
        )
    return _backward(grad, x, coefficients)


torch.library.register_autograd(_quadratic.overload, _quadratic_backward, setup_context=_keep)
