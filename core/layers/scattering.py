"""First-order scattering by dual-tree wavelet packets: local averages of moduli, stable to small shifts.

Source: Mallat, "Group invariant scattering" (2012), and Bruna and Mallat, "Invariant scattering convolution networks"
(2013), orders 0 and 1. Their Morlet wavelets are replaced by the complex packets of `wavelet_packets2d`, and the
Gaussian window by the binomial filters of `blur_pool2d`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.built_once import built_once
from stillpoint.core.layers.checks import check_map
from stillpoint.core.layers.norms import hypotenuse
from stillpoint.core.layers.wavelet_filters import check_geometry
from stillpoint.core.layers.wavelet_packets import WaveletPackets2d

# taps of each low-pass filter; every one halves the resolution
_TAPS = 5


def scattering2d(x: Tensor, *, depth: int = 2, stride: int = 4) -> Tensor:
    """Local means of an image and of the moduli of its wavelet packets, subsampled.

    Args:
        x: (B, C, H, W), float32 or float64, with H and W multiples of `stride`.
        depth: stages J of the packet tree, 1 to 8; it has 2 * (4**J - 1) oriented packets besides the low-pass ones.
        stride: pixels from one value to the next, a power of two, at least 4.

    Returns:
        (B, C * (2 * 4**J - 1), H / stride, W / stride): for each channel its local mean (order 0), then the local
        means of |x * psi_q| over the packets of A and then of B (order 1).

    Raises:
        ValueError: a stride that is not a power of two of at least 4, a side that is not a multiple of it, a depth
            outside 1 to 8, or an input that is not four-dimensional and floating.

    Laws: borders are circular, so f(roll(x, (s i, s j))) is roll(f(x), (i, j)) with s the stride; order 1 is invariant
    to the sign of x and to an added constant; f(a x) = a f(x) for a >= 0.

    Examples:
        >>> layers.scattering2d(torch.randn(1, 1, 16, 16), stride=8).shape[2:]
        torch.Size([2, 2])
    """
    check_map(x)
    return _ready(depth, stride, device=x.device, dtype=x.dtype)(x)


class Scattering2d(nn.Module):
    """`scattering2d` as a Module with precomputed filters and no parameters.

    Examples:
        >>> layers.Scattering2d()(torch.randn(2, 3, 16, 16)).shape[2:]
        torch.Size([4, 4])
    """

    def __init__(
        self,
        depth: int = 2,
        stride: int = 4,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(stride, int) or stride < 4 or stride & (stride - 1):
            raise ValueError(f"stride must be a power of two of at least 4, got {stride!r}")
        check_geometry(depth, 2)
        self.depth, self.stride = depth, stride
        #: values for each image channel at each position
        self.maps = 2 * 4**depth - 1
        packets = 4**depth
        # packet 0 of each bank is a low-pass filter, whose modulus would repeat the mean
        oriented = (*range(1, packets), *range(packets + 1, 2 * packets))
        build: dict[str, Any] = {"device": device, "dtype": dtype}
        self.packets = WaveletPackets2d(depth, 2, maps=oriented, padding="circular", **build)
        halvings = stride.bit_length() - 1
        self.mean = nn.Sequential(*(_halve(**build) for _ in range(halvings)))
        # the packets already halve the resolution once
        self.smooth = nn.Sequential(*(_halve(**build) for _ in range(halvings - 1)))

    def output_size(self, size: int) -> int:
        """Values along an axis of `size` pixels; ValueError unless the stride divides it."""
        if size % self.stride:
            raise ValueError(f"the sides of an image must be multiples of the stride {self.stride}, got {size} pixels")
        return size // self.stride

    def forward(self, x: Tensor) -> Tensor:
        for n in x.shape[-2:]:
            self.output_size(n)
        packets = self.packets(x)  # (B, C, M, 2, H / 2, W / 2)
        modulus = hypotenuse(packets[:, :, :, 0], packets[:, :, :, 1])  # (B, C, M, H / 2, W / 2)
        order1 = self.smooth(modulus.flatten(1, 2)).unflatten(
            1, modulus.shape[1:3]
        )  # (B, C, M, H / stride, W / stride)
        order0 = self.mean(x)[:, :, None]  # (B, C, 1, H / stride, W / stride)
        return torch.cat([order0, order1], 2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"depth={self.depth}, stride={self.stride}"


_ready = built_once(Scattering2d)


def _halve(**build: Any) -> nn.Module:
    return BlurPool2d(None, 2, size=_TAPS, padding="circular", **build)
