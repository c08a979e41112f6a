"""PyTorch operators for two-dimensional wavelet packets: both passes in one, and their transpose; CPU only.

Both are linear, and each is the other's derivative. `stillpoint.core.layers.wavelet_packets` asks `fused` first.
"""

import ctypes
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from stillpoint.core.kernels import native, pool
from stillpoint.core.kernels.operators import Operator, operator


class Packets(NamedTuple):
    """The filters of both passes, and how their results are combined.

    vertical    (2, V, K) filters of the two trees
    horizontal  (2, V, P, K) filters of P parts of the half sums (over the rows of tree a) and half differences (of b)
    places      (N, 4) int64: a packet's vertical and horizontal path, and its two output maps
    combined    whether these are its maps A and B, or half their sum and half their difference
    """

    vertical: Tensor
    horizontal: Tensor
    places: Tensor
    combined: bool


def fused(x: Tensor, packets: Packets) -> bool:
    """Whether the operators support this image and these filters; otherwise use the plain code."""
    vertical = packets.vertical
    if pool.plain_only() or not x.is_cpu or not vertical.is_cpu or x.dtype != vertical.dtype or vertical.requires_grad:
        return False
    dtype = _working_dtype(x)
    return dtype in pool.CPU and native.available(pool.CPU[dtype], "packets")


def _working_dtype(x: Tensor) -> torch.dtype:
    # as a convolution would
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        return torch.get_autocast_dtype("cpu")
    return x.dtype


def packets2d(
    x: Tensor, packets: Packets, *, stride: int, before: Sequence[int], count: Sequence[int], circular: bool
) -> Tensor:
    """(B, C, H, W) -> (B, C, 2 N, P, h, w): `count` (h, w) coefficients, starting `before` pixels before the first."""
    vertical, horizontal, places, combined = packets
    x = x.to(_working_dtype(x))
    return _packets(x, vertical, horizontal, places, combined, stride, list(before), list(count), circular)


@operator("stillpoint::packets")
def _packets(
    x: Tensor,
    vertical: Tensor,
    horizontal: Tensor,
    places: Tensor,
    combined: bool,
    stride: int,
    before: list[int],
    count: list[int],
    circular: bool,
) -> Tensor:
    y = _maps(x, horizontal, places, count)
    _run(x, y, vertical, horizontal, places, combined, stride, before, x.shape[2:], count, circular, backward=False)
    return y


@torch.library.register_fake(_packets.overload)
def _(x, vertical, horizontal, places, combined, stride, before, count, circular) -> Tensor:
    return _maps(x, horizontal, places, count)


@operator("stillpoint::packets_adjoint")
def _adjoint(
    y: Tensor,
    vertical: Tensor,
    horizontal: Tensor,
    places: Tensor,
    combined: bool,
    stride: int,
    before: list[int],
    size: list[int],
    circular: bool,
) -> Tensor:
    x = _image(y, size)
    _run(y, x, vertical, horizontal, places, combined, stride, before, size, y.shape[4:], circular, backward=True)
    return x


@torch.library.register_fake(_adjoint.overload)
def _(y, vertical, horizontal, places, combined, stride, before, size, circular) -> Tensor:
    return _image(y, size)


def _maps(x: Tensor, horizontal: Tensor, places: Tensor, count: list[int]) -> Tensor:
    return torch.empty((*x.shape[:2], 2 * len(places), horizontal.shape[2], *count), dtype=x.dtype, device=x.device)


def _image(y: Tensor, size: list[int]) -> Tensor:
    return torch.empty((*y.shape[:2], *size), dtype=y.dtype, device=y.device)


def _keep(ctx, inputs, output) -> None:
    # shared by both operators, which differ in one argument: the size of the result
    source, *filters, ctx.combined, ctx.stride, ctx.before, _, ctx.circular = inputs
    ctx.size = list(source.shape[-2:])
    ctx.save_for_backward(*filters)


def _back(to: Operator, ctx, grad: Tensor):
    options = ctx.combined, ctx.stride, ctx.before, ctx.size, ctx.circular
    return to(grad, *ctx.saved_tensors, *options), *[None] * 8


torch.library.register_autograd(_packets.overload, partial(_back, _adjoint), setup_context=_keep)
torch.library.register_autograd(_adjoint.overload, partial(_back, _packets), setup_context=_keep)


def _run(
    source: Tensor,
    target: Tensor,
    vertical: Tensor,
    horizontal: Tensor,
    places: Tensor,
    combined: bool,
    stride: int,
    before: Sequence[int],
    size: Sequence[int],
    count: Sequence[int],
    circular: bool,
    *,
    backward: bool,
) -> None:
    library = pool.cpu_library(source.dtype, "packets")
    sums = torch.float64 if source.dtype == torch.float64 else torch.float32
    source, places = source.contiguous(), places.contiguous()
    vertical, horizontal = vertical.to(sums).contiguous(), horizontal.to(sums).contiguous()
    planes, (_, paths, parts, taps) = source.shape[0] * source.shape[1], horizontal.shape
    padding = pool.PADDINGS["circular" if circular else "zeros"]
    numbers = [planes, *size, paths, parts, taps, stride, *before, *count, padding, combined, len(places)]
    library.stillpoint_packets(
        *(t.data_ptr() for t in (source, target, vertical, horizontal, places)),
        (ctypes.c_int64 * len(numbers))(*numbers),
        backward,
        torch.get_num_threads(),
    )
