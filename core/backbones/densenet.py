"""DenseNet 121 to 201 with torchvision's layers and parameter names and a Downsample slot in the stem and the
transitions.

Source: Huang, Liu, van der Maaten and Weinberger, CVPR 2017, table 1; with filters: Zhang, ICML 2019.
"""

from collections import OrderedDict
from typing import Any, Literal

import torch
from torch import nn

from stillpoint.core.backbones.backbone import SMALL, Backbone, Parts, scaled
from stillpoint.core.layers.conv_norm_act import conv_norm_act
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.core.layers.downsample import DownsampleFactory, at
from stillpoint.core.layers.fused_sequential import FusedSequential
from stillpoint.core.layers.norm_act import norm_act
from stillpoint.core.layers.slots import ModuleFactory, batch_norm, relu

# depth: (channels of the stem, growth rate, layers of the four dense blocks)
FORMS = {
    121: (64, 32, (6, 12, 24, 16)),
    161: (96, 48, (6, 12, 36, 24)),
    169: (64, 32, (6, 12, 32, 32)),
    201: (64, 32, (6, 12, 48, 32)),
}


class DenseLayer(nn.Module):
    """norm-relu-conv1x1-norm-relu-conv3x3, appended to the input: (B, C, H, W) -> (B, C + growth, H, W)."""

    def __init__(
        self,
        channels: int,
        growth: int,
        bottleneck: int = 4,
        activation: ModuleFactory = relu,
        norm: ModuleFactory = batch_norm,
    ):
        super().__init__()
        self.norm1 = norm(channels)
        self.relu1 = activation(channels)
        self.conv1 = nn.Conv2d(channels, bottleneck * growth, 1, bias=False)
        self.norm2 = norm(bottleneck * growth)
        self.relu2 = activation(bottleneck * growth)
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        new = self.conv2(conv_norm_act(norm_act(x, self.norm1, self.relu1), self.conv1, self.norm2, self.relu2))
        return torch.cat([x, new], 1)  # (B, C + growth, H, W)


class DenseNet(Backbone):
    """DenseNet: (B, in_channels, H, W) -> (B, num_classes).

    depth       121, 161, 169 or 201.
    downsample  replaces the stride of the stem's max-pool, and the transitions' average pools; None: the plain pools.
    stem        "pool_only": the 7x7 convolution keeps its stride; "full": with a Downsample, it has stride 1 and a slot
                follows it; "cifar": a 3x3 convolution of stride 1 and no pooling.
    width       multiplier of the stem's channels and of the growth rate.
    activation, norm  factories (channels) of the layers before each convolution.
    """

    def __init__(
        self,
        depth: int = 121,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        downsample: DownsampleFactory | None = None,
        stem: Literal["pool_only", "full", "cifar"] = "pool_only",
        width: float = 1.0,
        activation: ModuleFactory = relu,
        norm: ModuleFactory = batch_norm,
    ):
        super().__init__()
        self.in_channels = in_channels
        if depth not in FORMS:
            raise ValueError(f"depth must be one of {', '.join(map(str, FORMS))}, got {depth}")
        if stem not in ("pool_only", "full", "cifar"):
            raise ValueError(f"stem must be 'pool_only', 'full' or 'cifar', got {stem!r}")
        channels, growth, blocks = FORMS[depth]
        channels, growth = (scaled(n, width) for n in (channels, growth))
        full = stem == "full" and downsample is not None
        features: OrderedDict[str, nn.Module] = OrderedDict()
        if stem == "cifar":
            features["conv0"] = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        else:
            features["conv0"] = nn.Conv2d(in_channels, channels, 7, 1 if full else 2, 3, bias=False)
        features["norm0"] = norm(channels)
        features["relu0"] = activation(channels)
        if stem != "cifar":
            if downsample is None:
                features["pool0"] = nn.MaxPool2d(3, 2, 1)
            else:
                slots = [at(downsample, f"features.pool0.{place}") for place in ((0, 2) if full else (1,))]
                made = [slot(channels, 2) for slot in slots if slot is not None]
                features["pool0"] = nn.Sequential(*made[:-1], DenseMaxPool2d(3, margin="same"), made[-1])
        for number, layers in enumerate(blocks, start=1):
            features[f"denseblock{number}"] = nn.Sequential(
                OrderedDict(
                    (f"denselayer{i + 1}", DenseLayer(channels + i * growth, growth, activation=activation, norm=norm))
                    for i in range(layers)
                )
            )
            channels += layers * growth
            if number < len(blocks):
                slot = at(downsample, f"features.transition{number}.pool")
                features[f"transition{number}"] = FusedSequential(
                    OrderedDict(
                        norm=norm(channels),
                        relu=activation(channels),
                        conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
                        pool=nn.AvgPool2d(2, 2) if slot is None else slot(channels // 2, 2),
                    )
                )
                channels //= 2
        features["norm5"] = norm(channels)
        self.features = FusedSequential(features)
        self.act5 = activation(channels)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def parts(self) -> Parts:
        names = [name for name, _ in self.features.named_children()]
        layers = tuple(f"features.{name}" for name in names)
        first = names.index("denseblock1")
        stages = [f"features.transition{i}" for i in range(1, 4)]
        return Parts(layers[:first], (*stages, "features.norm5"), ("classifier",), layers)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.act5(self.features(x))  # (B, C, h, w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.forward_features(x).mean((2, 3)))


def densenet(name: str, *, image_size: int, **options: Any) -> DenseNet:
    """``densenet121``, ... with `DenseNet`'s options, for square images of `image_size` pixels; small ones always get
    the "cifar" stem."""
    variant = {"stem": "cifar"} if image_size <= SMALL else {}
    return DenseNet(int(name.removeprefix("densenet")), **{**options, **variant})
