"""The networks."""

from torch import nn

from stillpoint.core.backbones.resnet import resnet
from stillpoint.core.layers import downsample_factory

from .config import Model


def build(model: Model, *, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """ResNet-20, (B, in_channels, S, S) -> logits (B, num_classes), with a blur of MODEL.TAPS where it strides."""
    blur = downsample_factory("blur", size=model.taps) if model.taps > 1 else None
    widths = [model.width, 2 * model.width, 4 * model.width]
    return resnet("resnet20", widths=widths, in_channels=in_channels, num_classes=num_classes, downsample=blur)
