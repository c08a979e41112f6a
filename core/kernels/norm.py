"""Batch norm, sum with a shortcut and activation, one pass over memory forward and one backward; CPU, channels last.

Second derivatives use PyTorch's own operators, so derivatives of every order exist.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.kernels import native
from stillpoint.core.kernels.layout import is_channels_last
from stillpoint.core.kernels.operators import ordinary
from stillpoint.core.kernels.pool import CPU, cpu_library, plain_only

ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2}


def fused(x: Tensor, parameters: tuple[Tensor, ...], residual: Tensor | None, *, training: bool) -> bool:
    """Whether `norm_act2d` takes these tensors: plain ones on the CPU, the maps (B, C, H, W) channels last.

    `parameters` are weight, bias, running mean and running variance, (C,) each, in the dtype of the maps, but float32
    for bfloat16. In training there must be at least two pixels.
    """
    if type(x) is not Tensor or x.ndim != 4 or x.dtype not in CPU or torch.compiler.is_compiling() or plain_only():
        return False
    maps = (x,) if residual is None else (x, residual)
    channels, own = x.shape[1], torch.float32 if x.dtype == torch.bfloat16 else x.dtype
    return (
        x.numel() > channels * training
        and ordinary(*maps, *parameters)
        and all(m.dtype == x.dtype and m.shape == x.shape and _packed(m) for m in maps)
        and all(p.dtype == own and p.shape == (channels,) and p.is_contiguous() for p in parameters)
        and native.available(CPU[x.dtype], "norm")
    )


def _packed(x: Tensor) -> bool:
    # a contiguous map of one channel, or of one pixel, is channels-last too
    return is_channels_last(x) or (x.is_contiguous() and (x.shape[1] == 1 or x.shape[2:].numel() == 1))


def norm_act2d(
    x: Tensor,
    parameters: tuple[Tensor, Tensor, Tensor, Tensor],
    residual: Tensor | None,
    *,
    activation: str,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """activation(norm(x) + residual) of (B, C, H, W), for tensors that `fused` accepts.

    In training it uses the map's own statistics and updates the running ones in place.
    """
    weight, bias, *running = parameters
    options = activation, training, momentum, eps
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias, residual) if t is not None):
        return _NormAct.apply(x, residual, weight, bias, *running, options)  # type: ignore[no-untyped-call]
    return _forward(x, residual, parameters, *options)[0]


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, *rest: Any) -> Tensor:
        *parameters, options = rest
        y, about = _forward(x, residual, tuple(parameters), *options)
        ctx.options, ctx.added = options, residual is not None
        # the running statistics are needed only by a second derivative in evaluation mode
        running = (None, None) if options[1] else tuple(parameters[2:])
        # after a sum, only the output shows which values passed the activation
        output = y if ctx.added and options[0] != "none" else None
        ctx.save_for_backward(x, residual if ctx.added else None, *parameters[:2], *running, output, about)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, residual, weight, bias, mean, var, y, about = ctx.saved_tensors
        needs = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled() or not ordinary(grad):
            found = _plain_gradients(grad, (x, residual, weight, bias), (mean, var), needs, ctx.options)
        else:
            found = _backward(grad, x, y, weight, about, needs, ctx.options)
        return (*found, None, None, None)


def _forward(
    x: Tensor,
    residual: Tensor | None,
    parameters: tuple[Tensor, ...],
    activation: str,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The result, and mean, 1 / standard deviation, scale and shift of each channel (4, C)."""
    y = torch.empty_like(x)
    about = torch.empty((4, x.shape[1]), dtype=parameters[0].dtype, device="cpu")
    cpu_library(x.dtype, "norm").stillpoint_norm(
        x.data_ptr(),
        None if residual is None else residual.data_ptr(),
        y.data_ptr(),
        (ctypes.c_void_p * 4)(*(p.data_ptr() for p in parameters)),
        about.data_ptr(),
        x.numel() // x.shape[1],
        x.shape[1],
        ACTIVATIONS[activation],
        training,
        momentum,
        eps,
        torch.get_num_threads(),
    )
    if training:
        # tells autograd that they changed
        for running in parameters[2:]:
            torch.autograd.graph.increment_version(running)
    return y, about


def _backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    about: Tensor,
    needs: tuple[bool, ...],
    options: tuple[str, bool, float, float],
) -> tuple[Tensor | None, ...]:
    activation, training, *_ = options
    grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
    to_x = torch.empty_like(x) if needs[0] else None
    through = needs[1] and activation != "none"
    to_residual = torch.empty_like(x) if through else None
    to_weight = torch.empty_like(weight) if needs[2] else None
    to_bias = torch.empty_like(weight) if needs[3] else None
    found = to_x, to_residual, to_weight, to_bias
    if any(t is not None for t in found):
        cpu_library(x.dtype, "norm").stillpoint_norm_backward(
            x.data_ptr(),
            None if y is None else y.data_ptr(),
            grad.data_ptr(),
            about.data_ptr(),
            (ctypes.c_void_p * 4)(*(None if t is None else t.data_ptr() for t in found)),
            x.numel() // x.shape[1],
            x.shape[1],
            ACTIVATIONS[activation],
            training,
            torch.get_num_threads(),
        )
    return to_x, grad if needs[1] and not through else to_residual, to_weight, to_bias


def _plain_gradients(
    grad: Tensor,
    inputs: tuple[Tensor | None, ...],
    running: tuple[Tensor | None, ...],
    needs: tuple[bool, ...],
    options: tuple[str, bool, float, float],
) -> tuple[Tensor | None, ...]:
    """The same gradients by PyTorch's own operators, which can be differentiated again."""
    activation, training, _, eps = options
    with torch.enable_grad():
        # views, so that these gradients stop at the inputs and not at their sources
        x, residual, weight, bias = (None if t is None else t.view_as(t) for t in inputs)
        assert x is not None
        y = F.batch_norm(x, running[0], running[1], weight, bias, training, 0.0, eps)
        y = y if residual is None else y + residual
        y = F.relu(y) if activation == "relu" else F.relu6(y) if activation == "relu6" else y
        asked = [t for t, needed in zip((x, residual, weight, bias), needs, strict=True) if needed and t is not None]
        found = iter(torch.autograd.grad(y, asked, grad, create_graph=torch.is_grad_enabled()))
    return tuple(next(found) if needed else None for needed in needs)
