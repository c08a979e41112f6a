"""The networks."""

from torch import nn

from stillpoint.core.backbones.resnet import resnet
from stillpoint.core.backbones.slots import slots
from stillpoint.core.config.network import NetworkConfig


def build(model: NetworkConfig, *, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """ResNet-20, (B, in_channels, S, S) -> logits (B, num_classes), with the fillings of the MODEL section."""
    widths = [model.scaled(channels) for channels in (16, 32, 64)]
    return resnet("resnet20", widths=widths, in_channels=in_channels, num_classes=num_classes, **slots(model))
