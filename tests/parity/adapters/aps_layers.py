"""The layers of adaptive polyphase sampling: the authors' names and keywords -> ours."""

import torch
from torch import Tensor

from stillpoint.core import layers

PADDINGS = {
    "circular": "circular",
    "reflect": "reflect",
    "refl": "reflect",
    "replicate": "replicate",
    "repl": "replicate",
    "zero": "zeros",
    "zeros": "zeros",
}
CRITERIA = {"non_abs_max": "max", "l2min": "l2_min", "l1min": "l1_min"}


def is_layer(case: dict) -> bool:
    """Whether `run_layer` knows the model of this case."""
    return case["model"] in RUNNERS


def run_layer(case: dict) -> dict[str, Tensor]:
    """Every output of a layer case of this system; KeyError for a layer that is not known."""
    runner = RUNNERS[case["model"]]
    check_filters(case["state"])
    return runner(case["kwargs"], case["inputs"])


def check_filters(state: dict[str, Tensor]) -> None:
    """The filters a case stores must be the ones that ours computes."""
    for name, stored in state.items():
        if name.rsplit(".", 1)[-1] == "filt":
            ours = layers.binomial_kernel(stored.shape[-1], stored.ndim - 2).expand_as(stored)
            torch.testing.assert_close(stored, ours, rtol=0, atol=0, msg=f"{name} is not the binomial filter")


def _padding(kwargs: dict) -> str:
    if "circular_flag" in kwargs:
        return "circular" if kwargs["circular_flag"] else "reflect"
    return PADDINGS[kwargs.get("pad_type", kwargs.get("padding_mode", "circular"))]


def _criterion(kwargs: dict) -> str:
    name = kwargs.get("apspool_criterion", kwargs.get("aps_criterion", "l2"))
    return CRITERIA.get(name, name)


def _blur(kwargs: dict, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    if kwargs.get("sinc_mode"):
        return _sinc(kwargs, inputs)
    layer = layers.BlurPool2d(
        kwargs["channels"],
        kwargs.get("stride", 2),
        size=kwargs.get("filt_size", 4),
        padding=_padding(kwargs),
        pad_off=kwargs.get("pad_off", 0),
    )
    return {"out": layer(inputs["x"])}


def _sinc(kwargs: dict, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    x = inputs["x"]
    return {
        "lowpass": layers.ideal_lowpass2d(x),
        "out": layers.IdealLowPass2d(kwargs["channels"], kwargs.get("stride", 2))(x),
    }


def _down(kwargs: dict, select: str, criterion: str | None = None) -> layers.PolyphaseDownsample2d:
    return layers.PolyphaseDownsample2d(
        kwargs["channels"],
        kwargs.get("stride", 2),
        size=kwargs.get("filt_size", 4),
        padding=_padding(kwargs),
        criterion=criterion or _criterion(kwargs),
        select=select,
    )


def _pool(select: str):
    def run(kwargs: dict, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        x, layer = inputs["x"], _down(kwargs, select)
        out, index = layer(x, return_grid=True)
        outputs = {"out": out, "down": out, "index": index}
        if "given" in inputs:
            outputs["out_given"] = outputs["down_given"] = layer(x, inputs["given"])
        for criterion in layers.CRITERIA:
            phase = _down(kwargs, select, criterion)(x, return_grid=True)[1]
            outputs[f"index_{criterion}"] = outputs[f"index_{criterion.replace('_min', 'min')}"] = phase
        return outputs

    return run


def _down_up(kwargs: dict, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    down, index = _down(kwargs, "after_blur")(inputs["x"], return_grid=True)
    up = layers.PolyphaseUpsample2d(
        kwargs["channels"],
        kwargs.get("stride", 2),
        size=kwargs.get("filt_size", 4),
        padding=_padding(kwargs),
        extend_input=True,
    )
    outputs = {"down": down, "index": index, "up": up(down, index)}
    if "given" in inputs:
        outputs["up_given"] = up(down, inputs["given"])
    return outputs


RUNNERS = {
    "BlurPool": _blur,
    "BlurPool sinc_mode": _sinc,
    "ApsPool (CIFAR)": _pool("before_blur"),
    "ApsPool (ImageNet)": _pool("after_blur"),
    "ApsDown": _pool("after_blur"),
    "ApsDown then ApsUp": _down_up,
}
