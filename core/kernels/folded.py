"""Convolution, bias, sum and activation in one pass by oneDNN; CPU."""

import torch
from torch import Tensor

_ACTIVATIONS: dict[str, tuple[str | None, list[float]]] = {
    "none": (None, []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}


def available(dtype: torch.dtype) -> bool:
    """Whether PyTorch has these convolutions for `dtype`: float32, and bfloat16 if the processor supports it."""
    if not (torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()):
        return False
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def output_shape(
    x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape of the convolution of (B, C, H, W) with weights (O, I, kh, kw)."""
    (batch, _, h, w), (outputs, _, kh, kw) = x.shape, weight.shape
    (s, t), (p, q), (d, e) = stride, padding, dilation
    return batch, outputs, (h + 2 * p - d * (kh - 1) - 1) // s + 1, (w + 2 * q - e * (kw - 1) - 1) // t + 1


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    options: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int],
    activation: str,
) -> Tensor:
    """activation(conv(x) + bias + residual), without a derivative.

    A residual needs one group and `output_shape`. `options` are stride, padding, dilation and groups; the activation is
    "none", "relu" or "relu6".
    """
    stride, padding, dilation, groups = options
    name, numbers = _ACTIVATIONS[activation]
    sizes = padding, stride, dilation, groups
    if residual is None:
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *sizes, name or "none", numbers, "")
    # after a sum oneDNN supports only ReLU
    known = activation != "relu6"
    y = torch.ops.mkldnn._convolution_pointwise.binary(
        x, residual, weight, bias, *sizes, "add", 1.0, name if known else None, [], ""
    )
    return y if known else y.clamp_(0, 6)
