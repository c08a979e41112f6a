"""VGG 11 to 19 with torchvision's layers and parameter names; each 2x2 max-pool may be a dense one before a Downsample
slot.

Source: Simonyan and Zisserman, ICLR 2015, table 1 (columns A, B, D, E); with filters: Zhang, ICML 2019.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from stillpoint.core.backbones.backbone import SMALL, Backbone, Parts, scaled
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.core.layers.downsample import DownsampleFactory, at
from stillpoint.core.layers.fused_sequential import FusedSequential
from stillpoint.core.layers.slots import ModuleFactory, relu
from stillpoint.core.layers.slots import batch_norm as _batch_norm

# convolutions per stage; the stages are 64, 128, 256, 512 and 512 channels wide
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(Backbone):
    """VGG: (B, in_channels, H, W) -> (B, num_classes), H and W at least 32.

    depth       11, 13, 16 or 19.
    batch_norm  whether a batch norm follows every convolution.
    downsample  replaces the stride of each max-pool (which is then dense); None: the plain max-pool.
    head        "imagenet": 7x7 average pool and three linear layers; "linear": global average and one linear layer.
    widths      channels of the five stages.
    activation  factory (channels) of the layer after a convolution, or after its norm.
    norm        factory (channels) of the norm after a convolution; None: batch norms, if `batch_norm`.
    """

    def __init__(
        self,
        depth: int = 16,
        *,
        batch_norm: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
        downsample: DownsampleFactory | None = None,
        dropout: float = 0.5,
        head: Literal["imagenet", "linear"] = "imagenet",
        widths: Sequence[int] = WIDTHS,
        activation: ModuleFactory = relu,
        norm: ModuleFactory | None = None,
    ):
        super().__init__()
        self.in_channels = in_channels
        normalise = norm or (_batch_norm if batch_norm else None)
        if depth not in DEPTHS:
            raise ValueError(f"depth must be one of {', '.join(map(str, DEPTHS))}, got {depth}")
        layers: list[nn.Module] = []
        ends: list[str] = []
        channels = in_channels
        for width, count in zip(widths, DEPTHS[depth], strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                if normalise is not None:
                    layers.append(normalise(width))
                layers.append(activation(width))
                channels = width
            # one position, like torchvision's max-pool, so that its checkpoints load by name
            slot = at(downsample, f"features.{len(layers)}.1")
            layers.append(nn.MaxPool2d(2, 2) if slot is None else nn.Sequential(DenseMaxPool2d(2), slot(width, 2)))
            ends.append(f"features.{len(layers) - 1}")
        self.features, self.ends = FusedSequential(*layers), tuple(ends)
        self.avgpool = nn.AdaptiveAvgPool2d(7 if head == "imagenet" else 1)
        if head == "imagenet":
            self.classifier: nn.Module = nn.Sequential(
                nn.Linear(channels * 7 * 7, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, num_classes),
            )
        else:
            self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def parts(self) -> Parts:
        layers = tuple(f"features.{i}" for i in range(len(self.features)))
        stem = layers[: layers.index(self.ends[0]) + 1]
        return Parts(stem, self.ends[1:], ("avgpool", "classifier"), layers)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)  # (B, 512, h, w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.forward_features(x)).flatten(1))


def vgg(name: str, *, image_size: int, width: float = 1.0, **options: Any) -> VGG:
    """``vgg16``, ``vgg16_bn``, ... with `VGG`'s options, for square images of `image_size` pixels; `width` multiplies
    the channels of the convolutions."""
    depth, _, norm = name.removeprefix("vgg").partition("_")
    variant = {"head": "linear" if image_size <= SMALL else "imagenet", "widths": [scaled(n, width) for n in WIDTHS]}
    return VGG(int(depth), batch_norm=norm == "bn", **{**variant, **options})
