"""The U-Net, with slots where it goes down and up.

Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015; with batch norm and
padded convolutions. Its shift-equivariant form: Chaman and Dokmanic, "Truly shift-equivariant convolutional neural
networks with adaptive polyphase upsampling", 2021.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from stillpoint.core.backbones.stem import DenseMaxPool2d
from stillpoint.core.layers.downsample import DownsampleFactory, Grid
from stillpoint.core.layers.padding import PaddedConv2d, pad

#: (channels) -> a module (y, grid) -> map of twice the size, on the grid that the way down sampled
UpsampleFactory = Callable[[int], nn.Module]

CONV_PADDINGS = ("zeros", "circular")
NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}


class DoubleConv(nn.Sequential):
    """Twice: 3x3 convolution with bias, norm, ReLU. (B, inputs, H, W) -> (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, *, conv_padding: str = "zeros", norm: str = "batch") -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            conv = PaddedConv2d(channels, outputs, 3, padding=1, padding_mode=conv_padding)  # type: ignore[arg-type]
            layers += [conv, NORMS[norm](outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class Down(nn.Module):
    """Max-pool and subsampling, then `DoubleConv`: (B, inputs, H, W) -> (B, outputs, H/2, W/2) and the grid, or None.

    With no Downsample it is a max-pool of 2x2; otherwise a dense max-pool of 2x2, one row and column appended at the
    bottom and the right, and then the Downsample.
    """

    def __init__(self, inputs: int, outputs: int, downsample: DownsampleFactory | None, conv_padding: str, norm: str):
        super().__init__()
        plain = downsample is None
        self.maxpool = nn.MaxPool2d(2) if plain else DenseMaxPool2d(2, margin=conv_padding)
        self.pool = None if downsample is None else downsample(inputs, 2)
        self.conv = DoubleConv(inputs, outputs, conv_padding=conv_padding, norm=norm)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid | None]:
        y, grid = self.maxpool(x), None
        if self.pool is not None:
            y, grid = self.pool(y, return_grid=True)
        return self.conv(y), grid


class Up(nn.Module):
    """(B, inputs, h, w) and the skipped map (B, inputs/2, 2h, 2w) -> (B, outputs, 2h, 2w).

    With an upsample factory: upsampling on the grid of the way down, then a 2x2 convolution that wraps round at the
    bottom and the right whatever the padding of the others. Without: a transposed 2x2 convolution and, if there is a
    Downsample, its filter at stride 1. Then the skipped map is put in front, and `DoubleConv` follows.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        downsample: DownsampleFactory | None,
        upsample: UpsampleFactory | None,
        conv_padding: str,
        norm: str,
    ) -> None:
        super().__init__()
        half = inputs // 2
        self.unpool = None if upsample is None else upsample(inputs)
        self.up: nn.Module = (
            nn.ConvTranspose2d(inputs, half, 2, stride=2) if upsample is None else nn.Conv2d(inputs, half, 2)
        )
        self.smooth = downsample(half, 1) if downsample is not None and upsample is None else nn.Identity()
        self.conv = DoubleConv(inputs, outputs, conv_padding=conv_padding, norm=norm)

    def forward(self, y: Tensor, skip: Tensor, grid: Grid | None) -> Tensor:
        if self.unpool is None:
            y = self.smooth(self.up(y))
        else:
            y = self.up(pad(self.unpool(y, grid), [(0, 1)] * 2, padding="circular"))
        return self.conv(torch.cat([skip, y], dim=1))


class UNet(nn.Module):
    """Image to image, (B, in_channels, H, W) -> (B, out_channels, H, W), through len(widths) - 1 halvings and back.

    Args:
        in_channels, out_channels: of the images.
        widths: channels at each level, each twice the one before.
        downsample: factory (channels, stride) of what subsamples after a dense max-pool and, at stride 1, smooths after
            a transposed convolution; none: max-pool and transposed convolutions alone.
        upsample: factory (channels) of a module (y, grid) that undoes the sampling of a polyphase Downsample; none:
            transposed convolutions.
        conv_padding: "zeros" or "circular", for convolutions and dense max-pools.
        norm: "batch" or "instance" (without parameters).

    Raises:
        ValueError: an option outside its set, an upsample without downsample, widths that do not double; in the
            forward, H or W that is no multiple of 2 ** (len(widths) - 1).

    Law: with circular padding, polyphase Downsamples and `PolyphaseUpsample2d`, f(roll(x, s)) is roll(f(x), s).
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        downsample: DownsampleFactory | None = None,
        upsample: UpsampleFactory | None = None,
        conv_padding: str = "zeros",
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if conv_padding not in CONV_PADDINGS:
            raise ValueError(f"conv_padding must be one of {', '.join(CONV_PADDINGS)}, got {conv_padding!r}")
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if len(widths) < 2 or any(b != 2 * a for a, b in pairwise(widths)):
            raise ValueError(f"widths must be two or more, each twice the one before, got {tuple(widths)}")
        if upsample is not None and downsample is None:
            raise ValueError("upsample needs a downsample whose grids it undoes, got downsample=None")
        levels = list(pairwise(widths))
        self.first = DoubleConv(in_channels, widths[0], conv_padding=conv_padding, norm=norm)
        self.downs = nn.ModuleList(Down(a, b, downsample, conv_padding, norm) for a, b in levels)
        self.ups = nn.ModuleList(Up(b, a, downsample, upsample, conv_padding, norm) for a, b in reversed(levels))
        self.last = nn.Conv2d(widths[0], out_channels, 1)

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
