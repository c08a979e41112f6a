"""The wavelet twin of a first layer: some channels are free convolutions, the others combine complex wavelet packets.

Source: Leterme, Polisano, Perrier, Alahari, "From CNNs to Shift-Invariant Twin Models Based on Complex Wavelets". The
oriented channels of a trained first layer look like Gabor filters; the twin makes them so by construction,
y = sum_q M[o, q] (x * W_q) with fixed packets W_q of the luminance and trained real M. With the real parts, followed by
max-pooling, that is a WCNN; with both parts, followed by the modulus, a CWCNN.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.layers.checks import check_sizes
from stillpoint.core.layers.constants import ConstantBuffers
from stillpoint.core.layers.packet_halves import PacketHalves2d
from stillpoint.core.layers.wavelet_packets import Part
from stillpoint.core.layers.wavelet_packings import Packing


class WaveletMixing2d(ConstantBuffers):
    """Trained combinations of wavelet packets: (B, C, H, W) -> (B, O, P, H', W'), P = 2 (real, imaginary) or 1 (real).

    Args:
        packing: the packets, and which of them each output combines.
        stride: of the packets.
        part: "complex" or "real"; weights are real and shared by both parts.
        luminance: True first mixes the C colours, by one weight each; False transforms every colour and mixes last, by
            C weights for each output.
        colours: initial weights of the luminance, one for each of the C colours; None: 3 / C each, since the published
            ones sum to 3.
        bias: one trained bias for each output, added to both parts.
        scramble_nonsquare: exchange height and width of the result without moving data, as the authors' code does,
            which scrambles images that are not square. For reproduction only.

    Parameters: `mixing`, one (outputs, inputs / groups) per section, initialised as a convolution's; `colour` (C,) or
    (O, C); `biases`, one (outputs,) per section. ValueError for another number of colours or channels.

    Examples:
        >>> from stillpoint.core.layers.wavelet_packings import RESNET
        >>> mixing = layers.WaveletMixing2d(3, RESNET, stride=2)
        >>> mixing(torch.randn(2, 3, 32, 32)).ndim
        5
    """

    places: Tensor

    def __init__(
        self,
        in_channels: int,
        packing: Packing,
        *,
        stride: int,
        part: Part = "real",
        luminance: bool = True,
        colours: Sequence[float] | None = None,
        bias: bool = False,
        scramble_nonsquare: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        build: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(in_channels=in_channels)
        self.scramble_nonsquare = scramble_nonsquare
        self.in_channels, self.packing, self.out_channels = in_channels, packing, sum(packing.outputs)
        self.packets = PacketHalves2d(packing.depth, stride, maps=packing.maps, part=part, **build)
        order = self.packets.maps
        self.mixing = nn.ParameterList(
            _uniform((out, n // groups), n // groups, **build)
            for n, out, groups in zip(packing.inputs, packing.outputs, packing.groups, strict=True)
        )
        if luminance:
            if colours is not None and len(colours) != in_channels:
                raise ValueError(f"colours must have a weight for each of {in_channels} channels, got {list(colours)}")
            self.colour = nn.Parameter(torch.tensor(colours or [3 / in_channels] * in_channels, **build))
        else:
            self.colour = _uniform((self.out_channels, in_channels), in_channels, **build)
        rows = packing.columns()
        self.biases = nn.ParameterList(_uniform((len(r),), r.shape[1], **build) for r in rows) if bias else None
        # position of each weight of `mixing` in the dense matrix over the maps in the order of computation
        column = torch.tensor([order.index(q) for q in packing.maps], device="cpu")
        base, places = 0, []
        for r in rows:
            places.append((base + torch.arange(len(r), device="cpu"))[:, None] * len(order) + column[r])
            base += len(r)
        self.register_constant("places", torch.cat([p.flatten() for p in places]), **build)

    def matrix(self) -> Tensor:
        """The combination as a dense matrix over the half sums and half differences of M / 2 packets: (O, C, M), or
        (O, 1, M) where the colours are mixed first."""
        values = torch.cat([w.flatten() for w in self.mixing])
        n = len(self.packets.maps)
        dense = values.new_zeros([self.out_channels * n]).index_put([self.places], values)
        first, second = dense.view(self.out_channels, 1, n).chunk(2, dim=2)
        dense = torch.cat([first + second, second - first], dim=2)
        return dense if self.colour.ndim == 1 else self.colour[:, :, None] * dense

    def forward(
        self, x: Tensor, every: int = 1, start: list[int] | None = None, size: list[int] | None = None
    ) -> Tensor:
        """All coefficients, or a window of them as in `WaveletPackets2d`."""
        if x.dim() != 4:
            raise ValueError(f"images are (B, C, H, W), got {x.dim()} axes")
        if x.shape[1] != self.in_channels:
            raise ValueError(f"x must have the layer's {self.in_channels} channels, got {x.shape[1]}")
        if self.colour.ndim == 1:
            x = F.conv2d(x, self.colour[None, :, None, None])  # (B, 1, H, W)
        y = self.packets(x, every=every, start=start, size=size)  # (B, C, M, P, H', W')
        batch, colours, maps, parts, height, width = y.shape
        # a sum over maps and colours that both parts share: one 1x1 convolution of maps twice as high
        y = y.reshape(batch, colours * maps, parts * height, width)
        y = F.conv2d(y, self.matrix().flatten(1)[:, :, None, None], self._bias())
        sides = (width, height) if self.scramble_nonsquare else (height, width)
        return y.view(batch, self.out_channels, parts, sides[0], sides[1])

    def _bias(self) -> Tensor | None:
        if self.biases is None:
            return None
        bias = torch.cat([own for own in self.biases])  # noqa: C416 (TorchScript makes no list of parameters)
        # where the colours are mixed last, the bias is added to each of them before
        return bias if self.colour.ndim == 1 else bias * self.colour.sum(1)

    def kernel(self) -> Tensor:
        """The equivalent convolution, (O, P, C, K, K) with K the filter's support, without bias."""
        atoms = self.packets.kernels()  # (M, P, K, K)
        kernel = torch.einsum("ocm,mpij->opcij", self.matrix(), atoms)
        return self.colour[:, None, None] * kernel if self.colour.ndim == 1 else kernel


