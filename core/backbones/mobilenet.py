"""MobileNet-v2 with torchvision's layers and parameter names and a Downsample slot after the strided depthwise
convolutions.

Source: Sandler, Howard, Zhu, Zhmoginov and Chen, CVPR 2018, table 2; with filters: Zhang, ICML 2019.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from stillpoint.core.backbones.backbone import SMALL, Backbone, Parts
from stillpoint.core.layers.downsample import Downsample, DownsampleFactory, at
from stillpoint.core.layers.fused_sequential import FusedSequential
from stillpoint.core.layers.slots import ModuleFactory, batch_norm, relu6

# expansion, channels, repeats, stride of the first
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _scaled(channels: int, width: float, divisor: int) -> int:
    """`channels` times `width`, rounded to a multiple of `divisor` that is at least 90 % of it; truncated for 1."""
    if divisor == 1:
        return int(channels * width)
    scaled = max(divisor, int(channels * width + divisor / 2) // divisor * divisor)
    return scaled + divisor if scaled < 0.9 * channels * width else scaled


def _conv_norm_relu(
    cin: int,
    cout: int,
    kernel: int,
    activation: ModuleFactory,
    norm: ModuleFactory,
    stride: int = 1,
    groups: int = 1,
    pool: Downsample | None = None,
) -> FusedSequential:
    layers: list[tuple[str, nn.Module]] = [
        ("0", nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)),
        ("1", norm(cout)),
        ("2", activation(cout)),
    ]
    return FusedSequential(OrderedDict(layers + ([("pool", pool)] if pool is not None else [])))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, [Downsample,] 1x1 linear projection; plus the input if sizes agree."""

    def __init__(
        self,
        cin: int,
        cout: int,
        *,
        stride: int,
        expansion: int,
        downsample: DownsampleFactory | None,
        activation: ModuleFactory = relu6,
        norm: ModuleFactory = batch_norm,
    ):
        super().__init__()
        hidden, own = cin * expansion, (activation, norm)
        filled = stride > 1 and downsample is not None
        pool = downsample(hidden, stride) if filled and downsample is not None else None
        layers = [] if expansion == 1 else [_conv_norm_relu(cin, hidden, 1, *own)]
        layers.append(_conv_norm_relu(hidden, hidden, 3, *own, 1 if filled else stride, groups=hidden, pool=pool))
        self.conv = FusedSequential(*layers, nn.Conv2d(hidden, cout, 1, bias=False), norm(cout))
        self.residual = stride == 1 and cin == cout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(Backbone):
    """MobileNet-v2: (B, in_channels, H, W) -> (B, num_classes).

    downsample   replaces the stride of the four strided depthwise convolutions; the stem keeps its stride.
    width        multiplier of all channels, rounded to multiples of `divisor` (8 in torchvision; 1 truncates).
    stem_stride  2 for ImageNet; 1 for images of 32 pixels, whose map would otherwise vanish.
    dropout      before the classifier: 0.2 in torchvision's network, 0 in the antialiased one as published.
    activation, norm  factories (channels) of the layers after a norm, and after a convolution.
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
        activation: ModuleFactory = relu6,
        norm: ModuleFactory = batch_norm,
    ):
        super().__init__()
        self.in_channels = in_channels
        channels = _scaled(32, width, divisor)
        last = _scaled(1280, max(1.0, width), divisor)
        features: list[nn.Module] = [_conv_norm_relu(in_channels, channels, 3, activation, norm, stem_stride)]
        ends: list[str] = []
        for expansion, base, repeats, first_stride in STAGES:
            for i in range(repeats):
                out = _scaled(base, width, divisor)
                stride = first_stride if i == 0 else 1
                # without an expansion the depthwise convolution is the first of its block
                slot = at(downsample, f"features.{len(features)}.conv.{0 if expansion == 1 else 1}.pool")
                own: dict[str, Any] = {"downsample": slot, "activation": activation, "norm": norm}
                if stride > 1:
                    ends.append(f"features.{len(features) - 1}")
                features.append(InvertedResidual(channels, out, stride=stride, expansion=expansion, **own))
                channels = out
        features.append(_conv_norm_relu(channels, last, 1, activation, norm))
        self.features, self.ends = nn.Sequential(*features), (*ends[1:], f"features.{len(features) - 1}")
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def parts(self) -> Parts:
        layers = tuple(f"features.{i}" for i in range(len(self.features)))
        return Parts(layers[:2], self.ends, ("classifier",), layers)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)  # (B, 1280, h, w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.forward_features(x).mean((2, 3)))


def mobilenet(name: str, *, image_size: int, **options: Any) -> MobileNetV2:
    """`MobileNetV2` with `options`, for square images of `image_size` pixels; small ones get a stem of stride 1."""
    return MobileNetV2(**{"stem_stride": 1 if image_size <= SMALL else 2, **options})
