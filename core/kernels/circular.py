"""Circular convolution of stride one with a faster gradient for its input; CPU, channels last.

PyTorch's gradient has the size of the padded map, whose border is then folded back. For circular padding it equals the
convolution of the circularly padded gradient with the flipped kernel, which at 8x8 pixels and 3x3 taps computes two
thirds of the numbers. The padded map is saved for the gradient of the weights, instead of the map itself: padding it
again costs a twentieth of a training step of ResNet-20.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from stillpoint.core.kernels.layout import is_channels_last
from stillpoint.core.kernels.operators import ordinary
from stillpoint.core.kernels.pool import blur_pool2d, fused
from stillpoint.core.kernels.small_maps import conv2d


def circular_conv2d(x: Tensor, conv: nn.Conv2d, weight: Tensor) -> Tensor | None:
    """The circular convolution of (B, C, H, W) with `conv`'s options; None where it does not apply.

    It needs a gradient in `x`, stride one, one group, no bias, and a padding that keeps the size. Autocast acts as on
    `torch.nn.functional.conv2d`.
    """
    rows, columns = cast(tuple[int, int], conv.padding)
    (down, right), (taps, _) = conv.dilation, conv.kernel_size
    square = rows == columns and down == right and conv.kernel_size == (taps, taps)
    if type(x) is not Tensor or torch.compiler.is_compiling() or not (torch.is_grad_enabled() and x.requires_grad):
        return None
    if conv.stride != (1, 1) or conv.groups != 1 or not square or 2 * rows != down * (taps - 1):
        return None
    if torch.is_autocast_enabled("cpu"):
        x, weight = (t if t.dtype == torch.float64 else t.to(torch.get_autocast_dtype("cpu")) for t in (x, weight))
    if not (ordinary(x, weight) and is_channels_last(x) and weight.dtype == x.dtype and fused(x)):
        return None
    return _Circular.apply(x, weight, rows, down)[0]  # type: ignore[no-untyped-call]


class _Circular(torch.autograd.Function):
    """The convolution and the padded map; the latter has a gradient in second derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, margin: int, dilation: int) -> tuple[Tensor, Tensor]:
        padded = _padded(x, margin)
        ctx.save_for_backward(padded, weight)
        ctx.options = margin, dilation
        ctx.set_materialize_grads(False)
        return conv2d(padded, weight, None, (1, 1), (0, 0), (dilation, dilation), 1), padded

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor | None, to_padded: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        padded, weight = ctx.saved_tensors
        margin, dilation = ctx.options
        to_x = None if to_padded is None else _folded(to_padded, margin)
        to_weight = None
        if grad is not None and ctx.needs_input_grad[0]:
            turned = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            found = conv2d(_padded(grad, margin), turned, None, (1, 1), (0, 0), (dilation, dilation), 1)
            to_x = found if to_x is None else to_x + found
        if grad is not None and ctx.needs_input_grad[1]:
            to_weight = torch.ops.aten.convolution_backward(
                *(grad, padded, weight, None, [1, 1], [0, 0], [dilation, dilation]),
                *(False, [0, 0], 1, [False, True, False]),
            )[1]
        return to_x, to_weight, None, None


def _padded(x: Tensor, margin: int) -> Tensor:
    return blur_pool2d(x, size=1, stride=(1, 1), padding="circular", pad_off=margin)


def _folded(grad: Tensor, margin: int) -> Tensor:
    """The adjoint of `_padded`."""
    for axis in (2, 3):
        n = grad.shape[axis] - 2 * margin
        places = (torch.arange(n + 2 * margin, device=grad.device) - margin).remainder(n)
        size = [n if a == axis else m for a, m in enumerate(grad.shape)]
        grad = grad.new_zeros(size).index_add(axis, places, grad)
    return grad
