"""Antialiased networks of Zhang and the adaptive ones of Zou et al., on their own names and weights."""

from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.layers.adaptive_blur import AdaptiveBlur2d
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.pipelines.blurpool.config import Model
from stillpoint.pipelines.blurpool.models import build
from stillpoint.pipelines.blurpool.weights import authors_paths, from_authors
from tests.parity import parity
from tests.parity.adapters import blur_layers, blurpool_protocol

#: keyword of the authors -> key of our MODEL section
KEYWORDS = {"pasa_group": "groups", "padding": "filter_padding"}
#: what a network without filters cannot be told
OF_FILTERS = ("filter_size", "groups", "pool_only", "relu_first")
#: what the authors' VGG and MobileNet, and their DenseNet, take and do not use; ours refuse it
UNUSED = {
    "vgg": ("pool_only", "zero_init_residual", "replace_stride_with_dilation"),
    "mobilenet": ("pool_only", "zero_init_residual", "replace_stride_with_dilation"),
    "densenet": ("zero_init_residual", "replace_stride_with_dilation"),
}


def is_network(case: dict[str, Any]) -> bool:
    return "logits" in case["outputs"]


def network(case: dict[str, Any], plain: bool = False) -> nn.Module:
    """Our network for the model and keywords of a case; `plain` without the filters."""
    arch = case["model"].removeprefix("copy:")
    settings = {KEYWORDS.get(key, key): value for key, value in case["kwargs"].items()}
    adaptive = arch.endswith("_pasa_group_softmax")
    arch = arch.removesuffix("_pasa_group_softmax")
    classes = settings.pop("num_classes", 1000)
    if arch == "alexnet":
        settings.setdefault("pool_only", False)  # the authors' default for this network alone
    if "width_mult" in settings:
        settings["width"] = settings.pop("width_mult")
    downsample = "none" if plain else "adaptive_blur" if adaptive else "blur"
    if plain:
        settings = {key: value for key, value in settings.items() if key not in OF_FILTERS}
    unused = next((keys for family, keys in UNUSED.items() if arch.startswith(family)), ())
    if arch == "alexnet" and settings.get("pool_only"):
        unused = ("relu_first",)
    settings = {key: value for key, value in settings.items() if key not in unused}
    model = Model(arch=arch, downsample=downsample, **settings)
    image = case["inputs"]["x"]
    with parity.Undrawn():
        return build(model, in_channels=image.shape[1], num_classes=classes, image_size=224).eval()


@torch.no_grad()
def run(case: dict[str, Any]) -> dict[str, Tensor]:
    if blur_layers.is_layer(case):
        return blur_layers.run_layer(case)
    if case["model"] in blurpool_protocol.KINDS:
        return blurpool_protocol.run(case)
    if case["model"].startswith("copy:"):
        plain, filled = network(case, plain=True), network(case)
        plain.load_state_dict(case["state"], strict=True)
        filled.load_state_dict(case["state"], strict=True)  # torchvision's names are ours
        x = case["inputs"]["x"]
        return {"logits": filled(x), "logits_torchvision": plain(x)}
    net = network(case)
    net.load_state_dict(from_authors(case["state"], net), strict=True)
    theirs = dict(authors_paths(net))
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            y = output[0] if isinstance(output, tuple) else output
            outputs[f"blur:{name}:first"], outputs[f"blur:{name}:last"] = (
                y[0, 0, :4, :4].clone(),
                y[-1, -1, -4:, -4:].clone(),
            )

        return hook

    for path, module in net.named_modules():
        if isinstance(module, BlurPool2d | AdaptiveBlur2d):
            module.register_forward_hook(keep(theirs[path]))
    return {"logits": net(case["inputs"]["x"]), **outputs}
