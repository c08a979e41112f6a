"""The GPU kernels of `kernels.proximal`, in Triton: every map is read once and written once, sums in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _forward(
    moved,
    code,
    previous,
    y,
    shrink,
    threshold,
    momentum,
    size,
    BOTH: tl.constexpr,
    NONNEGATIVE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    point = tl.load(code + place, mask=inside, other=0.0).to(tl.float32)
    if BOTH:
        point += momentum * (point - tl.load(previous + place, mask=inside, other=0.0).to(tl.float32))
    value = tl.load(moved + place, mask=inside, other=0.0).to(tl.float32) + tl.load(shrink).to(tl.float32) * point
    if NONNEGATIVE:
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    else:
        edge = tl.load(threshold).to(tl.float32)
        kept = tl.where(value > edge, value - edge, tl.where(value < -edge, value + edge, 0.0))
        value = tl.where(value != value, value, kept)
    tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad,
    result,
    moved,
    code,
    previous,
    shrink,
    momentum,
    size,
    BOTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    passes = tl.load(result + place, mask=inside, other=0.0) != 0
    value = tl.where(passes, tl.load(grad + place, mask=inside, other=0.0).to(tl.float32), 0.0)
    scale = tl.load(shrink).to(tl.float32)
    tl.store(moved + place, value.to(moved.dtype.element_ty), mask=inside)
    if BOTH:
        tl.store(previous + place, (value * (scale * -momentum)).to(previous.dtype.element_ty), mask=inside)
        scale = scale * (1 + momentum)
    tl.store(code + place, (value * scale).to(code.dtype.element_ty), mask=inside)


def step(
    moved: Tensor,
    code: Tensor,
    previous: Tensor | None,
    shrink: Tensor,
    threshold: Tensor,
    momentum: float,
    nonnegative: bool,
) -> Tensor:
    """`stillpoint.core.kernels.proximal.proximal_step`."""
    y = torch.empty_like(moved)
    moved, code = _as(y, moved), _as(y, code)
    before = code if previous is None else _as(y, previous)
    if y.numel():
        options = {"BOTH": previous is not None, "NONNEGATIVE": nonnegative, "BLOCK": _BLOCK}
        grid = (triton.cdiv(y.numel(), _BLOCK),)
        _forward[grid](moved, code, before, y, shrink, threshold, momentum, y.numel(), **options)
    return y


def backward(
    grad: Tensor, result: Tensor, shrink: Tensor, momentum: float, both: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for moved, code and previous; the last one is empty unless `both` codes were given."""
    moved, code = torch.empty_like(grad), torch.empty_like(grad)
    previous = torch.empty_like(grad) if both else grad.new_empty(0)
    grad, result = _as(moved, grad), _as(moved, result)
    if grad.numel():
        grid = (triton.cdiv(grad.numel(), _BLOCK),)
        options = {"BOTH": both, "BLOCK": _BLOCK}
        _backward[grid](grad, result, moved, code, previous, shrink, momentum, grad.numel(), **options)
    return moved, code, previous


def _as(y: Tensor, x: Tensor) -> Tensor:
    """`x` in the dense layout of `y`."""
    return x if x.stride() == y.stride() else torch.empty_like(y, dtype=x.dtype).copy_(x)