class WaveletTwin2d(nn.Module):
    """A first layer of F free channels and O wavelet channels on one grid.

    (B, C, H, W) -> (B, F + O, H', W') with the real part, or (B, F + 2 O, H', W'), real and imaginary parts
    interleaved. Both halves are cropped about their centre to the smaller one's size.

    Args:
        free: the convolution of the freely trained channels.
        wavelet: the other channels, at the same stride.
        subsample: of the complex wavelet channels in `halves`, so that the modulus is sampled at that many times the
            stride.

    Examples:
        >>> from stillpoint.core.layers.wavelet_packings import RESNET
        >>> mixing = layers.WaveletMixing2d(3, RESNET, stride=2)
        >>> twin = layers.WaveletTwin2d(torch.nn.Conv2d(3, 4, 7, stride=2, padding=3), mixing)
        >>> twin(torch.randn(2, 3, 32, 32)).shape[1] == 4 + mixing.kernel().shape[0]
        True
    """

    def __init__(self, free: nn.Conv2d, wavelet: WaveletMixing2d, *, subsample: int = 1) -> None:
        super().__init__()
        check_sizes(subsample=subsample)
        self.free, self.wavelet, self.subsample = free, wavelet, subsample

    def halves(self, x: Tensor, every: int | None = None) -> tuple[Tensor, Tensor]:
        """Free maps (B, F, H', W') and wavelet maps (B, O, P, ceil(H'/e), ceil(W'/e)), e = `every` or `subsample`.

        Only the wavelet coefficients that are returned are computed.
        """
        free = self.free(x)
        whole = [self.wavelet.packets.output_size(n) for n in x.shape[-2:]]
        size = [min(whole[0], free.shape[2]), min(whole[1], free.shape[3])]
        start = [_margin(whole[0], size[0]), _margin(whole[1], size[1])]
        step = self.subsample if every is None else every
        return centre_crop(free, size), self.wavelet(x, every=step, start=start, size=size)

    def forward(self, x: Tensor) -> Tensor:
        free, wavelet = self.halves(x, every=1)
        return torch.cat([free, wavelet.flatten(1, 2)], dim=1)

    @torch.no_grad()
    def resulting_kernel(self, image_size: int = 224, *, size: int | None = None) -> Tensor:
        """All kernels of the layer as (F + O P, C, S, S), without biases, free ones first.

        S is the packets' support (66 at depth 3, 30 at depth 2), or `size` with zeros around it, as in the authors'
        figures. The free kernels are placed as for an image of `image_size` pixels, which decides the crop.
        """
        wavelet = self.wavelet.kernel().flatten(0, 1)
        packets, side, k = self.wavelet.packets, wavelet.shape[-1], self.free.kernel_size[0]
        whole, n = packets.output_size(image_size), _output_size(self.free, image_size)
        crop, crop_free = _margin(whole, min(whole, n)), _margin(n, min(whole, n))
        offset = packets.before - packets.stride * (crop - crop_free) - int(self.free.padding[0])
        free = F.pad(self.free.weight, [offset, side - k - offset] * 2)
        kernel = torch.cat([free, wavelet])
        if size is None:
            return kernel
        if size < side:
            raise ValueError(f"size must be at least the support {side}, got {size}")
        before = (size - side) // 2
        return F.pad(kernel, [before, size - side - before] * 2)


