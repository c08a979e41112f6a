"""Reconstructs images from codes: what a stage of an ``*_all`` network without shortcuts preserves of its input.

Every layer is inverted in turn, sparse coding by its dictionary and batch norm by its own statistics. The shrinkage is
not undone, so images lose contrast with depth. Source: Dai et al. (2022), section on visualisation.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.backbones.resnet import BasicBlock, ResNet
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.sparse_coding import SparseCoding2d

Size = tuple[int, int]


def layers_up_to(net: ResNet, stage: int, block: int) -> list[nn.Module]:
    """The layers up to the end of block `block` of stage `stage`, both counted from 1; stage 0 is the stem.

    `UserError` for a network that cannot be inverted, and for a stage or block that it does not have.
    """
    if not isinstance(net.stem, nn.Sequential) or not all(_invertible(layer) for layer in net.stem):
        raise UserError(
            "only an *_all network can be inverted, whose stem and blocks have only sparse coding and batch norms"
        )
    layers = list(net.stem)
    for number, name in enumerate(net.stages[:stage], start=1):
        blocks = list(cast(nn.Sequential, net.get_submodule(name)))
        if number == stage and not 1 <= block <= len(blocks):
            raise UserError(f"stage {stage} has blocks 1 to {len(blocks)}, not {block}")
        for one in blocks[:block] if number == stage else blocks:
            layers += _inside(cast(BasicBlock, one))
    if not 0 <= stage <= len(net.stages):
        raise UserError(f"the network has stages 0 to {len(net.stages)}, not {stage}")
    return layers


def _inside(block: BasicBlock) -> Iterator[nn.Module]:
    if block.shortcut or block.inner_activation:
        raise UserError(
            "a block with a shortcut or an inner ReLU has no inverse: use an *_all network without shortcuts"
        )
    if block.pool is not None:
        raise UserError("a network with a MODEL.DOWNSAMPLE has no inverse: use MODEL.DOWNSAMPLE none")
    yield from (block.conv1, block.bn1, block.conv2, block.bn2)


def _invertible(layer: nn.Module) -> bool:
    return isinstance(layer, (SparseCoding2d, nn.BatchNorm2d))


def encode(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, list[Size]]:
    """The code of images `x` (B, C, H, W) after the last layer, and the (height, width) of each layer's input."""
    sizes = []
    for layer in layers:
        sizes.append((x.shape[2], x.shape[3]))
        x = layer(x)
    return x, sizes


def decode(layers: Sequence[nn.Module], code: Tensor, sizes: list[Size], *, authors: bool = False) -> Tensor:
    """Reconstructs images (B, C, H, W) from a code by the inverses of the layers, from last to first.

    With `authors` the inverse of a batch norm omits its eps, as in their code, although the forward has it.
    """
    for layer, size in zip(reversed(layers), reversed(sizes), strict=True):
        if isinstance(layer, nn.BatchNorm2d):
            code = _unnormalised(layer, code, 0.0 if authors else layer.eps)
            continue
        if isinstance(layer, nn.Sequential):  # a sparse-coding layer and a max-pool
            layer, code = layer[0], F.interpolate(code, size, mode="bilinear", align_corners=False)
        code = cast(SparseCoding2d, layer).reconstruct(code, size)
    return code


def _unnormalised(norm: nn.BatchNorm2d, z: Tensor, eps: float) -> Tensor:
    if norm.training:
        raise ValueError("a batch norm in training mode has no inverse: call eval() first")
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = (variance + eps).sqrt() / norm.weight
    return (z - norm.bias.view(-1, 1, 1)) * scale.view(-1, 1, 1) + mean.view(-1, 1, 1)


def reconstruct(net: ResNet, x: Tensor, stage: int, block: int, *, authors: bool = False) -> Tensor:
    """The reconstruction of `x` (B, C, H, W) from its code after a block, normalised like `x`."""
    layers = layers_up_to(net, stage, block)
    code, sizes = encode(layers, x)
    return decode(layers, code, sizes, authors=authors)


def stages(net: ResNet) -> list[tuple[int, int]]:
    """The positions (stage, block) of reconstructions: the stem, and the last block of every stage."""
    depths = [len(cast(nn.Sequential, net.get_submodule(name))) for name in net.stages]
    return [(0, 0), *enumerate(depths, start=1)]


def stretched(pictures: Tensor) -> Tensor:
    """Every channel of every picture (B, C, H, W) scaled linearly to [0, 1]; a constant channel becomes 0."""
    low, high = pictures.amin((2, 3), keepdim=True), pictures.amax((2, 3), keepdim=True)
    return (pictures - low) / torch.where(high > low, high - low, torch.ones_like(high))


def equalised(pictures: Tensor) -> Tensor:
    """Histogram equalisation of every channel of pictures in [0, 1], in 256 levels, as AutoAugment defines it."""
    levels = pictures * 255  # (B, C, H, W)
    out = torch.empty_like(levels)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in levels.shape[:2])).tolist():
        out[tuple(index)] = _equalised_channel(levels[tuple(index)])
    return out / 255


def _equalised_channel(channel: Tensor) -> Tensor:
    histogram = torch.histc(channel, bins=256, min=0, max=255)
    filled = histogram[histogram > 0]
    step = torch.div(filled.sum() - filled[-1], 255, rounding_mode="floor")
    if step == 0:
        return channel.trunc()
    half = torch.div(step, 2, rounding_mode="floor")
    table = torch.div(histogram.cumsum(0) + half, step, rounding_mode="floor")
    return F.pad(table, (1, 0))[:-1].clamp(0, 255)[channel.long()]
