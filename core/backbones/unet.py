"""The U-Net, with slots where it downsamples and upsamples.

Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015; here with batch norm
and padded convolutions. Its shift-equivariant variant: Chaman and Dokmanic, "Truly shift-equivariant convolutional
neural networks with adaptive polyphase upsampling", 2021.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from stillpoint.core.backbones.backbone import Backbone, Parts
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.core.layers.downsample import Downsample, DownsampleFactory, Grid, at
from stillpoint.core.layers.fused_sequential import FusedSequential
from stillpoint.core.layers.padding import PaddedConv2d, pad
from stillpoint.core.layers.slots import ModuleFactory, batch_norm, relu

CONV_PADDINGS = ("zeros", "circular")


class DoubleConv(FusedSequential):
    """Twice: 3x3 convolution with bias, norm, activation. (B, inputs, H, W) -> (B, outputs, H, W)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        conv_padding: str = "zeros",
        norm: ModuleFactory = batch_norm,
        activation: ModuleFactory = relu,
    ) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            conv = PaddedConv2d(channels, outputs, 3, padding=1, padding_mode=conv_padding)  # type: ignore[arg-type]
            layers += [conv, norm(outputs), activation(outputs)]
        super().__init__(*layers)


class Down(nn.Module):
    """Max-pool and subsampling, then `DoubleConv`: (B, inputs, H, W) -> (B, outputs, H/2, W/2) and the grid, or None.

    Without a Downsample, a 2x2 max-pool; otherwise a dense 2x2 max-pool, padded by a row at the bottom and a column at
    the right, followed by the Downsample.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        downsample: DownsampleFactory | None,
        conv_padding: str,
        **layers: ModuleFactory,
    ) -> None:
        super().__init__()
        plain = downsample is None
        self.maxpool = nn.MaxPool2d(2) if plain else DenseMaxPool2d(2, margin=conv_padding)
        self.pool = None if downsample is None else downsample(inputs, 2)
        self.conv = DoubleConv(inputs, outputs, conv_padding=conv_padding, **layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid | None]:
        y, grid = self.maxpool(x), None
        if self.pool is not None:
            y, grid = self.pool(y, return_grid=True)
        return self.conv(y), grid


class Up(nn.Module):
    """Upsampling, then `DoubleConv`: (B, inputs, h, w) and the skip (B, inputs/2, 2h, 2w) -> (B, outputs, 2h, 2w).

    If the downsampling filling has an upsampler: the upsampler on the same grid, then a 2x2 convolution that wraps
    around at the bottom and the right, whatever `conv_padding` is. Otherwise a transposed 2x2 convolution and, if there
    is a filling, its filter at stride 1. The skip is then prepended.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        pool: Downsample | None,
        downsample: DownsampleFactory | None,
        conv_padding: str,
        **layers: ModuleFactory,
    ) -> None:
        super().__init__()
        half = inputs // 2
        self.unpool = None if pool is None else pool.upsampler(inputs)
        plain = self.unpool is None
        self.up: nn.Module = nn.ConvTranspose2d(inputs, half, 2, stride=2) if plain else nn.Conv2d(inputs, half, 2)
        self.smooth = downsample(half, 1) if downsample is not None and plain else nn.Identity()
        self.conv = DoubleConv(inputs, outputs, conv_padding=conv_padding, **layers)

    def forward(self, y: Tensor, skip: Tensor, grid: Grid | None) -> Tensor:
        if self.unpool is None:
            y = self.smooth(self.up(y))
        else:
            y = self.up(pad(self.unpool(y, grid), [(0, 1)] * 2, padding="circular"))
        return self.conv(torch.cat([skip, y], dim=1))


class UNet(Backbone):
    """Image to image, (B, in_channels, H, W) -> (B, out_channels, H, W), through len(widths) - 1 halvings and back.

    Args:
        in_channels, out_channels: of the images.
        widths: channels at each level, each twice the one before.
        downsample: factory (channels, stride) of the filling that subsamples after a dense max-pool and, at stride 1,
            smooths after a transposed convolution; None: only strided max-pools and transposed convolutions.
        conv_padding: "zeros" or "circular", for convolutions and dense max-pools.
        norm, activation: factories (channels) of the layers after a convolution, and after a norm.

    Raises:
        ValueError: another padding, fewer than two widths or widths that do not double; in the forward, H or W that is
            not a multiple of 2 ** (len(widths) - 1).

    Law: with circular padding and polyphase Downsamples, f(roll(x, s)) is roll(f(x), s).
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        downsample: DownsampleFactory | None = None,
        conv_padding: str = "zeros",
        norm: ModuleFactory = batch_norm,
        activation: ModuleFactory = relu,
    ) -> None:
        super().__init__()
        if conv_padding not in CONV_PADDINGS:
            raise ValueError(f"conv_padding must be one of {', '.join(CONV_PADDINGS)}, got {conv_padding!r}")
        if len(widths) < 2 or any(b != 2 * a for a, b in pairwise(widths)):
            raise ValueError(f"widths must be two or more, each twice the one before, got {tuple(widths)}")
        levels = list(pairwise(widths))
        layers = {"norm": norm, "activation": activation}
        self.in_channels = in_channels
        self.first = DoubleConv(in_channels, widths[0], conv_padding=conv_padding, **layers)
        self.downs = nn.ModuleList(
            Down(a, b, at(downsample, f"downs.{i}.pool"), conv_padding, **layers) for i, (a, b) in enumerate(levels)
        )
        # deepest first, each with the filling that it inverts
        pools = [down.pool for down in self.downs if isinstance(down, Down)]
        ups = [(b, a, pool) for (a, b), pool in zip(levels, pools, strict=True)]
        self.ups = nn.ModuleList(
            Up(b, a, pool, at(downsample, f"ups.{i}.smooth"), conv_padding, **layers)
            for i, (b, a, pool) in enumerate(reversed(ups))
        )
        self.last = nn.Conv2d(widths[0], out_channels, 1)

    def parts(self) -> Parts:
        downs = tuple(f"downs.{i}.conv" for i in range(len(self.downs)))
        ups = tuple(f"ups.{i}" for i in range(len(self.ups)))
        return Parts(("first",), downs, ("last",), ("first", *downs, *ups))

    def forward_features(self, x: Tensor) -> Tensor:
        """The smallest map, (B, widths[-1], h, w)."""
        x = self.first(x)
        for down in self.downs:
            x, _ = down(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        multiple = 2 ** len(self.downs)
        if x.shape[-2] % multiple or x.shape[-1] % multiple:
            raise ValueError(f"height and width must be multiples of {multiple}, got {x.shape[-2]}x{x.shape[-1]}")
        x = self.first(x)
        passed: list[tuple[Tensor, Grid | None]] = []
        for down in self.downs:
            y, grid = down(x)
            passed.append((x, grid))
            x = y
        for up, (skip, grid) in zip(self.ups, reversed(passed), strict=True):
            x = up(x, skip, grid)
        return self.last(x)
