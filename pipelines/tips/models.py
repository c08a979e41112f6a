"""Builds the paper's networks: core's ResNet with 3 to 5 halvings, and the pools of the paper's comparison."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from stillpoint.core.backbones.resnet import FAMILY, BasicBlock, ResNet, resnet
from stillpoint.core.backbones.slots import slots
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.downsample import DownsampleFactory, Grid
from stillpoint.core.layers.own_pools import AveragePool2d, MaxPool2d, OwnPool
from stillpoint.core.layers.padding import pad
from stillpoint.core.layers.phases import polyphase_components
from stillpoint.core.layers.translation_invariant import TranslationInvariantDownsample2d
from stillpoint.pipelines.tips.config import LAYER, Model

POOLS = ("tips", "max", "average", "blur", "channel_polyphase")


class ChannelPolyphase2d(OwnPool):
    """What the paper's code calls APS: the phase of largest norm, chosen for every channel of every image.

    Published APS instead chooses one phase per image, shared with the shortcut. Odd sides are extended by reflection at
    the top and the left.
    """

    def sample(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        x = pad(x, [(x.shape[2] % 2, 0), (x.shape[3] % 2, 0)], padding="reflect")
        phases = polyphase_components(x)  # (B, 4, C, h, w)
        best = phases.detach().float().flatten(3).norm(dim=3).argmax(1)  # (B, C)
        return phases.gather(1, best[:, None, :, None, None].expand(-1, 1, -1, *phases.shape[3:])).squeeze(1)


def build(model: Model, *, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The network of a MODEL section, (B, in_channels, S, S) -> logits (B, num_classes).

    ValueError if the last halving gets less than two pixels, which have no quadrants.
    """
    if model.downsample == LAYER and -(-image_size // 2 ** (model.num_down - 1)) < 2:
        raise ValueError(f"images of {image_size} pixels are too small to be halved {model.num_down} times")
    widths, filled = FAMILY[model.arch].get("widths", (64, 128, 256, 512)), slots(model)
    return classifier(
        model.arch,
        filled.pop("downsample"),
        num_down=model.num_down,
        in_channels=in_channels,
        num_classes=num_classes,
        conv_padding=model.conv_padding,
        zero_init_residual=model.zero_init_residual,
        widths=[model.scaled(n) for n in widths],
        **filled,
    )


def pool_factory(kind: str, *, size: int = 3, extension: str = "reflect") -> DownsampleFactory:
    """The filling named `kind`, one of `POOLS`; `size` and `extension` apply to "tips". ValueError for another name."""
    factories: dict[str, DownsampleFactory] = {
        "tips": partial(TranslationInvariantDownsample2d, size=size, extension=extension),
        "max": MaxPool2d,
        "average": AveragePool2d,
        "blur": partial(BlurPool2d, size=3, padding="reflect"),
        "channel_polyphase": ChannelPolyphase2d,
    }
    if kind not in factories:
        raise ValueError(f"kind must be one of {', '.join(POOLS)}, got {kind!r}")
    return factories[kind]


def classifier(
    arch: str,
    fill: DownsampleFactory,
    *,
    num_down: int,
    in_channels: int = 3,
    num_classes: int = 10,
    conv_padding: str = "zeros",
    zero_init_residual: bool = True,
    widths: Sequence[int] | None = None,
    **others: Any,
) -> ResNet:
    """A ResNet that halves its map `num_down` times, (B, in_channels, H, W) -> logits.

    The stem is a 3x3 convolution of stride 1. Stages 2 to 4 halve in their first block; with 4 halvings stage 1 does
    too, and with 5 a pool follows the stem.

    Raises:
        ValueError: a `num_down` that the network cannot have. Three stages have 2; four stages have 3 to 5, with
            Bottlenecks 4 or 5, since their first block has a projection anyway.
    """
    stages, block = len(FAMILY[arch]["layers"]), FAMILY[arch]["block"]
    if stages == 3 and num_down != 2:
        raise ValueError(f"num_down of {arch} must be 2, got {num_down}")
    least = 3 if block is BasicBlock else 4
    if stages == 4 and not least <= num_down <= 5:
        raise ValueError(f"num_down of {arch} must be {least} to 5, got {num_down}")
    made: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes, "conv_padding": conv_padding}
    made |= others | ({"widths": widths} if widths else {})
    net = resnet(arch, stem="cifar", downsample=fill, zero_init_residual=zero_init_residual, **made)
    if num_down >= 4:
        stage = net.get_submodule("layer1")
        assert isinstance(stage, nn.Sequential)
        stage[0] = _halving(block, net.conv1, fill)
    if num_down == 5:
        net.maxpool = fill(net.conv1.out_channels, 2)
    net.initialise(zero_init_residual)
    return net


def _halving(block: type[nn.Module], like: nn.Conv2d, fill: DownsampleFactory) -> nn.Module:
    convolution, width = partial(type(like), bias=False, padding_mode=like.padding_mode), like.out_channels
    return block(width, width, stride=2, downsample=fill, conv=convolution)
