"""Padding of feature maps, by different and possibly negative numbers of pixels at the two ends of an axis."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.base.modes import exporting
from stillpoint.core.kernels.circular import circular_conv2d
from stillpoint.core.kernels.pool import blur_pool2d, fused, plain_only
from stillpoint.core.kernels.small_maps import conv2d
from stillpoint.core.layers import scripted

# torch.fx, which cannot follow its checks, takes this as one step
torch.fx.wrap("pad")

PADDINGS = ("reflect", "replicate", "zeros", "circular")


def check_padding(padding: str) -> str:
    """Return `padding`, or raise ValueError unless it is one of `PADDINGS`."""
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
    return padding


def pad(x: Tensor, pads: list[tuple[int, int]], *, padding: str) -> Tensor:
    """Pad the last ``len(pads)`` axes of `x`.

    Args:
        x: (..., N_1, ..., N_d).
        pads: (before, after) in pixels for each of the last d axes, first axis first; negative numbers crop.
        padding: "reflect" mirrors without repeating the edge, "replicate" repeats it, "zeros" adds zeros, "circular"
            wraps, repeatedly if needed.

    Returns:
        (..., before_1 + N_1 + after_1, ...), in the dtype of `x`.

    Raises:
        ValueError: an unknown padding, pads that are not two integers for each of at most all axes, an axis cropped to
            nothing, or a reflection longer than its axis.

    Examples:
        >>> layers.pad(torch.tensor([[1.0, 2.0, 3.0]]), [(1, 1)], padding="circular")
        tensor([[3., 1., 2., 3., 1.]])
    """
    if torch.jit.is_scripting():
        for i, (before, after) in enumerate(pads):
            x = scripted.pad_axis(x, before, after, x.dim() - len(pads) + i, padding)
        return x
    else:  # TorchScript does not compile this branch
        return _padded(x, pads, padding)


def _padded(x: Tensor, pads: Sequence[tuple[int, int]], padding: str) -> Tensor:
    check_padding(padding)
    first = x.ndim - len(pads)
    if first < 0 or any(len(ends) != 2 or isinstance(ends[0] + ends[1], float) for ends in pads):
        raise ValueError(
            f"pads must be (before, after) in whole pixels for at most {x.ndim} axes, "
            f"got {[tuple(ends) for ends in pads]}"
        )
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
    if exporting():  # sizes may be symbolic
        for axis, (before, after) in enumerate(amounts, start=first):
            x = wrapped(x, axis, before, x.shape[axis] + before + after)
        return x
    ends = set(amounts[0] + amounts[-1])
    if len(pads) == 2 and len(ends) == 1 and fused(x):
        # as a blur of one tap evaluated beyond the border: one pass over memory, forward and backward
        return blur_pool2d(x, size=1, stride=(1, 1), padding="circular", pad_off=ends.pop())
    # The last axis goes first, while the map is smaller.
    for axis in reversed(range(first, x.ndim)):
        before, after = amounts[axis - first]
        if before or after:
            once = max(before, after) <= x.shape[axis] and x.requires_grad and not plain_only()
            x = _Wrap.apply(x, axis, before, after) if once else _wrap(x, axis, before, after)
    return x


def wrapped(x: Tensor, axis: int, before: int, extent: int) -> Tensor:
    """`extent` pixels of a periodic axis, starting `before` pixels before its first; no branch on a size."""
    places = torch.arange(extent, device=x.device) - before
    # the size as a tensor: the ONNX exporter supports no remainder by a size
    return x.index_select(axis, places.remainder(places.new_full((1,), x.shape[axis])))


class PaddedConv2d(nn.Conv2d):
    """`nn.Conv2d`, padded by `pad`: the same results, arguments and parameter names.

    With padding_mode "circular" PyTorch copies the map in nine pieces, never channels-last, and its backward pass makes
    a dozen passes: on a CPU that costs more than the convolution of a narrow network.

    Shapes: (B, C, H, W) or (C, H, W), as `nn.Conv2d`.

    Examples:
        >>> conv = layers.PaddedConv2d(3, 8, 3, padding=1, padding_mode="circular")
        >>> conv(torch.randn(1, 3, 8, 8)).shape
        torch.Size([1, 8, 8, 8])
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.jit.is_scripting():
            if self.padding_mode == "zeros":
                return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
            return self._plain(input, weight, bias)
        else:  # TorchScript does not compile this branch
            if self.padding_mode == "zeros":
                return conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
            found = None
            if self.padding_mode == "circular" and bias is None and not isinstance(self.padding, str):
                found = circular_conv2d(input, self, weight)
            return self._plain(input, weight, bias) if found is None else found

    def _plain(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ends = self._reversed_padding_repeated_twice  # left, right, top, bottom
        padded = pad(input, [(ends[2], ends[3]), (ends[0], ends[1])], padding=self.padding_mode)
        if torch.jit.is_scripting():
            return F.conv2d(padded, weight, bias, self.stride, 0, self.dilation, self.groups)
        else:
            return conv2d(padded, weight, bias, self.stride, (0, 0), self.dilation, self.groups)


def _wrap(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    # PyTorch's own circular padding refuses to wrap twice, and its backward pass takes nearly twice as long on a CPU
    n = x.shape[axis]
    head = [x.narrow(axis, n - before % n, before % n)] if before % n else []
    tail = [x.narrow(axis, 0, after % n)] if after % n else []
    return torch.cat([*head, *[x] * (before // n + 1 + after // n), *tail], dim=axis)


class _Wrap(torch.autograd.Function):
    """`_wrap` by at most the axis's length, with a backward pass of one copy; autograd's makes five."""

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
            # not in place: that adds short rows of bfloat16 three times as slowly
            part.copy_(part + end)
        return found, None, None, None


def _by(sizes: Sequence[int]) -> str:
    return "x".join(str(n) for n in sizes)
