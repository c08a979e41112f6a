"""Padding of feature maps by a number of pixels that may differ at the two ends of an axis, and may be negative."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.kernels.pool import plain_only

PADDINGS = ("reflect", "replicate", "zeros", "circular")


def check_padding(padding: str) -> str:
    """Return `padding`, or raise ValueError when it is none of `PADDINGS`."""
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
    return padding


def pad(x: Tensor, pads: Sequence[tuple[int, int]], *, padding: str) -> Tensor:
    """Pad the last ``len(pads)`` axes of `x`.

    Args:
        x: (..., N_1, ..., N_d).
        pads: (before, after) in pixels for each of the last d axes, first axis first; negative numbers crop.
        padding: "reflect" mirrors without repeating the edge, "replicate" repeats it, "zeros" adds zeros, "circular"
            wraps, as many times as it takes.

    Returns:
        (..., before_1 + N_1 + after_1, ...), in the dtype of `x`.

    Raises:
        ValueError: an unknown padding, an axis that nothing is left of, or a reflection longer than its axis.
    """
    check_padding(padding)
    first = x.ndim - len(pads)
    sizes = list(x.shape[first:])
    if any(n + min(before, 0) + min(after, 0) < 1 for n, (before, after) in zip(sizes, pads, strict=True)):
        raise ValueError(f"padding by {list(pads)} leaves nothing of a map of size {_by(sizes)}")
    for axis, (before, after) in enumerate(pads, start=first):
        if before < 0 or after < 0:
            x = x.narrow(axis, max(-before, 0), x.shape[axis] + min(before, 0) + min(after, 0))
    amounts = [(max(before, 0), max(after, 0)) for before, after in pads]
    if not any(map(any, amounts)):
        return x
    if padding == "reflect" and any(max(ends) >= n for ends, n in zip(amounts, x.shape[first:], strict=True)):
        widest = max(max(ends) for ends in amounts)
        raise ValueError(
            f"reflect padding by up to {widest} pixels needs a map larger than that along every padded axis, "
            f"got size {_by(sizes)}; use replicate, zeros or circular padding"
        )
    if padding != "circular":
        mode = "constant" if padding == "zeros" else padding
        return F.pad(x, [n for ends in reversed(amounts) for n in ends], mode=mode)
    # The last axis goes first, while the map is smaller.
    for axis in reversed(range(first, x.ndim)):
        before, after = amounts[axis - first]
        if before or after:
            once = max(before, after) <= x.shape[axis] and x.requires_grad and not plain_only()
            x = _Wrap.apply(x, axis, before, after) if once else _wrap(x, axis, before, after)
    return x


def _wrap(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    # PyTorch's own circular padding refuses to wrap twice, and its backward pass takes nearly twice as long on a CPU
    n = x.shape[axis]
    head = [x.narrow(axis, n - before % n, before % n)] if before % n else []
    tail = [x.narrow(axis, 0, after % n)] if after % n else []
    return torch.cat([*head, *[x] * (before // n + 1 + after // n), *tail], dim=axis)


class _Wrap(torch.autograd.Function):
    """`_wrap` by no more than the axis, whose backward pass is one copy; autograd's own makes five."""

    @staticmethod
    def forward(x: Tensor, axis: int, before: int, after: int) -> Tensor:
        return _wrap(x, axis, before, after)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.axis, ctx.before, ctx.after = inputs
        ctx.n = x.shape[ctx.axis]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        axis, n, before, after = ctx.axis, ctx.n, ctx.before, ctx.after
        found = grad.narrow(axis, before, n).clone()
        for at, end in (
            (n - before, grad.narrow(axis, 0, before)),
            (0, grad.narrow(axis, before + n, after)),
        ):
            part = found.narrow(axis, at, end.shape[axis])
            # not in place: bfloat16 numbers in short rows add three times as slowly there
            part.copy_(part + end)
        return found, None, None, None


def _by(sizes: Sequence[int]) -> str:
    return "x".join(str(n) for n in sizes)
