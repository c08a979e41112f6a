"""Builds the papers' networks: core's backbones with their slots filled."""

import warnings
from typing import Any

from torch import nn

from stillpoint.core.backbones.resnet import FAMILY, resnet
from stillpoint.core.backbones.slots import slots
from stillpoint.core.backbones.speednet import speednet
from stillpoint.core.backbones.unet import UNet
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.pipelines.aps.config import HALVINGS, Model, form, odd_sizes
from stillpoint.pipelines.aps.growing import BLOCKS, grow_stem, growing_conv


def build(model: Model, *, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The network of a MODEL section, initialised as the authors do (convolutions Kaiming normal, fan out).

    Args:
        model: the section; see its fields.
        in_channels: of the images.
        num_classes: logits of a ResNet; a U-Net returns images.
        image_size: height and width in pixels, which decide the form where MODEL.FORM is auto.

    Warns:
        UserWarning: an APS network with circular padding subsamples a map with an odd side, so that its invariance is
            not exact.

    Raises:
        UserError: a U-Net for images whose size is not a multiple of 2 ** levels; replicate_pad in the ImageNet form.
    """
    if model.arch.startswith("unet"):
        return _unet(model, in_channels, image_size)
    imagenet, filled = form(model, image_size) == "imagenet", model.downsample != "none"
    if model.downsample == "polyphase" and model.conv_padding == "circular" and (odd := odd_sizes(model, image_size)):
        warnings.warn(
            f"{model.name or model.arch} at {image_size}x{image_size} subsamples maps of odd side "
            f"({', '.join(f'{n}x{n}' for n in odd)}), so its shift invariance is not exact",
            stacklevel=2,
        )
    options: dict[str, Any] = {"conv_padding": model.conv_padding}
    if imagenet and filled:
        margin = "circular" if model.conv_padding == "circular" else "zeros"
        options |= {"pool_only": model.pool_only, "max_pool": DenseMaxPool2d(2, margin=margin)}
    if growing := model.conv_padding == "replicate_pad":
        if imagenet:
            raise UserError("MODEL.CONV_PADDING replicate_pad is for the CIFAR form, not for the ImageNet form")
        options |= {"conv_padding": "replicate", "conv": growing_conv, "block": BLOCKS[FAMILY[model.arch]["block"]]}
    options |= {"in_channels": in_channels, "num_classes": num_classes}
    options |= slots(model, padding=filter_padding(model, cifar=not imagenet), select=select(cifar=not imagenet))
    if model.arch == "speednet":
        return speednet(model.arch, image_size=image_size, width=model.width, **options)
    widths = FAMILY[model.arch].get("widths", (64, 128, 256, 512))
    net = resnet(
        model.arch,
        widths=[model.scaled(n) for n in widths],
        stem="imagenet" if imagenet else "cifar",
        **options,
    )
    if growing:
        grow_stem(net)
    return net


def _unet(model: Model, in_channels: int, image_size: int) -> UNet:
    levels = HALVINGS[model.arch]
    if image_size % 2**levels:
        raise UserError(f"{model.arch} needs images whose sides are multiples of {2**levels}, not {image_size} pixels")
    return UNet(
        in_channels,
        model.out_channels or in_channels,
        widths=[model.scaled(64) * 2**level for level in range(levels + 1)],
        conv_padding=model.conv_padding,
        **slots(model, padding=filter_padding(model, cifar=False), select=select(cifar=False)),
    )


def select(*, cifar: bool) -> str:
    """The map whose phases the papers' networks compare: before or after the blur."""
    return "before_blur" if cifar else "after_blur"


def filter_padding(model: Model, *, cifar: bool) -> str:
    """The padding mode of the filters in the papers' networks."""
    if model.arch.startswith("unet"):
        return model.conv_padding
    return "reflect" if cifar and model.conv_padding != "circular" else "circular"
