"""Builds the paper's networks: core's ResNet with sparse-coding layers in its stem and blocks."""

from functools import partial
from typing import Any

from torch import nn

from stillpoint.core.backbones.resnet import ResNet, resnet
from stillpoint.core.backbones.slots import downsample, slots
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.core.layers.downsample import at
from stillpoint.core.layers.fused_sequential import FusedSequential
from stillpoint.core.layers.sparse_coding import SparseCoding2d
from stillpoint.pipelines.sdnet.config import Model

SMALL = 64  # images up to this size get the stem that does not stride
WIDTHS = (64, 128, 256, 512)


def sparse_layers(net: nn.Module) -> dict[str, SparseCoding2d]:
    """The sparse-coding layers of a network by name, in the order of the forward pass."""
    return {name: module for name, module in net.named_modules() if isinstance(module, SparseCoding2d)}


def build(model: Model, *, in_channels: int, num_classes: int, image_size: int) -> ResNet:
    """The network of a MODEL section, (B, in_channels, S, S) -> logits (B, num_classes).

    ``sdnetN`` has a sparse-coding stem in a plain ResNet; no ReLU follows the batch norm of the codes. In
    ``sdnetN_all`` the 3x3 convolutions are sparse-coding layers too, with no ReLU between them; without shortcuts a
    block has no ReLU at all. For large images its stem has a second such layer instead of the max-pool. With
    MODEL.DOWNSAMPLE only the first layer for large images strides, and a filling of the slot follows it.

    `UserError` if MODEL.LAMBDA has neither one value nor one for each layer.
    """
    small = image_size <= SMALL
    name = model.architecture.removesuffix("_all").replace("sdnet", "resnet")
    widths = [model.scaled(channels) for channels in WIDTHS]
    slot = downsample(model)
    common: dict[str, Any] = {
        "in_channels": in_channels,
        "num_classes": num_classes,
        "widths": widths,
        **slots(model),
    }
    if model.architecture.startswith("resnet"):
        return resnet(name, stem="cifar" if small else "imagenet", **common)

    layer, first = partial(_layer, model), widths[0]
    stem: list[nn.Module] = [
        layer(in_channels, first, 3, padding=1) if small else layer(in_channels, first, 7, stride=2, padding=3),
        nn.BatchNorm2d(first),
    ]
    if not small:
        if slot is not None:
            dense = layer(first, first, 3, padding=1) if model.dense else DenseMaxPool2d(2)
            make = at(slot, "stem.2.1")
            stem.append(nn.Sequential(dense, *([make(first, 2)] if make else [])))
        else:
            stem.append(
                layer(first, first, 3, stride=2, padding=1) if model.dense else nn.MaxPool2d(3, stride=2, padding=1)
            )
    blocks: dict[str, Any] = {}
    if model.dense:
        conv = partial(_pooled_layer, layer) if model.pooling else layer
        blocks = {"conv": conv, "inner_activation": False, "shortcuts": model.shortcut}
    net = resnet(name, stem=FusedSequential(*stem), **blocks, **common)
    layers = sparse_layers(net).values()
    if len(model.lambda_) not in (1, len(layers)):
        raise UserError(
            f"MODEL.LAMBDA must have 1 value or {len(layers)}, one for each layer of {model.name}, not "
            f"{len(model.lambda_)}"
        )
    for module, penalty in zip(
        layers, model.lambda_ if len(model.lambda_) > 1 else model.lambda_ * len(layers), strict=True
    ):
        module.penalty = penalty
    return net


def _layer(
    model: Model, inputs: int, outputs: int, kernel_size: int, *, stride: int = 1, padding: int = 0
) -> SparseCoding2d:
    return SparseCoding2d(
        inputs,
        outputs,
        kernel_size,
        stride=stride,
        padding=padding,
        expansion=model.expansion_factor,
        iterations=model.num_layers,
        penalty=model.lambda_[0],
        adaptive_penalty=model.adaptivelambda,
        ridge=model.mu,
        nonnegative=model.nonegative,
        squared=model.square_noise,
        scheme=model.scheme,  # type: ignore[arg-type]
        normalise=model.wnorm,
        recompute=model.recompute,
    )


def _pooled_layer(
    layer: Any, inputs: int, outputs: int, kernel_size: int, *, stride: int = 1, padding: int = 0
) -> nn.Module:
    """A sparse-coding layer on the full grid, followed by a max-pool if the block strides."""
    if stride == 1:
        return layer(inputs, outputs, kernel_size, padding=padding)
    return nn.Sequential(layer(inputs, outputs, kernel_size, padding=padding), nn.MaxPool2d(stride, ceil_mode=True))