class TwinStem(nn.Module):
    """A wavelet twin and the layers up to the first pooling: (B, C, H, W) -> (B, F + O, H', W').

    Args:
        first: the twin.
        joint: activation and pooling of all channels, for the real part only.
        low, high: instead of `joint`, one for the free channels and one for the wavelet channels, which are
            (B, O, H', W') of the real part or (B, O, 2, H', W') of both, at `first.subsample`. Their results are
            cropped to the smaller one.

    Raises:
        ValueError: unless either `joint`, or both `low` and `high` are given.

    Examples:
        >>> from stillpoint.core.layers.wavelet_packings import RESNET
        >>> mixing = layers.WaveletMixing2d(3, RESNET, stride=2)
        >>> twin = layers.WaveletTwin2d(torch.nn.Conv2d(3, 4, 7, stride=2, padding=3), mixing)
        >>> layers.TwinStem(twin, joint=torch.nn.ReLU())(torch.randn(2, 3, 32, 32)).ndim
        4
    """

    def __init__(
        self,
        first: WaveletTwin2d,
        *,
        joint: nn.Module | None = None,
        low: nn.Module | None = None,
        high: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if (joint is None) == (low is None) or (low is None) != (high is None):
            raise ValueError("a twin stem needs either joint, or both low and high")
        self.first, self.joint, self.low, self.high = first, joint, low, high

    def forward(self, x: Tensor) -> Tensor:
        if self.joint is not None:
            return self.joint(self.first(x))
        else:  # TorchScript compiles one branch of the two
            assert self.low is not None and self.high is not None
            free, wavelet = self.first.halves(x)
            free, wavelet = self.low(free), self.high(wavelet[:, :, 0] if wavelet.shape[2] == 1 else wavelet)
            size = [min(free.shape[2], wavelet.shape[2]), min(free.shape[3], wavelet.shape[3])]
            return torch.cat([centre_crop(free, size), centre_crop(wavelet, size)], dim=1)


def centre_crop(x: Tensor, size: list[int]) -> Tensor:
    """The middle of (..., H, W) of that size; a half pixel rounds to the even offset, as Python's `round` does."""
    top, left = _margin(x.shape[-2], size[0]), _margin(x.shape[-1], size[1])
    return x[..., top : top + size[0], left : left + size[1]]


def _margin(size: int, inner: int) -> int:
    # Python's round of a half in integer arithmetic: torch.jit.trace cannot follow `round`
    half = (size - inner) // 2
    return half + (size - inner) % 2 * (half % 2)


def _output_size(conv: nn.Conv2d, size: int) -> int:
    return (size + 2 * int(conv.padding[0]) - conv.kernel_size[0]) // conv.stride[0] + 1


def _uniform(shape: tuple[int, ...], fan_in: int, **build: Any) -> nn.Parameter:
    """PyTorch's default initialisation of a convolution with that many inputs to an output."""
    return nn.Parameter(torch.empty(shape, **build).uniform_(-(fan_in**-0.5), fan_in**-0.5))
