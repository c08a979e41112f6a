"""Builds the paper's networks: core's ResNet with filled slots, and the peculiarities of the authors' code."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from stillpoint.core.backbones.deeplab import DeepLabV3Plus
from stillpoint.core.backbones.resnet import FAMILY, BasicBlock, ResNet, resnet
from stillpoint.core.backbones.slots import slots
from stillpoint.core.layers.adaptive_blur import AdaptiveBlur2d
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.conv_norm_act import conv_norm_act
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.core.layers.downsample import Downsample, DownsampleFactory
from stillpoint.core.layers.learnable_polyphase import LearnablePolyphaseDownsample2d
from stillpoint.core.layers.learnable_upsample import LearnablePolyphaseUpsample2d
from stillpoint.core.layers.norm_act import norm_act
from stillpoint.core.layers.padding import PaddedConv2d
from stillpoint.core.layers.polyphase import PolyphaseDownsample2d
from stillpoint.pipelines.lps.config import CHOOSING, SMALL, Model

#: options that the filling shares with the upsampling layer
SHARED = ("filter", "size", "padding", "groups")
WIDTHS = (64, 128, 256, 512)


def build(model: Model, *, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The network of a MODEL section, (B, in_channels, S, S) -> logits (B, num_classes), or a segmenter's maps of them.

    Warns:
        UserWarning: a network with circular padding that chooses its grids samples a map with an odd side, so that its
            invariance is not exact.
    """
    imagenet = model.form == "imagenet" or (model.form == "auto" and image_size > SMALL)
    filled = slots(model)
    if model.downsample in CHOOSING and model.conv_padding == "circular" and model.arch != "basic":
        halvings = len(FAMILY[model.arch]["layers"]) - 1 + (2 if imagenet else 0)
        if image_size % 2**halvings:
            warnings.warn(
                f"{model.name or model.arch} halves a map of {image_size}x{image_size} {halvings} times and meets an "
                "odd side, so its shift invariance is not exact",
                stacklevel=2,
            )
    net = classifier(
        model.arch,
        filled.pop("downsample"),
        imagenet=imagenet,
        in_channels=in_channels,
        num_classes=num_classes,
        conv_padding=model.conv_padding,
        max_pool_margin=model.max_pool_margin,
        strided_stem=model.strided_stem,
        # the section decides the filling of each place
        filtered_stem=True,
        sample_after_convolution=model.sample_after_convolution,
        widths=None if model.arch == "basic" else [model.scaled(n) for n in FAMILY[model.arch].get("widths", WIDTHS)],
        **filled,
    )
    if model.decoder == "none":
        return net
    assert isinstance(net, ResNet), "only ResNets have a decoder"
    upsample = None
    if model.upsample == "polyphase":
        options = {key: value for key, value in model.fill().options.items() if key in SHARED}
        upsample = partial(LearnablePolyphaseUpsample2d, gain=model.upsample_gain, **options)
    return segmenter(
        net,
        num_classes=num_classes,
        upsample=upsample,
        channels=model.decoder_channels,
        rates=model.rates,
        conv_padding=model.conv_padding,
        last_rate_padding=model.last_rate_padding,
    )


#: (channels, stride, unfiltered) -> the sampling layer of one place
Sampling = Callable[..., Downsample]


