"""Tables of what may fill the slots of a network, by name; nothing is imported.

A user's own ``module:name`` is accepted in place of any name.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Filling:
    """A filling of the Downsample slot.

    where    ``module:class``
    options  the keyword options of the class, except `device` and `dtype`
    """

    where: str
    options: tuple[str, ...] = ()


_LAYERS, _BACKBONES = "stillpoint.core.layers", "stillpoint.core.backbones"

#: the fillings of the Downsample slot
FILLINGS: dict[str, Filling] = {
    "subsample": Filling(f"{_LAYERS}.downsample:Subsample"),
    "blur": Filling(f"{_LAYERS}.blur:BlurPool2d", ("size", "padding", "pad_off")),
    "adaptive_blur": Filling(f"{_LAYERS}.adaptive_blur:AdaptiveBlur2d", ("size", "groups", "padding", "normalise")),
    "polyphase": Filling(f"{_LAYERS}.polyphase:PolyphaseDownsample2d", ("size", "padding", "criterion", "select")),
    "ideal_lowpass": Filling(f"{_LAYERS}.lowpass:IdealLowPass2d", ("factor", "rule", "keep_norm")),
    "learnable_polyphase": Filling(
        f"{_LAYERS}.learnable_polyphase:LearnablePolyphaseDownsample2d",
        (
            *("scorer", "hidden", "reduction", "scorer_padding", "filter", "size", "padding", "groups"),
            *("select", "extension", "sampling", "test_sampling"),
        ),
    ),
    "translation_invariant": Filling(
        f"{_LAYERS}.translation_invariant:TranslationInvariantDownsample2d", ("size", "extension")
    ),
}

#: activations: (channels) -> module
ACTIVATIONS: dict[str, str] = {
    "relu": f"{_LAYERS}.slots:relu",
    "relu6": f"{_LAYERS}.slots:relu6",
    "gelu": f"{_LAYERS}.slots:gelu",
    "silu": f"{_LAYERS}.slots:silu",
    "polynomial": f"{_LAYERS}.polynomial:PolynomialActivation2d",
    "polynomial_pointwise": f"{_LAYERS}.polynomial:pointwise_polynomial",
}

#: norms: (channels) -> module
NORMS: dict[str, str] = {
    "batch": f"{_LAYERS}.slots:batch_norm",
    "instance": f"{_LAYERS}.slots:instance_norm",
    "group": f"{_LAYERS}.slots:group_norm",
    "alias_free": f"{_LAYERS}.channel_norm:ChannelNorm2d",
    "pixel": f"{_LAYERS}.channel_norm:pixel_norm",
    "none": f"{_LAYERS}.slots:no_norm",
}

_RESNETS = (
    *("resnet8", "resnet18", "resnet20", "resnet34", "resnet50", "resnet56", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
)

#: backbones: (name, *, num_classes, in_channels, image_size, width, downsample, activation, norm, its own options) -> a
#: network; see stillpoint.core.backbones.backbone
BACKBONES: dict[str, str] = {
    "alexnet": f"{_BACKBONES}.alexnet:alexnet",
    **{f"vgg{depth}{norm}": f"{_BACKBONES}.vgg:vgg" for depth in (11, 13, 16, 19) for norm in ("", "_bn")},
    **dict.fromkeys(_RESNETS, f"{_BACKBONES}.resnet:resnet_for"),
    **{f"densenet{depth}": f"{_BACKBONES}.densenet:densenet" for depth in (121, 161, 169, 201)},
    "mobilenet_v2": f"{_BACKBONES}.mobilenet:mobilenet",
    "convnet": f"{_BACKBONES}.convnet:convnet",
    "speednet": f"{_BACKBONES}.speednet:speednet",
    **{f"convnext_{size}": f"{_BACKBONES}.convnext:convnext_for" for size in ("tiny", "small", "base", "mini", "nano")},
}
