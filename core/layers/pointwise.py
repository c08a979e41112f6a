"""A 1x1 convolution with an optional stride."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: numbers in the widest register, in float32
_REGISTER = 16


class PointwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with a kernel of 1x1: (B, C, H, W) -> (B, out, ceil(H/s), ceil(W/s)).

    On the CPU, maps of fewer than 16 channels are subsampled before the convolution, which computes the same: for
    channels-last maps with fewer channels than a register holds numbers (8, or 16 with AVX-512), oneDNN 3.13 writes the
    strided weight gradient out of bounds.

    Raises:
        RuntimeError: in `forward`, a stride below 1 or another number of channels.

    Examples:
        >>> layers.PointwiseConv2d(6, 8, stride=2)(torch.randn(2, 6, 9, 8)).shape
        torch.Size([2, 8, 5, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, 1, stride=stride, bias=bias, device=device, dtype=dtype)
        # TorchScript reads attributes, not a module's constants
        self.narrow = in_channels < _REGISTER

    def forward(self, x: Tensor) -> Tensor:
        s, t = self.stride[0], self.stride[1]
        if (s > 1 or t > 1) and self.narrow and x.device.type == "cpu":
            return F.conv2d(x[..., ::s, ::t], self.weight, self.bias)
        return F.conv2d(x, self.weight, self.bias, self.stride)
