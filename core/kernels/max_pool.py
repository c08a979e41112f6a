"""Maxima of 2x2 and 3x3 windows at stride one, forward and backward in one pass over memory each; CPU.

PyTorch stores an index of eight bytes for each output; this backward pass finds the maximum again.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stillpoint.core.kernels import native
from stillpoint.core.kernels.layout import empty_map, is_channels_last, memory_format
from stillpoint.core.kernels.operators import ordinary
from stillpoint.core.kernels.pool import CPU, cpu_library, plain_only

#: codes of what windows read outside the map: nothing, the opposite edge or zeros
OUTSIDE = {"none": 0, "same": 0, "circular": 1, "zeros": 2}


def fused(x: Tensor, size: int) -> bool:
    """Whether `max_pool2d` takes this map."""
    if type(x) is not Tensor or torch.compiler.is_compiling() or plain_only() or size not in (2, 3):
        return False
    if x.ndim != 4 or x.dtype not in CPU or x.numel() == 0 or min(x.shape[2:]) < size:
        return False
    return (x.is_contiguous() or is_channels_last(x)) and ordinary(x) and native.available(CPU[x.dtype], "max_pool")


def max_pool2d(x: Tensor, size: int, margin: str, plain: Callable[[Tensor], Tensor]) -> Tensor:
    """The maxima of a map that `fused` accepts; `plain` is the same by PyTorch's operators, for second derivatives."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _MaxPool.apply(x, size, margin, plain)  # type: ignore[no-untyped-call]
    return _forward(x, size, margin)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, margin: str, plain: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.options, ctx.plain = (size, margin), plain
        return _forward(x, size, margin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled() or not ordinary(grad):
            with torch.enable_grad():
                again = x.view_as(x)
                return torch.autograd.grad(ctx.plain(again), again, grad, create_graph=True)[0], None, None, None
        return _backward(x, grad, *ctx.options), None, None, None


def _forward(x: Tensor, size: int, margin: str) -> Tensor:
    numbers = _numbers(x, size, margin)
    y = empty_map(x, list(numbers[-2:]))
    library = cpu_library(x.dtype, "max_pool")
    library.stillpoint_max_pool(x.data_ptr(), y.data_ptr(), _array(numbers), torch.get_num_threads())
    return y


def _backward(x: Tensor, grad: Tensor, size: int, margin: str) -> Tensor:
    grad, to_x = grad.to(x.dtype).contiguous(memory_format=memory_format(x)), torch.empty_like(x)
    cpu_library(x.dtype, "max_pool").stillpoint_max_pool_backward(
        x.data_ptr(), grad.data_ptr(), to_x.data_ptr(), _array(_numbers(x, size, margin)), torch.get_num_threads()
    )
    return to_x


def _numbers(x: Tensor, size: int, margin: str) -> tuple[int, ...]:
    batch, channels, height, width = x.shape
    before = (size - 1) // 2 if margin == "same" else 0
    lost = size - 1 if margin == "none" else 0
    if x.is_contiguous():  # each channel is then treated as a map of its own
        batch, channels = batch * channels, 1
    return size, batch, channels, height, width, before, OUTSIDE[margin], height - lost, width - lost


def _array(numbers: tuple[int, ...]) -> ctypes.Array:
    return (ctypes.c_int64 * len(numbers))(*numbers)
