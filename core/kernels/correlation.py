"""A strided correlation along one axis with fixed filters, with a backward pass faster than PyTorch's convolution.

On a CPU the forward pass is PyTorch's own, and the backward pass is a dense correlation, two to three times as fast. On
a GPU both are one Triton kernel each, which reads an element from memory once for all filters.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.kernels.operators import operator
from stillpoint.core.kernels.pool import plain_only, triton_takes

#: with fewer channels than a SIMD vector has lanes, a convolution runs at a third of its speed
_LANES = 16


def strided_correlation(x: Tensor, weight: Tensor, axis: int, stride: int, before: int) -> Tensor:
    """Correlate (N, I, H, W) with filters (O, I, K, 1) along axis 2 or (O, I, 1, K) along axis 3.

    `before` zeros are padded at both ends of the axis. The result and its derivatives are those of
    `torch.nn.functional.conv2d`, up to the order of sums.
    """
    if torch.jit.is_scripting():
        return _forward(x, weight, axis, stride, before)
    else:  # TorchScript does not compile this branch
        return _fastest(x, weight, axis, stride, before)


def _fastest(x: Tensor, weight: Tensor, axis: int, stride: int, before: int) -> Tensor:
    if not weight.requires_grad and not plain_only():
        if triton_takes(x):
            return _correlation(x, weight.to(x.dtype), axis, stride, before)
        if x.device.type == "cpu" and stride > 1 and x.requires_grad and torch.is_grad_enabled():
            return _Correlation.apply(x, weight, axis, stride, before)
    return _forward(x, weight, axis, stride, before)


def _forward(x: Tensor, weight: Tensor, axis: int, stride: int, before: int) -> Tensor:
    along = axis == 2
    return F.conv2d(
        x, weight, stride=(stride, 1) if along else (1, stride), padding=(before, 0) if along else (0, before)
    )


def transposed(y: Tensor, weight: Tensor, axis: int, stride: int, before: int, extent: int) -> Tensor:
    """The transpose of `strided_correlation` for an axis of `extent`: (N, O, ...) -> (N, I, ...).

    Position s q + r of the padded axis is the sum over j of y[q - j] w[s j + r]: all remainders r of several q are
    computed as channels of one correlation of y and then interleaved.
    """
    if y.device.type == "cpu" and y.dtype in (torch.bfloat16, torch.float16):
        # with AMX, oneDNN's convolution in bfloat16 is off by as much as the result for some of these shapes
        return transposed(y.float(), weight.float(), axis, stride, before, extent).to(y.dtype)
    outputs, inputs, taps, count = *weight.shape[:2], weight.shape[axis], y.shape[axis]
    groups = -(-taps // stride)
    several = max(1, _LANES // (stride * inputs))
    wide = several * stride
    filters = F.pad(weight.flatten(2).to(y.dtype), (0, groups * stride - taps))
    filters = filters.view(outputs, inputs, groups, stride).flip(2).permute(3, 1, 0, 2)  # (s, I, O, K / s)
    # the groups of q that are needed, and the outputs that they depend on
    first, last = before // wide, -(-(extent + before) // wide)
    low, high = first * several - (groups - 1), last * several
    begin, end = max(low, 0), min(high, count)
    # The convolution pads both ends alike, without a copy: where the end needs more, the filters begin with zeros.
    # (Not more zeros than a filter has taps, at which oneDNN takes three times as long.)
    lead = max(high - end - (begin - low), 0)
    # the b-th of several q begins b outputs later
    shifted = [F.pad(filters, (lead + b, several - 1 - b)) for b in range(several)]
    filters = torch.cat(shifted).flatten(0, 1)  # (b s I, O, lead + K / s + several - 1)
    along, zeros = axis == 2, begin - low + lead
    found = F.conv2d(
        y.narrow(axis, begin, end - begin),
        filters.unsqueeze(5 - axis),
        stride=(several, 1) if along else (1, several),
        padding=(zeros, 0) if along else (0, zeros),
    )  # (N, b s I, ...)
    found = found.unflatten(1, (wide, inputs)).movedim(1, axis + 1).flatten(axis, axis + 1)
    return found.narrow(axis, before - first * wide, extent)


class _Correlation(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, axis: int, stride: int, before: int) -> Tensor:
        return _forward(x, weight, axis, stride, before)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, ctx.axis, ctx.stride, ctx.before = inputs
        ctx.save_for_backward(weight)
        ctx.extent, ctx.dtype = x.shape[ctx.axis], x.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        # differentiable operations only, so that second derivatives exist
        found = transposed(grad, weight, ctx.axis, ctx.stride, ctx.before, ctx.extent)
        return found.to(ctx.dtype), None, None, None, None


# The operators of the GPU path: a correlation is linear, its derivative is its adjoint, and the adjoint's derivative is
# the correlation. Their CPU versions are for comparisons only.


@operator("stillpoint::strided_correlation")
def _correlation(x: Tensor, weight: Tensor, axis: int, stride: int, before: int) -> Tensor:
    return _forward(x.contiguous(), weight, axis, stride, before).contiguous()


@torch.library.register_fake(_correlation.overload)
def _(x: Tensor, weight: Tensor, axis: int, stride: int, before: int) -> Tensor:
    shape = [x.shape[0], weight.shape[0], *x.shape[2:]]
    shape[axis] = (x.shape[axis] + 2 * before - weight.shape[axis]) // stride + 1
    return x.new_empty(shape)


@operator("stillpoint::strided_correlation_adjoint")
def _adjoint(y: Tensor, weight: Tensor, axis: int, stride: int, before: int, extent: int) -> Tensor:
    return transposed(y.contiguous(), weight, axis, stride, before, extent).contiguous()


@torch.library.register_fake(_adjoint.overload)
def _(y: Tensor, weight: Tensor, axis: int, stride: int, before: int, extent: int) -> Tensor:
    shape = [y.shape[0], weight.shape[1], *y.shape[2:]]
    shape[axis] = extent
    return y.new_empty(shape)


@torch.library.impl(_correlation.overload.name(), "cuda")
def _(x: Tensor, weight: Tensor, axis: int, stride: int, before: int) -> Tensor:
    from stillpoint.core.kernels import triton_correlation

    return triton_correlation.correlation(x, weight, axis, stride, before)


@torch.library.impl(_adjoint.overload.name(), "cuda")
def _(y: Tensor, weight: Tensor, axis: int, stride: int, before: int, extent: int) -> Tensor:
    from stillpoint.core.kernels import triton_correlation

    return triton_correlation.adjoint(y, weight, axis, stride, before, extent)


def _keep(ctx, inputs, output) -> None:
    x, weight, *ctx.options = inputs
    ctx.extent = x.shape[ctx.options[0]]
    ctx.save_for_backward(weight)


def _correlation_backward(ctx, grad: Tensor):
    (weight,) = ctx.saved_tensors
    return _adjoint(grad, weight, *ctx.options, ctx.extent), None, None, None, None


def _keep_adjoint(ctx, inputs, output) -> None:
    _, weight, *ctx.options, _ = inputs
    ctx.save_for_backward(weight)


def _adjoint_backward(ctx, grad: Tensor):
    (weight,) = ctx.saved_tensors
    return _correlation(grad, weight, *ctx.options), None, None, None, None, None


torch.library.register_autograd(_correlation.overload, _correlation_backward, setup_context=_keep)
torch.library.register_autograd(_adjoint.overload, _adjoint_backward, setup_context=_keep_adjoint)