class SampledConvolutionBlock(BasicBlock):
    """A BasicBlock that samples after its second convolution, where the map that is scored has both signs."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(conv_norm_act(x, self.conv1, self.bn1, self._inner(0)))
        y, grid = self._pooled(y)
        return norm_act(y, self.bn2, self.relu, self._identity(x, grid)) if self.shortcut else norm_act(y, self.bn2)


class BasicNet(nn.Module):
    """Two convolutions and a sampling, twice, the mean over pixels, a linear layer: images (B, C, H, W) -> logits."""

    conv1: nn.Module
    conv2: nn.Module
    conv3: nn.Module
    conv4: nn.Module

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 10,
        downsample: DownsampleFactory,
        conv_padding: str = "circular",
    ) -> None:
        super().__init__()
        widths, inputs = (32, 32, 64, 64), in_channels
        for number, width in enumerate(widths, 1):
            conv = PaddedConv2d(inputs, width, 3, padding=1, padding_mode=conv_padding)  # type: ignore[arg-type]
            self.add_module(f"conv{number}", conv)
            inputs = width
        self.pool1, self.pool2 = downsample(widths[1], 2), downsample(widths[3], 2)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.conv2(self.conv1(x).relu()).relu())
        x = self.pool2(self.conv4(self.conv3(x).relu()).relu())
        return self.fc(x.mean((2, 3)))


def sampling(
    kind: str,
    *,
    hidden: Callable[[int], int] | None = None,
    filter: str = "binomial",
    size: int = 1,
    groups: int = 8,
    padding: str = "circular",
    select: str = "after_blur",
    **options: Any,
) -> Sampling:
    """A filling of the slot for the networks that the paper compares.

    Args:
        kind: "lps", "aps" ("max_2_norm" of the authors), "decimation" (a filter, then every second pixel) or "average"
            (means of 2 x 2).
        hidden: channels -> width of the scorer; None: as many as the channels.
        filter, size, groups, padding, select: as in `LearnablePolyphaseDownsample2d`.
        options: further options of that layer, for "lps" only.

    The filling takes ``unfiltered=True`` for a position without a filter. ValueError for an unknown kind.
    """
    if kind not in ("lps", "aps", "decimation", "average"):
        raise ValueError(f"kind must be lps, aps, decimation or average, got {kind!r}")

    def build(channels: int, stride: int = 2, *, unfiltered: bool = False) -> Downsample:
        adaptive, taps = filter == "adaptive" and not unfiltered, 1 if unfiltered else size
        if kind == "average":
            return BlurPool2d(channels, stride, size=2, padding=padding)
        if kind == "decimation" and adaptive:
            return AdaptiveBlur2d(channels, stride, size=size, groups=groups, padding=padding)
        if kind == "decimation":
            return BlurPool2d(channels, stride, size=taps, padding=padding)
        if kind == "aps":
            return PolyphaseDownsample2d(channels, stride, size=taps, padding=padding, select=select)
        return LearnablePolyphaseDownsample2d(
            channels,
            stride,
            hidden=None if hidden is None else hidden(channels),
            filter="adaptive" if adaptive else "binomial",
            size=taps,
            groups=groups,
            padding=padding,
            select=select,
            **options,
        )

    return build


def classifier(
    arch: str,
    fill: Sampling | None,
    *,
    imagenet: bool,
    in_channels: int = 3,
    num_classes: int = 10,
    conv_padding: str = "circular",
    max_pool_margin: str = "circular",
    strided_stem: bool = False,
    filtered_stem: bool = False,
    sample_after_convolution: bool = False,
    widths: Sequence[int] | None = None,
    **others: Any,
) -> nn.Module:
    """A classifier of the paper, (B, in_channels, H, W) -> logits.

    Args:
        arch: a name of `FAMILY`, or "basic".
        fill: what samples; None: torchvision's strided network.
        imagenet: the ImageNet stem, else CIFAR's.
        max_pool_margin: of the stem's dense max-pool, circular also where convolutions pad with zeros.
        strided_stem: the first convolution strides, as in torchvision, instead of a first sampling after it.
        filtered_stem: also the first sampling of the stem has the filter.
        sample_after_convolution: sample after a block's second convolution instead of before it.
        widths: of the stages; others: activations and norms, as `ResNet` takes them.

    Raises:
        ValueError: "basic" without `fill`; `sample_after_convolution` for blocks other than BasicBlocks.
    """
    if arch == "basic":
        if fill is None:
            raise ValueError("the basic network has no strided form: it needs a filling")
        made: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes, "conv_padding": conv_padding}
        return BasicNet(downsample=fill, **made)
    options: dict[str, Any] = {"conv_padding": conv_padding, "in_channels": in_channels, "num_classes": num_classes}
    options |= others | ({"widths": widths} if widths else {})
    if imagenet and fill is not None:
        options |= {"pool_only": strided_stem, "max_pool": DenseMaxPool2d(2, margin=max_pool_margin)}
    if sample_after_convolution:
        if FAMILY[arch]["block"] is not BasicBlock:
            raise ValueError(f"sampling after a convolution is for BasicBlocks, which {arch} does not have")
        options["block"] = SampledConvolutionBlock
    net = resnet(arch, stem="imagenet" if imagenet else "cifar", downsample=fill, **options)
    if imagenet and fill is not None and not strided_stem and not filtered_stem:
        assert isinstance(net.maxpool, nn.Sequential)
        net.maxpool[0] = fill(net.conv1.out_channels, 2, unfiltered=True)
    return net


def segmenter(
    net: ResNet,
    *,
    num_classes: int,
    upsample: Callable[[int], nn.Module] | None,
    channels: int = 256,
    rates: Sequence[int] = (6, 12, 18),
    conv_padding: str = "circular",
    last_rate_padding: str | None = None,
) -> DeepLabV3Plus:
    """A DeepLabV3+ over a classifier of the paper, with the authors' batch-norm momentum."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01
    return DeepLabV3Plus(
        net,
        num_classes,
        upsample=upsample,
        channels=channels,
        rates=rates,
        conv_padding=conv_padding,
        last_rate_padding=last_rate_padding,
    )


def scorer_parameters(net: nn.Module) -> list[nn.Parameter]:
    """The parameters of all scorers, which the authors train without weight decay."""
    return [p for name, p in net.named_parameters() if "scorer" in name.split(".")]
