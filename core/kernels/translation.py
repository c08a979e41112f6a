"""Translation invariant polyphase sampling as one PyTorch operator: C++ on a CPU, Triton on a GPU.

On a CPU it is one pass forward and one backward. The backward pass recomputes the convolution while its plane is in
cache, instead of storing it.
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.kernels import pool
from stillpoint.core.kernels.layout import empty_map, is_channels_last, memory_format
from stillpoint.core.kernels.mixture import fused as _mixed
from stillpoint.core.kernels.mixture import packed, sum_dtype
from stillpoint.core.kernels.operators import operator


def fused(x: Tensor, weight: Tensor) -> bool:
    """Whether the operator takes this map, whose sides must be even, and these 3x3 kernels."""
    return weight.shape[-1] == 3 and x.shape[2] % 2 == x.shape[3] % 2 == 0 and _mixed(x)


def sample(x: Tensor, weight: Tensor, scale: Tensor, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(y, tau, psi) of `stillpoint.core.layers.translation_invariant`; psi is empty if it is not needed."""
    dtype = sum_dtype(x.dtype)
    return _sample(x, weight.to(dtype).flatten(1), scale.to(dtype).flatten(), keep)


def plain(x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(y, tau, psi) for a weight (C, 9) and a scale (C,) by PyTorch's own operators; sides even."""
    channels = x.shape[1]
    psi = F.conv2d(x, weight.to(x.dtype).view(channels, 1, 3, 3), padding=1, groups=channels).relu()
    means = F.adaptive_avg_pool2d(psi.to(sum_dtype(x.dtype)), 2).flatten(2)
    tau = (means * scale[:, None]).softmax(2)
    grid = tau.to(x.dtype).unflatten(2, (2, 2)).transpose(2, 3)[:, :, None, :, None, :]
    phases = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, h, 2, w, 2)
    return (phases * grid).sum((3, 5)), tau, psi


@operator("stillpoint::translation")
def _sample(x: Tensor, weight: Tensor, scale: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    x = packed(x)
    y, tau, psi = _outputs(x, keep)
    if not x.is_cpu:
        from stillpoint.core.kernels import triton_translation

        seen = psi if keep else None
        triton_translation.forward(x, weight.contiguous(), scale.contiguous(), y, tau, seen, is_channels_last(x))
        return y, tau, psi
    weight, scale = weight.contiguous(), scale.contiguous()  # by name: the kernel reads copies that must still exist
    pool.cpu_library(x.dtype, "mixture").stillpoint_translation(
        *(part.data_ptr() for part in (x, weight, scale, y, tau)),
        psi.data_ptr() if keep else None,
        *_rest(x),
    )
    return y, tau, psi


@torch.library.register_fake(_sample.overload)
def _(x: Tensor, weight: Tensor, scale: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(x, keep)


@operator("stillpoint::translation_backward")
def _gradients(
    x: Tensor, weight: Tensor, scale: Tensor, to_y: Tensor, to_tau: Tensor | None, to_psi: Tensor | None
) -> tuple[Tensor, Tensor]:
    x = packed(x)
    to_x, to_weights = torch.empty_like(x), torch.empty((*x.shape[:2], 10), dtype=weight.dtype, device=x.device)
    layout = memory_format(x)
    to_y = to_y.contiguous(memory_format=layout)
    to_tau = None if to_tau is None else to_tau.contiguous()
    to_psi = None if to_psi is None else to_psi.contiguous(memory_format=layout)
    weight, scale = weight.contiguous(), scale.contiguous()
    if not x.is_cpu:
        from stillpoint.core.kernels import triton_translation

        given = (x, weight, scale, to_y, to_tau, to_psi)
        triton_translation.backward(*given, to_x, to_weights, is_channels_last(x))
        return to_x, to_weights.sum(0)
    pool.cpu_library(x.dtype, "mixture").stillpoint_translation_backward(
        *(part.data_ptr() for part in (x, weight, scale, to_y)),
        *(None if part is None else part.data_ptr() for part in (to_tau, to_psi)),
        *(to_x.data_ptr(), to_weights.data_ptr()),
        *_rest(x),
    )
    return to_x, to_weights.sum(0)


@torch.library.register_fake(_gradients.overload)
def _(x, weight, scale, to_y, to_tau, to_psi) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), weight.new_empty((x.shape[1], 10))


for _op in (_sample, _gradients):
    torch.library.impl(_op.overload.name(), "cuda", _op.function)


def _outputs(x: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    y = empty_map(x, [x.shape[2] // 2, x.shape[3] // 2])
    tau = torch.empty((*x.shape[:2], 4), dtype=sum_dtype(x.dtype), device=x.device)
    return y, tau, torch.empty_like(x) if keep else x.new_empty(0)


def _rest(x: Tensor) -> tuple[ctypes.Array, int]:
    numbers = [*x.shape, is_channels_last(x)]
    return (ctypes.c_int64 * len(numbers))(*numbers), torch.get_num_threads()


def _keep(ctx, inputs, output) -> None:
    x, weight, scale, ctx.keep = inputs
    ctx.save_for_backward(x, weight, scale)
    ctx.set_materialize_grads(False)


def _backward(ctx, to_y: Tensor | None, to_tau: Tensor | None, to_psi: Tensor | None):
    x, weight, scale = ctx.saved_tensors
    to_psi = to_psi if ctx.keep else None
    if torch.is_grad_enabled():
        # for a second derivative, for which the kernel has no rule
        found = plain(x, weight, scale)
        pairs = [pair for pair in zip(found, (to_y, to_tau, to_psi), strict=True) if pair[1] is not None]
        outputs, grads = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return *torch.autograd.grad(outputs, (x, weight, scale), grads, create_graph=True, allow_unused=True), None
    unscaled = to_y is None and to_tau is None
    if to_y is None:
        to_y = x.new_zeros((*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2))
    to_x, to_weights = _gradients(x, weight, scale, to_y, to_tau, to_psi)
    return to_x, to_weights[:, :9], None if unscaled else to_weights[:, 9], None


torch.library.register_autograd(_sample.overload, _backward, setup_context=_keep)
