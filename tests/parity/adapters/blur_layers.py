"""The layers of BlurPool and adaptive blur: the authors' names and keywords -> ours."""

import torch
from torch import Tensor, nn

from stillpoint.core import layers
from tests.parity.adapters.aps_layers import PADDINGS, check_filters


def is_layer(case: dict) -> bool:
    """Whether `run_layer` knows the model of this case."""
    return _runner(case["model"]) is not None


def run_layer(case: dict) -> dict[str, Tensor]:
    """Every output of a layer case of this system; KeyError for a layer that is not known."""
    runner = _runner(case["model"])
    if runner is None:
        raise KeyError(case["model"])
    check_filters(case["state"])
    return runner(case)


def _runner(model: str):
    # The compositions carry their parameters in their names as well as in their keywords; the keywords are what counts.
    return RUNNERS.get(model) or RUNNERS.get(model.split("_")[0])


def _blur_options(kwargs: dict, default_size: int) -> dict:
    return {
        "stride": kwargs.get("stride", 2),
        "size": kwargs.get("filt_size", default_size),
        "padding": PADDINGS[kwargs.get("pad_type", "reflect")],
        "pad_off": kwargs.get("pad_off", 0),
    }


def _apply(layer: nn.Module, case: dict) -> dict[str, Tensor]:
    return {name: layer(x) for name, x in case["inputs"].items()}


def _blur2d(case: dict) -> dict[str, Tensor]:
    return _apply(layers.BlurPool2d(case["kwargs"]["channels"], **_blur_options(case["kwargs"], 4)), case)


def _blur1d(case: dict) -> dict[str, Tensor]:
    return _apply(layers.BlurPool1d(case["kwargs"]["channels"], **_blur_options(case["kwargs"], 3)), case)


def _max_blur(case: dict) -> dict[str, Tensor]:
    kwargs = case["kwargs"]
    pool = layers.MaxBlurPool2d(
        kwargs["max_kernel"], max_padding=kwargs.get("max_padding", 0), **_blur_options(kwargs, 4)
    )
    return _apply(pool, case)


@torch.no_grad()
def _conv_blur(case: dict) -> dict[str, Tensor]:
    kwargs, weight = case["kwargs"], case["state"]["0.weight"]
    conv = nn.Conv2d(kwargs["cin"], kwargs["channels"], weight.shape[-1], padding=weight.shape[-1] // 2)
    conv.load_state_dict({"weight": weight, "bias": case["state"]["0.bias"]})
    blur = layers.BlurPool2d(kwargs["channels"], **_blur_options(kwargs, 4))
    return _apply(nn.Sequential(conv, nn.ReLU(), blur), case)


@torch.no_grad()
def _adaptive_blur(case: dict) -> dict[str, Tensor]:
    kwargs = case["kwargs"]
    layer = layers.AdaptiveBlur2d(
        kwargs["in_channels"],
        kwargs.get("stride", 1),
        size=kwargs["kernel_size"],
        groups=kwargs.get("group", 2),
        padding=PADDINGS[kwargs.get("pad_type", "reflect")],
    )
    layer.load_state_dict(case["state"])
    outputs = _apply(layer.eval(), case)
    for name, x in case["inputs"].items():
        layer.load_state_dict(case["state"])  # each pass in training mode moves the running statistics
        outputs[f"{name}_train"] = layer.train()(x)
    return outputs


RUNNERS = {
    "BlurPool": _blur2d,
    "BlurPool1D": _blur1d,
    "maxblurpool": _max_blur,
    "convblurpool": _conv_blur,
    "Downsample_PASA_group_softmax": _adaptive_blur,
}
