"""Builds the networks of the notebook and of the lesson from core's backbones."""

from functools import partial

import torch
from torch import nn

from stillpoint.core.backbones.convnet import ConvNet
from stillpoint.core.backbones.perceptron import Perceptron
from stillpoint.core.backbones.slots import slots
from stillpoint.pipelines.translations.config import Model


def build(model: Model, *, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The network of a MODEL section, (B, in_channels, S, S) -> log-probabilities (B, num_classes)."""
    if model.arch == "perceptron":
        features = in_channels * image_size * image_size
        return Perceptron(features, hidden=model.scaled(model.hidden), num_classes=num_classes)
    make = partial(ConvNet, image_size=image_size, in_channels=in_channels, num_classes=num_classes)
    if not model.match:
        return _variant(make, model, model.scaled(model.hidden))
    with torch.device("meta"):
        target = parameters(make(channels=(_channels(model),) * 2, hidden=model.scaled(100)))
        width = _closest_width(lambda width: parameters(_variant(make, model, width)), target)
    return _variant(make, model, width)


def parameters(net: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def _variant(make: partial, model: Model, width: int) -> ConvNet:
    """The ConvNet of `model`; `width` is its scalable size: hidden neurons, or channels before an average."""
    channels = _channels(model)
    options: dict = {"circular": model.circular, "head": model.head, "dropout": model.dropout, **slots(model)}
    if model.front == "scattering":
        from stillpoint.core.layers.scattering import Scattering2d

        return make(front=Scattering2d(), channels=(width, width), kernels=(3, 3), groups=(1, 1), **options)
    if model.head == "average":
        return make(channels=(channels, channels, width, width), kernels=(5, 5, 3, 3), groups=(1, 6, 1, 1), **options)
    return make(channels=(channels, channels), hidden=width, **options)


def _channels(model: Model) -> int:
    """Channels of the first two convolutions: 30 times MODEL.WIDTH, a multiple of the second one's six groups."""
    return 6 * max(1, round(5 * model.width))


def _closest_width(count, target: int) -> int:
    """The width whose number of parameters is closest to `target`; `count` must increase with the width."""
    low, high = 1, 2
    while count(high) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < target else (low, middle)
    return min(low, high, key=lambda width: abs(count(width) - target))
