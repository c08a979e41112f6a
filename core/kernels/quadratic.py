"""A quadratic polynomial of each channel as one operator of PyTorch: one pass over the map, one for its derivatives.

On a GPU it is a Triton kernel. The plain code makes three maps in between and keeps two of them; a CPU takes it all the
same, since the two resamplings around a polynomial are most of its time.
"""

import torch
from torch import Tensor

from stillpoint.core.kernels.layout import is_channels_last
from stillpoint.core.kernels.operators import operator
from stillpoint.core.kernels.pool import plain_only, triton_takes


def fused(x: Tensor) -> bool:
    """Whether the operator takes maps like this one; those of fewer bits are widened by the plain code, not rounded."""
    return x.ndim == 4 and x.dtype == torch.float32 and triton_takes(x) and not plain_only()


def quadratic(x: Tensor, coefficients: Tensor) -> Tensor:
    """c0 + c1 x + c2 x^2 of (B, C, H, W), with coefficients (C, 3) or (1, 3) in float32 or better."""
    return _quadratic(x, coefficients.expand(x.shape[1], 3))


def plain(x: Tensor, coefficients: Tensor) -> Tensor:
    """The same by PyTorch's own operators."""
    c0, c1, c2 = coefficients[:, :, None, None].unbind(1)
    return (c0 + x * (c1 + c2 * x)).to(x.dtype)


@operator("stillpoint::quadratic")
def _quadratic(x: Tensor, coefficients: Tensor) -> Tensor:
    return plain(x, coefficients)


@torch.library.register_fake(_quadratic.overload)
def _(x: Tensor, coefficients: Tensor) -> Tensor:
    return torch.empty_like(x)


@operator("stillpoint::quadratic_backward")
def _backward(grad: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients for x, and for the coefficients (C, 3)."""
    c1, c2 = coefficients[:, 1, None, None], coefficients[:, 2, None, None]
    wide, seen = grad.to(coefficients.dtype), x.to(coefficients.dtype)
    sums = [part.sum((0, 2, 3)) for part in (wide, wide * seen, wide * seen * seen)]
    return (wide * (c1 + 2 * c2 * seen)).to(x.dtype), torch.stack(sums, 1)


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
    if torch.is_grad_enabled():  # somebody will differentiate this again
        return torch.autograd.grad(
            plain(x, coefficients), (x, coefficients), grad, create_graph=True, allow_unused=True
        )
    return _backward(grad, x, coefficients)


torch.library.register_autograd(_quadratic.overload, _quadratic_backward, setup_context=_keep)
