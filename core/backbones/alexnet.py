"""AlexNet with torchvision's layers and parameter names; a Downsample slot may replace each stride.

Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014 (torchvision's `alexnet`);
with filters: Zhang, ICML 2019.
"""

from typing import Any, Literal

import torch
from torch import nn

from stillpoint.core.backbones.backbone import Backbone, Parts, scaled
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.core.layers.downsample import DownsampleFactory, at
from stillpoint.core.layers.slots import ModuleFactory, relu

HEAD = ("avgpool", "classifier")


class AlexNet(Backbone):
    """AlexNet: (B, in_channels, H, W) -> (B, num_classes), H and W at least 63.

    downsample  what replaces each stride of 2; None: the plain network.
    stem        "full": the first convolution has stride 2 and a slot after it the other factor of its stride of 4;
                "pool_only": the convolution keeps stride 4, and only the pooling after it has a slot.
                A module instead replaces the first convolution, its ReLU and the pooling: (B, in, H, W) -> (B, 64,
                h, w).
    relu_first  for "full" only: ReLU before the first slot (True) or after it.
    first_relu  whether a ReLU follows the first convolution ("pool_only" as published has none).
    dropout     rate before the first two linear layers of the "imagenet" head.
    width       multiplier of the convolutions' channels; a stem module keeps its 64.
    activation  factory (channels) of the layer after a convolution.
    head        "imagenet": 6x6 average pool and three linear layers; "linear": global average and one linear layer.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        downsample: DownsampleFactory | None = None,
        stem: Literal["full", "pool_only"] | nn.Module = "full",
        relu_first: bool = True,
        first_relu: bool = True,
        dropout: float = 0.5,
        head: Literal["imagenet", "linear"] = "imagenet",
        width: float = 1.0,
        activation: ModuleFactory = relu,
    ):
        super().__init__()
        self.in_channels = in_channels
        c1, c2, c3, c4, c5 = (scaled(n, width) for n in (64, 192, 384, 256, 256))

        def slot(channels: int, place: str) -> nn.Module:
            make = at(downsample, f"features.{place}")
            assert make is not None
            return make(channels, 2)

        def pool(channels: int, place: int) -> nn.Module:
            if downsample is None:
                return nn.MaxPool2d(3, 2)
            return nn.Sequential(DenseMaxPool2d(3), slot(channels, f"{place}.1"))

        act: nn.Module = activation(c1) if first_relu else nn.Identity()
        if isinstance(stem, nn.Module):
            first = [stem, nn.Identity(), nn.Identity()]
            c1 = 64
        elif stem not in ("full", "pool_only"):
            raise ValueError(f"stem must be 'full', 'pool_only' or a module, got {stem!r}")
        elif downsample is None or stem == "pool_only":
            first = [nn.Conv2d(in_channels, c1, 11, 4, 2), act, pool(c1, 2)]
        else:
            conv, blur = nn.Conv2d(in_channels, c1, 11, 2, 2), slot(c1, "2.0" if relu_first else "1.0")
            dense = [DenseMaxPool2d(3), slot(c1, "2.2" if relu_first else "2.1")]
            if relu_first:
                first = [conv, act, nn.Sequential(blur, *dense)]
            else:
                first = [conv, nn.Sequential(blur, act), nn.Sequential(*dense)]
        # positions 0..12 are torchvision's, so that its checkpoints load by name
        self.features = nn.Sequential(
            *first,
            nn.Conv2d(c1, c2, 5, padding=2),
            activation(c2),
            pool(c2, 5),
            nn.Conv2d(c2, c3, 3, padding=1),
            activation(c3),
            nn.Conv2d(c3, c4, 3, padding=1),
            activation(c4),
            nn.Conv2d(c4, c5, 3, padding=1),
            activation(c5),
            pool(c5, 12),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6 if head == "imagenet" else 1)
        if head == "imagenet":
            self.classifier: nn.Module = nn.Sequential(
                nn.Dropout(dropout),
                nn.Linear(c5 * 6 * 6, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Linear(4096, num_classes),
            )
        else:
            self.classifier = nn.Linear(c5, num_classes)

    def parts(self) -> Parts:
        layers = tuple(f"features.{i}" for i in range(13))
        return Parts(layers[:3], ("features.5", "features.7", "features.9", "features.12"), HEAD, layers)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)  # (B, 256, h, w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.forward_features(x)).flatten(1))


def alexnet(name: str, *, image_size: int, **options: Any) -> AlexNet:
    """`AlexNet` with `options`, for square images of `image_size` pixels, at least 63."""
    return AlexNet(**options)
