"""Builds the paper's architectures and configurations: core's backbones with filled slots."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from stillpoint.core.backbones.alexnet import AlexNet
from stillpoint.core.backbones.backbone import Backbone
from stillpoint.core.backbones.resnet import resnet
from stillpoint.core.backbones.slots import slots
from stillpoint.core.base.errors import UserError
from stillpoint.core.layers.complex_modulus import ComplexModulus, ModulusBatchNorm2d, ModulusBias2d
from stillpoint.core.layers.dense_max_pool import DenseMaxPool2d
from stillpoint.core.layers.downsample import DownsampleFactory, at, downsample_factory
from stillpoint.core.layers.fused_sequential import FusedSequential
from stillpoint.core.layers.slots import ModuleFactory
from stillpoint.core.layers.wavelet_packings import ALEXNET, RESNET, RESNET_EXCLUDING
from stillpoint.core.layers.wavelet_twin import TwinStem, WaveletMixing2d, WaveletTwin2d
from stillpoint.pipelines.wavelet_twins.catalogue import Architecture, Form, Pooling, architecture, form
from stillpoint.pipelines.wavelet_twins.config import Model

#: initial weights of red, green and blue in the luminance (authors' code)
ALEXNET_COLOURS, RESNET_COLOURS = (1.0036, 1.1630, 0.8334), (0.9802, 1.3060, 0.7138)
#: default taps of the blur in the body, and in a twin's stem, which has the default of Zhang's library
BODY_BLUR, TWIN_STEM_BLUR = 3, 4
#: channels that share the predicted filters of an adaptive blur in a stem; the body has 8 groups
STEM_GROUP = 8
#: side of the frame around the kernels of a modulus layer (authors' code); each composed layer adds 4
FRAMES = {"alexnet": 120, "resnet": 76}
#: smallest side of an image for AlexNet without a blur
ALEXNET_SMALLEST = 63


def build(model: Model, *, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The network of a MODEL section, (B, in_channels, S, S) -> logits (B, num_classes).

    `UserError` for images too small for the network, and for an unknown architecture or configuration.
    """
    try:
        kind = architecture(model.arch)
        options = form(model.arch, model.config)
    except ValueError as error:
        raise UserError(str(error)) from None
    least = smallest(kind, options)
    if image_size < least:
        raise UserError(
            f"{model.arch} {model.config or 'Std'} needs images of at least {least} pixels, not {image_size}"
        )
    return network(
        model.arch, model.config, in_channels=in_channels, num_classes=num_classes, width=model.width, **slots(model)
    )


def smallest(kind: Architecture, options: Form) -> int:
    """The smallest side of an image: the last map must be larger than its blur's reflection padding."""
    margin = (options.blur or BODY_BLUR) // 2
    if kind.resnet:
        # the last blur is at 1/16 of the size (in an ablation the only one, at 1/2); packets need two pixels and round
        # odd sides down
        blurred = 16 * margin if kind.pooling != "none" else 2 * margin if options.ablation else 0
        # a dense max-pool of 2 loses a row of a map at half the size
        lost = 2 if options.small_pool and kind.pooling != "none" else 0
        return blurred + lost + (2 if kind.twin else 1)
    if kind.pooling == "none":
        return ALEXNET_SMALLEST
    side = margin + 1
    for _ in range(3):
        # a max-pool of 3 at stride 1, after a blur at stride 2
        side = 2 * (side + 2) - 1
    return 2 * (side - 1) + 7


def network(
    arch: str,
    config: str = "",
    *,
    in_channels: int = 3,
    num_classes: int = 1000,
    downsample: DownsampleFactory | None = None,
    width: float = 1.0,
    **layers: ModuleFactory,
) -> Backbone:
    """An architecture in one of its configurations; ValueError with the nearest names for an unknown one.

    `downsample` replaces all strides of an architecture without a blur; in a modulus stem only those of the free
    channels. `width` multiplies all channels but those of a twin's stem, which follow from its packets; `layers` are a
    backbone's `activation` and `norm`, which do not apply to the stem.
    """
    kind, options = architecture(arch), form(arch, config)
    if downsample is not None:
        kind = replace(kind, pooling="given")
    make = _resnet if kind.resnet else _alexnet
    net = make(kind, options, downsample, width, in_channels=in_channels, num_classes=num_classes, **layers)
    if options.frozen:
        net.get_submodule("conv1" if kind.resnet else "features.0").requires_grad_(False)
    return net


def first_layer(arch: str, config: str, *, in_channels: int = 3) -> WaveletTwin2d:
    """The first layer of an architecture with wavelets; ValueError for one without."""
    return _first(_with_wavelets(arch), form(arch, config), in_channels)


def twin_stem(arch: str, config: str, *, in_channels: int = 3) -> TwinStem:
    """The first layer of an architecture with wavelets, with activation and pooling; ValueError for one without."""
    return _stem(_with_wavelets(arch), form(arch, config), in_channels, None)


def twin(net: nn.Module) -> WaveletTwin2d | None:
    """The first layer of a network with wavelets; None for one without."""
    return next((module for module in net.modules() if isinstance(module, WaveletTwin2d)), None)


def mixing_weights(net: nn.Module) -> list[nn.Parameter]:
    """The weights that mix packets, (outputs, inputs / groups) for each section; [] for a network without wavelets."""
    first = twin(net)
    return [] if first is None else list(first.wavelet.mixing)


