"""AlexNet with torchvision's layers and parameter names; where it strides, a downsample slot may stand instead.

Source of the plain network: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014
(torchvision's `alexnet`). Source of the filled form: Zhang, ICML 2019.
"""

from typing import Literal

import torch
from torch import nn

from stillpoint.core.layers.downsample import DownsampleFactory


class AlexNet(nn.Module):
    """AlexNet: (B, in_channels, H, W) -> (B, num_classes), H and W at least 63.

    downsample  what replaces a stride of two; none is the plain network.
    stem        "full": the first convolution has stride 2 and a slot after it takes the other half of the stride of 4;
                "pool_only": the convolution keeps stride 4 and only the pooling behind it is filled.
                A module instead replaces the first convolution, its ReLU and the pooling: (B, in, H, W) -> (B, 64,
                h, w).
    relu_first  "full" only: ReLU before the first slot (True) or after it.
    first_relu  whether a ReLU follows the first convolution at all ("pool_only" as published has none).
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
    ):
        super().__init__()

        def pool(channels: int) -> nn.Module:
            if downsample is None:
                return nn.MaxPool2d(3, 2)
            return nn.Sequential(nn.MaxPool2d(3, 1), downsample(channels, 2))

        relu: nn.Module = nn.ReLU(inplace=True) if first_relu else nn.Identity()
        if isinstance(stem, nn.Module):
            first = [stem, nn.Identity(), nn.Identity()]
        elif stem not in ("full", "pool_only"):
            raise ValueError(f"stem must be 'full', 'pool_only' or a module, not {stem!r}")
        elif downsample is None or stem == "pool_only":
            first = [nn.Conv2d(in_channels, 64, 11, 4, 2), relu, pool(64)]
        else:
            conv, blur = nn.Conv2d(in_channels, 64, 11, 2, 2), downsample(64, 2)
            dense = [nn.MaxPool2d(3, 1), downsample(64, 2)]
            if relu_first:
                first = [conv, relu, nn.Sequential(blur, *dense)]
            else:
                first = [conv, nn.Sequential(blur, relu), nn.Sequential(*dense)]
        # positions 0..12 are torchvision's, so that its checkpoints load by name
        self.features = nn.Sequential(
            *first,
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            pool(192),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            pool(256),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6 if head == "imagenet" else 1)
        if head == "imagenet":
            self.classifier: nn.Module = nn.Sequential(
                nn.Dropout(dropout),
                nn.Linear(256 * 6 * 6, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Linear(4096, num_classes),
            )
        else:
            self.classifier = nn.Linear(256, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.avgpool(self.features(x))  # (B, 256, 6, 6)
        return self.classifier(x.flatten(1))
