"""PyTorch operators for mixtures of the four phases of a map at stride two: C++ on a CPU, Triton on a GPU.

The three operators are the derivatives of one trilinear form in map, weights and mixture, each computed from the other
two. The derivatives of each are the other two, so reverse-mode derivatives of every order exist.
"""

import ctypes

import torch
from torch import Tensor

from stillpoint.core.kernels import native, pool
from stillpoint.core.kernels.layout import empty_map, is_channels_last
from stillpoint.core.kernels.operators import operator

_OUTPUT, _INPUT, _WEIGHTS = range(3)


def fused(x: Tensor) -> bool:
    """Whether the operators take a map of this dtype on this device; see `stillpoint.core.kernels.pool.fused`."""
    if x.ndim != 4 or pool.plain_only() or x.numel() == 0:
        return False
    if x.is_cpu:
        return x.dtype in pool.CPU and native.available(pool.CPU[x.dtype], "mixture")
    return pool.triton_takes(x)


def mix(x: Tensor, weights: Tensor) -> Tensor:
    """(B, C, 2h, 2w) and weights (B, 4) or (B, C, 4) -> the sum of the phases times their weights, (B, C, h, w)."""
    return _output(x, _summed(weights, x))


def spread(y: Tensor, weights: Tensor) -> Tensor:
    """The adjoint of `mix`: (B, C, h, w) -> (B, C, 2h, 2w)."""
    return _input(y, _summed(weights, y))


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which numbers of `dtype` are summed."""
    return torch.promote_types(dtype, torch.float32)


def packed(x: Tensor) -> Tensor:
    """`x` itself if it is contiguous or channels-last, otherwise a contiguous copy."""
    return x if x.is_contiguous() or is_channels_last(x) else x.contiguous()


def _summed(weights: Tensor, x: Tensor) -> Tensor:
    return weights.to(sum_dtype(x.dtype))


@operator("stillpoint::mixture")
def _output(x: Tensor, weights: Tensor) -> Tensor:
    y = _small(x)
    _run(_OUTPUT, x, weights, y)
    return y


@torch.library.register_fake(_output.overload)
def _(x: Tensor, weights: Tensor) -> Tensor:
    return _small(x)


@operator("stillpoint::mixture_input")
def _input(y: Tensor, weights: Tensor) -> Tensor:
    x = _large(y)
    _run(_INPUT, x, weights, y)
    return x


@torch.library.register_fake(_input.overload)
def _(y: Tensor, weights: Tensor) -> Tensor:
    return _large(y)


@operator("stillpoint::mixture_weights")
def _weights(x: Tensor, y: Tensor, shared: bool) -> Tensor:
    weights = _empty_weights(x, shared)
    _run(_WEIGHTS, x, weights, y)
    return weights


@torch.library.register_fake(_weights.overload)
def _(x: Tensor, y: Tensor, shared: bool) -> Tensor:
    return _empty_weights(x, shared)


def _small(x: Tensor) -> Tensor:
    return empty_map(x, [x.shape[2] // 2, x.shape[3] // 2])


def _large(y: Tensor) -> Tensor:
    return empty_map(y, [2 * y.shape[2], 2 * y.shape[3]])


def _empty_weights(x: Tensor, shared: bool) -> Tensor:
    shape = (x.shape[0], 4) if shared else (*x.shape[:2], 4)
    return torch.empty(shape, dtype=sum_dtype(x.dtype), device=x.device)


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])


def _output_backward(ctx, grad: Tensor):
    (x, weights), needs = ctx.saved_tensors, ctx.needs_input_grad
    to_weights = _weights(x, grad, weights.ndim == 2) if needs[1] else None
    return _input(grad, weights) if needs[0] else None, to_weights


def _input_backward(ctx, grad: Tensor):
    (y, weights), needs = ctx.saved_tensors, ctx.needs_input_grad
    to_weights = _weights(grad, y, weights.ndim == 2) if needs[1] else None
    return _output(grad, weights) if needs[0] else None, to_weights


def _weights_backward(ctx, grad: Tensor):
    (x, y), needs = ctx.saved_tensors, ctx.needs_input_grad
    return _input(y, grad) if needs[0] else None, _output(x, grad) if needs[1] else None, None


for _op in (_output, _input, _weights):
    torch.library.impl(_op.overload.name(), "cuda", _op.function)

torch.library.register_autograd(_output.overload, _output_backward, setup_context=_keep)
torch.library.register_autograd(_input.overload, _input_backward, setup_context=_keep)
torch.library.register_autograd(_weights.overload, _weights_backward, setup_context=_keep)


def _run(wanted: int, x: Tensor, weights: Tensor, y: Tensor) -> None:
    # the output has the layout of the tensor that determines it
    last = is_channels_last(y if wanted == _INPUT else x)
    layout = torch.channels_last if last else torch.contiguous_format
    x, y = x.contiguous(memory_format=layout), y.contiguous(memory_format=layout)
    given = weights.contiguous()
    if not x.is_cpu:
        from stillpoint.core.kernels import triton_mixture

        (triton_mixture.mix, triton_mixture.spread, triton_mixture.weigh)[wanted](x, given, y, last)
        return
    numbers = [*y.shape, last, weights.ndim == 2]
    pool.cpu_library(x.dtype, "mixture").stillpoint_mixture(
        *(x.data_ptr(), given.data_ptr(), y.data_ptr()),
        (ctypes.c_int64 * len(numbers))(*numbers),
        *(wanted, torch.get_num_threads()),
    )