def resulting_kernel(first: WaveletTwin2d, image_size: int = 224, *, framed: bool = False) -> Tensor:
    """`WaveletTwin2d.resulting_kernel`, trimmed to the filters' support, or `framed` by zeros like the authors'."""
    mixing = first.wavelet
    family = "alexnet" if mixing.packing.depth == ALEXNET.depth else "resnet"
    composed = (mixing.packets.part == "real") + (mixing.colour.ndim == 2)
    return first.resulting_kernel(image_size, size=FRAMES[family] + 4 * composed if framed else None)


def normalised_pool(
    channels: int, pooling: Pooling, size: int = BODY_BLUR, given: DownsampleFactory | None = None
) -> nn.Sequential:
    """A ResNet's stem after its convolution: batch norm, ReLU, and pooling to half the size by `given` or `pooling`."""
    head = [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    slot = given or _slot(pooling, size, groups=channels // STEM_GROUP)
    if slot is None:
        return FusedSequential(*head, nn.MaxPool2d(3, stride=2, padding=1))
    return FusedSequential(*head, DenseMaxPool2d(3, margin="same"), slot(channels))


def rectified_pool(
    channels: int, pooling: Pooling, size: int = BODY_BLUR, given: DownsampleFactory | None = None
) -> nn.Sequential:
    """AlexNet's stem after its convolution: ReLU and pooling to half the size, or to a quarter with a filling."""
    slot = given or _slot(pooling, size)
    if slot is None:
        return nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2))
    return nn.Sequential(nn.ReLU(inplace=True), slot(channels), DenseMaxPool2d(3), slot(channels))


def modulus_activation(channels: int, norm: bool) -> nn.Sequential:
    """CMod after the subsampled packets: modulus, its batch norm (with `norm`, ResNet) or a bias (AlexNet), ReLU."""
    scale = ModulusBatchNorm2d(channels) if norm else ModulusBias2d(channels)
    return nn.Sequential(ComplexModulus(), scale, nn.ReLU(inplace=True))


def _slot(pooling: Pooling, size: int, groups: int = 8) -> DownsampleFactory | None:
    if pooling == "none":
        return None
    return downsample_factory(pooling, size=size, **({"groups": groups} if pooling == "adaptive_blur" else {}))


def _resnet(
    kind: Architecture, options: Form, given: DownsampleFactory | None, width: float, *, in_channels: int, **more: Any
) -> Backbone:
    slot = given or _slot(kind.pooling, options.blur or BODY_BLUR)
    widths = [max(1, round(n * width)) for n in (64, 128, 256, 512)]
    make = partial(resnet, kind.family, in_channels=in_channels, downsample=slot, widths=widths, **more)
    if not kind.twin:
        dense = DenseMaxPool2d(2) if options.small_pool else DenseMaxPool2d(3, margin="same")
        return make(max_pool=None if slot is None else dense)
    return make(stem=_stem(kind, options, in_channels, at(given, "stem")), stem_width=64)


def _with_wavelets(arch: str) -> Architecture:
    kind = architecture(arch)
    if not kind.twin:
        raise ValueError(f"{arch} has no wavelets")
    return kind


def _first(kind: Architecture, options: Form, in_channels: int) -> WaveletTwin2d:
    if kind.resnet:
        packing = RESNET_EXCLUDING if options.excluding else RESNET
        free = nn.Conv2d(in_channels, 40, 7, stride=2, padding=3, bias=False)
        colours, subsample = RESNET_COLOURS, 2
    else:
        packing, stride = ALEXNET, 4 if kind.pooling == "none" else 2
        free = nn.Conv2d(in_channels, 32, 11, stride=stride, padding=2)
        # so that moduli are 8 pixels apart, like the pooled free channels
        colours, subsample = ALEXNET_COLOURS, 8 // stride
    wavelet = WaveletMixing2d(
        in_channels,
        packing,
        stride=free.stride[0],
        part="complex" if options.modulus else "real",
        luminance=options.luminance,
        colours=colours if options.luminance and in_channels == len(colours) else None,
        bias=not kind.resnet and not options.modulus,
    )
    return WaveletTwin2d(free, wavelet, subsample=subsample if options.modulus else 1)


def _stem(kind: Architecture, options: Form, in_channels: int, given: DownsampleFactory | None) -> TwinStem:
    first = _first(kind, options, in_channels)
    pool = normalised_pool if kind.resnet else rectified_pool
    size = options.blur or (TWIN_STEM_BLUR if kind.pooling == "blur" else BODY_BLUR)
    free, wavelets = first.free.out_channels, first.wavelet.out_channels
    if options.modulus:
        low = pool(free, kind.pooling, size, given)
        return TwinStem(first, low=low, high=modulus_activation(wavelets, norm=kind.resnet))
    if options.ablation == "abl2":
        return TwinStem(first, low=pool(free, kind.pooling, size), high=pool(wavelets, "none"))
    if options.ablation:
        only: Pooling = "adaptive_blur" if options.ablation == "abl1ada" else "blur"
        return TwinStem(first, low=pool(free, "none"), high=pool(wavelets, only, size))
    return TwinStem(first, joint=pool(free + wavelets, kind.pooling, size, given))


def _alexnet(
    kind: Architecture, options: Form, given: DownsampleFactory | None, width: float, *, in_channels: int, **more: Any
) -> Backbone:
    slot = given or _slot(kind.pooling, options.blur or BODY_BLUR)
    make = partial(AlexNet, in_channels=in_channels, downsample=slot, width=width, **more)
    return make(stem=_stem(kind, options, in_channels, at(given, "features.0"))) if kind.twin else make()
