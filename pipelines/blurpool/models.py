"""Builds the paper's networks: core's backbones, by torchvision's names, with their slots filled."""

from typing import Any

from torch import nn

from stillpoint.core.backbones.slots import slots
from stillpoint.core.base.errors import UserError
from stillpoint.core.base.lookup import find
from stillpoint.core.config.slot import BACKBONES
from stillpoint.pipelines.blurpool.config import RESIDUAL, Model


def build(model: Model, *, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The network of a MODEL section, (B, in_channels, S, S) -> logits (B, num_classes)."""
    if model.arch.startswith("vgg"):
        _refuse_mirrors(model, image_size)
    make = find("MODEL.ARCH", model.arch, BACKBONES)
    shape = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    return make(model.arch, width=model.width, **shape, **slots(model), **_published(model))


def _published(model: Model) -> dict[str, Any]:
    """The options with which the published networks differ from ours, besides their fillings."""
    filled = model.downsample != "none"
    if model.arch == "alexnet":
        # the published antialiased network without its full stem has no ReLU after the first convolution
        bare = filled and model.pool_only
        stem = "pool_only" if model.pool_only else "full"
        return {"stem": stem, "relu_first": model.relu_first, "first_relu": not bare}
    if model.arch.startswith("densenet"):
        return {"stem": "pool_only" if model.pool_only else "full"}
    if model.arch == "mobilenet_v2":
        # the antialiased network as published truncates scaled widths and has no dropout
        own: dict[str, Any] = {"divisor": 1, "dropout": 0.0} if filled else {}
        return own if model.width_divisor is None else {**own, "divisor": model.width_divisor}
    if model.arch.startswith(RESIDUAL):
        return {
            "pool_only": model.pool_only,
            "replace_stride_with_dilation": model.replace_stride_with_dilation,
            "zero_init_residual": model.zero_init_residual,
        }
    return {}


def _refuse_mirrors(model: Model, size: int) -> None:
    """Raises `UserError` if VGG's last map is too small for reflection padding."""
    for _ in range(4):
        size = size // 2
    fill = model.fill("features.*")
    # default taps of the fillings that pad by reflection by default
    before = fill.options.get("size", {"blur": 4, "adaptive_blur": 3}.get(fill.kind, 1)) // 2
    mirrors = fill.options.get("padding", "reflect" if fill.kind in ("blur", "adaptive_blur") else "") == "reflect"
    if mirrors and before >= size - 1:
        raise UserError(
            f"{model.name or model.arch}: at this image size the last filter's map has {size - 1}x{size - 1} pixels, "
            f"too few for reflection padding by {before}: set MODEL.FILTER_PADDING replicate"
        )
