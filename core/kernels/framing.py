"""The four phases of a map at stride two, each padded by one pixel for 3x3 convolutions, as one operator.

One pass over memory instead of two (a padded copy, then its phases), forward and backward: C++ on a CPU, Triton on a
GPU. The operator and its adjoint are linear and each other's derivative, so derivatives of every order exist.
"""

import ctypes

import torch
from torch import Tensor

from stillpoint.core.kernels import pool
from stillpoint.core.kernels.layout import is_channels_last, memory_format
from stillpoint.core.kernels.mixture import fused as _mixed
from stillpoint.core.kernels.mixture import packed
from stillpoint.core.kernels.operators import operator

#: what the frame of one pixel contains: the opposite edge, or zeros
FRAMES = ("circular", "zeros")


def fused(x: Tensor, padding: str) -> bool:
    """Whether the operator takes this map, whose sides must be even, and this frame."""
    return padding in FRAMES and _mixed(x) and x.shape[2] % 2 == x.shape[3] % 2 == 0


def framed_phases(x: Tensor, padding: str) -> Tensor:
    """(B, C, 2h, 2w) -> (4B, C, h + 2, w + 2), image by image, phase k = row + 2 * column, in the layout of `x`."""
    return _split(x, padding == "circular")


@operator("stillpoint::framed_phases")
def _split(x: Tensor, wraps: bool) -> Tensor:
    x = packed(x)
    y = _phases(x)
    _run(x, y, wraps, False)
    return y


@torch.library.register_fake(_split.overload)
def _(x: Tensor, wraps: bool) -> Tensor:
    return _phases(packed(x))


@operator("stillpoint::framed_phases_adjoint")
def _join(y: Tensor, wraps: bool) -> Tensor:
    y = packed(y)
    x = _map(y)
    _run(x, y, wraps, True)
    return x


@torch.library.register_fake(_join.overload)
def _(y: Tensor, wraps: bool) -> Tensor:
    return _map(packed(y))


for _op in (_split, _join):
    torch.library.impl(_op.overload.name(), "cuda", _op.function)


def _phases(x: Tensor) -> Tensor:
    shape = (4 * x.shape[0], x.shape[1], x.shape[2] // 2 + 2, x.shape[3] // 2 + 2)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def _map(y: Tensor) -> Tensor:
    shape = (y.shape[0] // 4, y.shape[1], 2 * y.shape[2] - 4, 2 * y.shape[3] - 4)
    return torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=memory_format(y))


def _keep(ctx, inputs, output: Tensor) -> None:
    ctx.wraps = inputs[1]


def _split_backward(ctx, grad: Tensor):
    return _join(grad, ctx.wraps), None


def _join_backward(ctx, grad: Tensor):
    return _split(grad, ctx.wraps), None


torch.library.register_autograd(_split.overload, _split_backward, setup_context=_keep)
torch.library.register_autograd(_join.overload, _join_backward, setup_context=_keep)


def _run(x: Tensor, y: Tensor, wraps: bool, adjoint: bool) -> None:
    if not x.numel():
        return
    last = is_channels_last(y)
    if not x.is_cpu:
        from stillpoint.core.kernels import triton_framing

        (triton_framing.join if adjoint else triton_framing.split)(x, y, wraps, last)
        return
    numbers = [x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2, last, wraps]
    pool.cpu_library(x.dtype, "mixture").stillpoint_phases(
        *(x.data_ptr(), y.data_ptr(), (ctypes.c_int64 * len(numbers))(*numbers)),
        *(adjoint, torch.get_num_threads()),
    )
