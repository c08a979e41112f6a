"""Builds an entry's network: a backbone of core with its slots filled. The board has no layer of its own."""

from typing import Any

from torch import nn

from stillpoint.core.backbones.backbone import Backbone
from stillpoint.core.backbones.resnet import FAMILY, resnet
from stillpoint.core.backbones.slots import slots
from stillpoint.core.backbones.speednet import speednet
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.complex_modulus import ComplexModulus, ModulusBatchNorm2d
from stillpoint.core.layers.fused_sequential import FusedSequential
from stillpoint.core.layers.scattering import Scattering2d
from stillpoint.core.layers.sparse_coding import SparseCoding2d
from stillpoint.core.layers.wavelet_packings import RESNET
from stillpoint.core.layers.wavelet_twin import TwinStem, WaveletMixing2d, WaveletTwin2d
from stillpoint.pipelines.board.config import Model

#: freely trained channels of a twin stem, as in the twins of ResNets
_FREE = 40
#: iterations of the sparse-coding stem, as published
_ITERATIONS = 2


def build(model: Model, *, in_channels: int, num_classes: int, image_size: int) -> Backbone:
    """The network of a MODEL section, (B, in_channels, S, S) -> logits (B, num_classes).

    `UserError` for a stem of stride 4 on images whose side is not a multiple of 16.
    """
    options: dict[str, Any] = {
        "in_channels": in_channels,
        "num_classes": num_classes,
        "conv_padding": model.conv_padding,
        **slots(model),
    }
    if model.arch == "speednet":
        return speednet(model.arch, image_size=image_size, width=model.width, **options)
    widths = [model.scaled(n) for n in FAMILY[model.arch].get("widths", (64, 128, 256, 512))]
    options["widths"] = widths
    if model.stem == "plain":
        return resnet(model.arch, stem="cifar", **options)
    if model.stem != "sparse" and image_size % 16:
        raise UserError(
            f"MODEL.STEM {model.stem} has a stride of 4: sides of images must be multiples of 16, got {image_size}"
        )
    if model.stem == "strided":
        return resnet(model.arch, stem="imagenet", **options)
    stem, width = _stem(model, in_channels, widths[0])
    return resnet(model.arch, stem=stem, stem_width=width, **options)


def _stem(model: Model, in_channels: int, width: int) -> tuple[nn.Module, int]:
    """(the stem, its number of output channels)."""
    if model.stem == "sparse":
        code = SparseCoding2d(in_channels, width, 3, padding=1, iterations=_ITERATIONS)
        return FusedSequential(code, nn.BatchNorm2d(width)), width
    if model.stem == "scattering":
        scattering = Scattering2d()
        channels = in_channels * scattering.maps
        return FusedSequential(scattering, nn.BatchNorm2d(channels)), channels
    modulus = model.stem == "modulus"
    free = nn.Conv2d(in_channels, _FREE, 7, stride=2, padding=3, bias=False)
    wavelet = WaveletMixing2d(in_channels, RESNET, stride=2, part="complex" if modulus else "real")
    first = WaveletTwin2d(free, wavelet, subsample=2 if modulus else 1)
    channels = _FREE + wavelet.out_channels
    if not modulus:
        return TwinStem(first, joint=_pooled(channels)), channels
    high = nn.Sequential(ComplexModulus(), ModulusBatchNorm2d(wavelet.out_channels), nn.ReLU(inplace=True))
    return TwinStem(first, low=_pooled(_FREE), high=high), channels


def _pooled(channels: int) -> nn.Sequential:
    return FusedSequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1))
