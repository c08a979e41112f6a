"""torchvision's names -> core's backbones with the slot filled."""

from typing import Any

from torch import nn

from stillpoint.core.backbones.alexnet import AlexNet
from stillpoint.core.backbones.densenet import DenseNet
from stillpoint.core.backbones.mobilenet import MobileNetV2
from stillpoint.core.backbones.resnet import resnet
from stillpoint.core.backbones.vgg import VGG, WIDTHS
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers import downsample_factory
from stillpoint.core.layers.downsample import DownsampleFactory
from stillpoint.pipelines.blurpool.config import SMALL, Model

RESNET_WIDTHS = (64, 128, 256, 512)


def filling(model: Model) -> DownsampleFactory | None:
    """What a MODEL section puts where its network would stride."""
    if model.downsample == "lpf":
        return downsample_factory("blur", size=model.filter_size, padding=model.padding)
    if model.downsample == "pasa":
        return downsample_factory(
            "adaptive_blur",
            size=model.filter_size,
            groups=model.groups,
            normalise=model.normalise,
            padding=model.padding,
        )
    return None


def build(model: Model, *, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The network of a MODEL section, (B, in_channels, S, S) -> logits (B, num_classes)."""
    downsample = filling(model)
    small = image_size <= SMALL
    common: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes, "downsample": downsample}
    if model.arch == "alexnet":
        # the published antialiased network without its full stem has no ReLU after the first convolution
        bare = downsample is not None and model.pool_only
        stem = "pool_only" if model.pool_only else "full"
        return AlexNet(stem=stem, relu_first=model.relu_first, first_relu=not bare, **common)  # type: ignore[arg-type]
    if model.arch.startswith("vgg"):
        _refuse_mirrors(model, image_size)
        depth, _, norm = model.arch.removeprefix("vgg").partition("_")
        widths = _scaled(WIDTHS, model.width)
        return VGG(int(depth), batch_norm=norm == "bn", head="linear" if small else "imagenet", widths=widths, **common)
    if model.arch.startswith("densenet"):
        stem = "cifar" if small else "pool_only" if model.pool_only else "full"
        return DenseNet(int(model.arch.removeprefix("densenet")), stem=stem, **common)  # type: ignore[arg-type]
    if model.arch == "mobilenet_v2":
        # the antialiased network as published truncates scaled widths and has no dropout
        own = {} if downsample is None else {"divisor": 1, "dropout": 0.0}
        if model.width_divisor is not None:
            own["divisor"] = model.width_divisor
        return MobileNetV2(width=model.width, stem_stride=1 if small else 2, **own, **common)  # type: ignore[arg-type]
    return resnet(
        model.arch,
        widths=_scaled(RESNET_WIDTHS, model.width),
        stem="cifar" if small else "imagenet",
        pool_only=model.pool_only or downsample is None or small,
        replace_stride_with_dilation=model.replace_stride_with_dilation,
        zero_init_residual=model.zero_init_residual,
        **common,
    )


def _refuse_mirrors(model: Model, size: int) -> None:
    """A `UserError` where the last of VGG's five maps is too small to be padded by its own reflection."""
    for _ in range(4):
        size = size // 2
    before = model.filter_size // 2
    if model.downsample != "none" and model.padding == "reflect" and before >= size - 1:
        raise UserError(
            f"{model.name or model.arch}: images this small leave its last filter a map of {size - 1}x{size - 1}, "
            f"which cannot be mirrored by {before} pixels: set MODEL.PADDING replicate"
        )


def _scaled(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    return tuple(max(1, round(count * width)) for count in channels)
