"""The end of a proximal gradient step as one operator: momentum, shrinkage and threshold in one pass over the codes.

The convolution's result is added to the extrapolated code and thresholded, for which the plain code passes over a map
six times. On a GPU it and its derivative are Triton kernels. On a CPU the convolutions of a step take fifty times as
long as these passes, so the plain code is used.
"""

import torch
from torch import Tensor

from stillpoint.core.kernels.operators import operator
from stillpoint.core.kernels.pool import plain_only, triton_takes


def fused(moved: Tensor, step: Tensor) -> bool:
    """Whether the operator supports maps like `moved`; it treats `step` as a constant."""
    return triton_takes(moved) and not step.requires_grad and not plain_only()


def proximal_step(
    moved: Tensor,
    code: Tensor,
    previous: Tensor | None,
    *,
    shrink: Tensor,
    threshold: Tensor,
    momentum: float,
    nonnegative: bool,
) -> Tensor:
    """``prox(moved + shrink * (code + momentum * (code - previous)))``, all of one shape.

    prox is the rectifier if `nonnegative` (its threshold is then in `moved` already), else soft-thresholding by
    `threshold`. Without `previous` there is no momentum. `shrink` and `threshold` are 0-dim and constants to autograd.
    """
    return _step(moved, code.to(moved.dtype), previous, shrink, threshold, momentum, nonnegative)


@operator("stillpoint::proximal_step")
def _step(
    moved: Tensor,
    code: Tensor,
    previous: Tensor | None,
    shrink: Tensor,
    threshold: Tensor,
    momentum: float,
    nonnegative: bool,
) -> Tensor:
    point = code if previous is None else code + momentum * (code - previous)
    value = moved + shrink * point
    return value.relu() if nonnegative else value - value.clamp(-threshold, threshold)


@torch.library.register_fake(_step.overload)
def _(moved: Tensor, code, previous, shrink, threshold, momentum: float, nonnegative: bool) -> Tensor:
    return torch.empty_like(moved)


@operator("stillpoint::proximal_step_backward")
def _backward(
    grad: Tensor, result: Tensor, shrink: Tensor, momentum: float, both: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for moved, code and previous; the last one is empty unless `both` codes were given."""
    moved = torch.where(result != 0, grad, 0.0)
    if not both:
        return moved, moved * shrink, grad.new_empty(0)
    return moved, moved * (shrink * (1 + momentum)), moved * (shrink * -momentum)


@torch.library.register_fake(_backward.overload)
def _(grad: Tensor, result: Tensor, shrink: Tensor, momentum: float, both: bool) -> tuple[Tensor, Tensor, Tensor]:
    like = torch.empty_like
    return like(grad), like(grad), like(grad) if both else grad.new_empty(0)


@torch.library.impl(_step.overload.name(), "cuda")
def _(
    moved: Tensor,
    code: Tensor,
    previous: Tensor | None,
    shrink: Tensor,
    threshold: Tensor,
    momentum: float,
    nonnegative: bool,
) -> Tensor:
    from stillpoint.core.kernels import triton_proximal

    return triton_proximal.step(moved, code, previous, shrink, threshold, momentum, nonnegative)


@torch.library.impl(_backward.overload.name(), "cuda")
def _(grad: Tensor, result: Tensor, shrink: Tensor, momentum: float, both: bool) -> tuple[Tensor, Tensor, Tensor]:
    from stillpoint.core.kernels import triton_proximal

    return triton_proximal.backward(grad, result, shrink, momentum, both)


def _keep(ctx, inputs, output: Tensor) -> None:
    _, _, previous, shrink, _, ctx.momentum, _ = inputs
    ctx.both = previous is not None
    ctx.save_for_backward(output, shrink)


def _step_backward(ctx, grad: Tensor):
    result, shrink = ctx.saved_tensors
    moved, code, previous = _backward(grad, result, shrink, ctx.momentum, ctx.both)
    return moved, code, previous if ctx.both else None, None, None, None, None


def _keep_backward(ctx, inputs, output) -> None:
    _, result, shrink, ctx.momentum, ctx.both = inputs
    ctx.save_for_backward(result, shrink)


def _backward_backward(ctx, moved: Tensor, code: Tensor, previous: Tensor):
    # linear in the gradient, and piecewise constant in the result
    result, shrink = ctx.saved_tensors
    total = moved + shrink * code
    if ctx.both:
        total = moved + shrink * ((1 + ctx.momentum) * code - ctx.momentum * previous)
    return torch.where(result != 0, total, 0.0), None, None, None, None


torch.library.register_autograd(_step.overload, _step_backward, setup_context=_keep)
torch.library.register_autograd(_backward.overload, _backward_backward, setup_context=_keep_backward)
