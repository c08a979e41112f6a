"""MobileNet-v2 with torchvision's layers and parameter names and a downsample slot behind the strided depthwise
convolutions.

Source: Sandler, Howard, Zhu, Zhmoginov and Chen, CVPR 2018, table 2; the filled form: Zhang, ICML 2019.
"""

from collections import OrderedDict

import torch
from torch import nn

from stillpoint.core.layers.downsample import DownsampleFactory

# expansion, channels, repeats, stride of the first
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _scaled(channels: int, width: float, divisor: int) -> int:
    """`channels` times `width`, to the nearest multiple of `divisor` but never below nine tenths of the product."""
    if divisor == 1:
        return int(channels * width)
    scaled = max(divisor, int(channels * width + divisor / 2) // divisor * divisor)
    return scaled + divisor if scaled < 0.9 * channels * width else scaled


def _conv_norm_relu(
    cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, pool: nn.Module | None = None
) -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = [
        ("0", nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)),
        ("1", nn.BatchNorm2d(cout)),
        ("2", nn.ReLU6(inplace=True)),
    ]
    return nn.Sequential(OrderedDict(layers + ([("pool", pool)] if pool is not None else [])))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection; the slot stands between the last two."""

    def __init__(self, cin: int, cout: int, *, stride: int, expansion: int, downsample: DownsampleFactory | None):
        super().__init__()
        hidden = cin * expansion
        filled = stride > 1 and downsample is not None
        pool = downsample(hidden, stride) if filled and downsample is not None else None
        layers = [] if expansion == 1 else [_conv_norm_relu(cin, hidden, 1)]
        layers.append(_conv_norm_relu(hidden, hidden, 3, 1 if filled else stride, groups=hidden, pool=pool))
        self.conv = nn.Sequential(*layers, nn.Conv2d(hidden, cout, 1, bias=False), nn.BatchNorm2d(cout))
        self.residual = stride == 1 and cin == cout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNet-v2: (B, in_channels, H, W) -> (B, num_classes).

    downsample   what replaces the stride of the four strided depthwise convolutions; the stem's convolution keeps
    its own. width        multiplier of all channel counts, rounded to multiples of `divisor` (8 as torchvision's; 1
    truncates). stem_stride  2 for ImageNet; 1 for images of 32 pixels, whose map would otherwise vanish.
    dropout      before the classifier: 0.2 in torchvision's network, 0 in the antialiased one as published.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        downsample: DownsampleFactory | None = None,
        width: float = 1.0,
        divisor: int = 8,
        stem_stride: int = 2,
        dropout: float = 0.2,
    ):
        super().__init__()
        channels = _scaled(32, width, divisor)
        last = _scaled(1280, max(1.0, width), divisor)
        features: list[nn.Module] = [_conv_norm_relu(in_channels, channels, 3, stem_stride)]
        for expansion, base, repeats, first_stride in STAGES:
            for i in range(repeats):
                out = _scaled(base, width, divisor)
                stride = first_stride if i == 0 else 1
                features.append(
                    InvertedResidual(channels, out, stride=stride, expansion=expansion, downsample=downsample)
                )
                channels = out
        features.append(_conv_norm_relu(channels, last, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))
