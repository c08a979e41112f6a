"""Layer norms over the channels of feature maps, with one divisor for each pixel or for each image."""

import torch
from torch import Tensor, nn

from stillpoint.core.kernels import channel_norm
from stillpoint.core.kernels.channel_norm import plain
from stillpoint.core.layers.checks import check_channels, check_eps, check_map, check_sizes

DIVISORS = ("pixel", "image")

# torch.fx, which cannot follow its checks, takes this as one step
torch.fx.wrap("channel_norm2d")


def channel_norm2d(x: Tensor, weight: Tensor, bias: Tensor, *, divisor: str = "image", eps: float = 1e-6) -> Tensor:
    """Layer norm over channels, (x - mean over channels) / sqrt(variance + eps) * weight + bias.

    Args:
        x: (B, C, H, W), any floating dtype; computed in float32 or better.
        weight, bias: (C,), on the map's device.
        divisor: take the biased variance of each "pixel" over its channels, as in ConvNeXt (Liu et al., CVPR 2022), or
            of each "image" over channels, rows and columns, as in alias-free convnets (Michaeli, Michaeli and Soudry,
            CVPR 2023, where it is called CHW2).
        eps: at least 0.

    Returns:
        (B, C, H, W) in the dtype of `x`.

    Raises:
        ValueError: an unknown divisor, a negative eps, a map that is not four-dimensional and floating, a weight or
            bias of another shape or device.

    Law: with divisor "image" it commutes with every circular shift, fractional ones included, since one divisor
    serves all pixels. With "pixel" it commutes with whole-pixel shifts only.

    Examples:
        >>> y = layers.channel_norm2d(torch.randn(2, 8, 5, 5), torch.ones(8), torch.zeros(8))
        >>> bool(y.mean(1).abs().max() < 1e-5)
        True
    """
    if divisor not in DIVISORS:
        raise ValueError(f"divisor must be one of {', '.join(DIVISORS)}, got {divisor!r}")
    check_map(x)
    check_eps(eps)
    check_channels(x, weight=weight, bias=bias)
    if channel_norm.fused(x):
        return channel_norm.norm(x, weight, bias, divisor=divisor, eps=eps)
    return channel_norm.plain(x, weight, bias, divisor, eps)


class ChannelNorm2d(nn.Module):
    """`channel_norm2d` as a Module; weight is initialised to 1, bias to 0.

    Examples:
        >>> layers.ChannelNorm2d(8)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(
        self,
        channels: int,
        *,
        divisor: str = "image",
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if divisor not in DIVISORS:
            raise ValueError(f"divisor must be one of {', '.join(DIVISORS)}, got {divisor!r}")
        check_sizes(channels=channels)
        check_eps(eps)
        self.divisor, self.eps = divisor, eps
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return plain(x, self.weight, self.bias, self.divisor, self.eps)
        else:  # TorchScript does not compile this branch
            return channel_norm2d(x, self.weight, self.bias, divisor=self.divisor, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, divisor={self.divisor!r}, eps={self.eps}"


def pixel_norm(channels: int) -> ChannelNorm2d:
    """ConvNeXt's norm: one divisor for each pixel, which aliases."""
    return ChannelNorm2d(channels, divisor="pixel")
