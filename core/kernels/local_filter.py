"""PyTorch operators for a filter that varies with the pixel, shared by the channels of a group; CPU only.

The output is linear in the input and in the weights. So the three operators are the derivatives of one trilinear form
in input, weights and output, each computed from the other two. The derivatives of each are the other two, so
reverse-mode derivatives of every order exist. Tensors may have any memory strides.
"""

import ctypes

import torch
from torch import Tensor

from stillpoint.core.kernels import pool
from stillpoint.core.kernels.layout import empty_map, memory_format
from stillpoint.core.kernels.operators import operator

_OUTPUT, _INPUT, _WEIGHTS = range(3)


def fused(x: Tensor, weights: Tensor, *, size: int, padding: str) -> bool:
    """Whether the operators take this input and these weights; see `stillpoint.core.kernels.pool.fused`."""
    return x.device.type == "cpu" and weights.dtype == x.dtype and pool.fused(x, size=size, padding=padding)


def local_filter2d(x: Tensor, weights: Tensor, *, size: int, stride: tuple[int, int], padding: str) -> Tensor:
    """(B, C, H, W) filtered by `weights` (B, G size**2, ceil(H/s), ceil(W/t)), as `adaptive_blur2d` orders them."""
    return _output(x, weights, size, list(stride), padding)


@operator("stillpoint::local_filter")
def _output(x: Tensor, weights: Tensor, size: int, stride: list[int], padding: str) -> Tensor:
    y = empty_map(x, list(weights.shape[2:]))
    _run(_OUTPUT, x, weights, y, size, stride, padding)
    return y


@torch.library.register_fake(_output.overload)
def _(x: Tensor, weights: Tensor, size: int, stride: list[int], padding: str) -> Tensor:
    return empty_map(x, list(weights.shape[2:]))


@operator("stillpoint::local_filter_input")
def _input(y: Tensor, weights: Tensor, shape: list[int], size: int, stride: list[int], padding: str) -> Tensor:
    x = empty_map(y, shape)
    _run(_INPUT, x, weights, y, size, stride, padding)
    return x


@torch.library.register_fake(_input.overload)
def _(y: Tensor, weights: Tensor, shape: list[int], size: int, stride: list[int], padding: str) -> Tensor:
    return empty_map(y, shape)


@operator("stillpoint::local_filter_weights")
def _weights(x: Tensor, y: Tensor, groups: int, size: int, stride: list[int], padding: str) -> Tensor:
    weights = _empty_weights(x, y, groups, size)
    _run(_WEIGHTS, x, weights, y, size, stride, padding)
    return weights


@torch.library.register_fake(_weights.overload)
def _(x: Tensor, y: Tensor, groups: int, size: int, stride: list[int], padding: str) -> Tensor:
    return _empty_weights(x, y, groups, size)


def _empty_weights(x: Tensor, y: Tensor, groups: int, size: int) -> Tensor:
    layout = memory_format(x)
    return torch.empty((len(y), groups * size**2, *y.shape[2:]), dtype=x.dtype, device=x.device, memory_format=layout)


def _keep_output(ctx, inputs, output) -> None:
    x, weights, *ctx.options = inputs
    ctx.save_for_backward(x, weights)


def _output_backward(ctx, grad: Tensor):
    x, weights = ctx.saved_tensors
    needs, (size, *_) = ctx.needs_input_grad, ctx.options
    to_x = _input(grad, weights, list(x.shape[2:]), *ctx.options) if needs[0] else None
    to_weights = _weights(x, grad, weights.shape[1] // size**2, *ctx.options) if needs[1] else None
    return to_x, to_weights, None, None, None


def _keep_input(ctx, inputs, output) -> None:
    y, weights, _, *ctx.options = inputs
    ctx.save_for_backward(y, weights)


def _input_backward(ctx, grad: Tensor):
    y, weights = ctx.saved_tensors
    needs, (size, *_) = ctx.needs_input_grad, ctx.options
    to_y = _output(grad, weights, *ctx.options) if needs[0] else None
    to_weights = _weights(grad, y, weights.shape[1] // size**2, *ctx.options) if needs[1] else None
    return to_y, to_weights, None, None, None, None


def _keep_weights(ctx, inputs, output) -> None:
    x, y, _, *ctx.options = inputs
    ctx.save_for_backward(x, y)


def _weights_backward(ctx, grad: Tensor):
    x, y = ctx.saved_tensors
    needs = ctx.needs_input_grad
    to_x = _input(y, grad, list(x.shape[2:]), *ctx.options) if needs[0] else None
    to_y = _output(x, grad, *ctx.options) if needs[1] else None
    return to_x, to_y, None, None, None, None


torch.library.register_autograd(_output.overload, _output_backward, setup_context=_keep_output)
torch.library.register_autograd(_input.overload, _input_backward, setup_context=_keep_input)
torch.library.register_autograd(_weights.overload, _weights_backward, setup_context=_keep_weights)


def _run(wanted: int, x: Tensor, weights: Tensor, y: Tensor, size: int, stride: list[int], padding: str) -> None:
    groups, code = weights.shape[1] // size**2, pool.PADDINGS[padding]
    numbers = [*x.shape, groups, size, *stride, code, *x.stride(), *weights.stride(), *y.stride()]
    pool.cpu_library(x.dtype).stillpoint_local_filter(
        *(x.data_ptr(), weights.data_ptr(), y.data_ptr()),
        (ctypes.c_int64 * len(numbers))(*numbers),
        *(wanted, torch.get_num_threads()),
    )
