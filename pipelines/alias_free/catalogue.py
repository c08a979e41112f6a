"""The networks of the paper and its code: ConvNeXt and its circular, adaptive, polynomial and alias-free variants."""

from typing import Any

from stillpoint.pipelines.paper import ModelEntry

PAPER = "Michaeli, Michaeli and Soudry, CVPR 2023"
SMALL_IMAGES = ("digits", "fashion_mnist", "cifar10", "cifar100")

_BASE: dict[str, Any] = {"CONV_PADDING": "circular", "DOWNSAMPLE": "subsample"}
_AFC: dict[str, Any] = {
    "CONV_PADDING": "circular",
    "DOWNSAMPLE": "ideal_lowpass",
    "ACTIVATION": "polynomial",
    "NORM": "alias_free",
    "STEM_ACTIVATION": "residual",
}
#: suffix of a name -> settings, and what the paper or its code calls it
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "": ({"CONV_PADDING": "zeros"}, "the plain ConvNeXt, zero padding"),
    "_circ": ({"CONV_PADDING": "circular"}, "circular depthwise convolutions, strides without padding"),
    "_base": (_BASE, "the paper's baseline: circular, convolutions of stride 1, then plain subsampling"),
    "_aps": (
        {"CONV_PADDING": "circular", "DOWNSAMPLE": "polyphase", "FILTER_SIZE": 1, "STEM_STEPS": 2},
        "the baseline with APS, in the stem twice in a row",
    ),
    "_poly": ({"CONV_PADDING": "zeros", "ACTIVATION": "polynomial_pointwise"}, "polynomials that alias, zero padding"),
    "_ideal": ({"CONV_PADDING": "circular", "DOWNSAMPLE": "ideal_lowpass"}, "the baseline with ideal low-pass filters"),
    "_afc": (_AFC, "alias-free: filters, polynomials at twice the resolution, a norm of one divisor"),
    "_afc_nostem": ({**_AFC, "STEM_ACTIVATION": "none"}, "alias-free without an activation in the stem"),
}
#: architectures for ImageNet, and our own for images of 32 pixels
ARCHS = ("convnext_tiny", "convnext_small", "convnext_base")
SMALL_ARCHS = ("convnext_mini", "convnext_nano")


def models() -> dict[str, ModelEntry]:
    """All networks by name."""
    entries = []
    for arch in (*ARCHS, *SMALL_ARCHS):
        datasets = SMALL_IMAGES if arch in SMALL_ARCHS else ("imagenet",)
        for suffix, (settings, what) in FORMS.items():
            size = "" if arch == "convnext_tiny" else ", a size that the paper does not train"
            entries.append(
                ModelEntry(f"{arch}{suffix}", {"ARCH": arch, **settings}, f"{PAPER}: {what}{size}", datasets)
            )
    return {entry.name: entry for entry in entries}
