"""VGG 11 to 19 with torchvision's layers and parameter names; each 2x2 max-pool may be a dense one before a
downsample slot.

Source: Simonyan and Zisserman, ICLR 2015, table 1 (columns A, B, D, E); the filled form: Zhang, ICML 2019.
"""

from typing import Literal

import torch
from torch import nn

from stillpoint.core.layers.downsample import DownsampleFactory

# convolutions per stage; the stages are 64, 128, 256, 512 and 512 channels wide
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """VGG: (B, in_channels, H, W) -> (B, num_classes), H and W at least 32.

    depth       11, 13, 16 or 19.
    batch_norm  batch normalisation after every convolution.
    downsample  what replaces the stride of each max-pool (which then slides densely before it); none is the plain
    network. head        "imagenet": 7x7 average pool and three linear layers; "linear": global average and one
    linear layer.
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
        widths: tuple[int, ...] = WIDTHS,
    ):
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"VGG of depth {depth}: one of {', '.join(map(str, DEPTHS))}")
        layers: list[nn.Module] = []
        channels = in_channels
        for width, count in zip(widths, DEPTHS[depth], strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            # one position, as torchvision's max-pool, so that its checkpoints load by name
            layers.append(
                nn.MaxPool2d(2, 2) if downsample is None else nn.Sequential(nn.MaxPool2d(2, 1), downsample(width, 2))
            )
        self.features = nn.Sequential(*layers)
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.avgpool(self.features(x))  # (B, 512, 7, 7)
        return self.classifier(x.flatten(1))
