"""The layers of learnable polyphase sampling: the authors' names and keywords -> ours."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stillpoint.core.layers.downsample import SoftGrid
from stillpoint.core.layers.learnable_polyphase import LearnablePolyphaseDownsample2d
from stillpoint.core.layers.learnable_upsample import LearnablePolyphaseUpsample2d
from stillpoint.core.layers.phase_scorers import PerceptronScorer
from stillpoint.core.layers.polyphase import PolyphaseDownsample2d
from stillpoint.pipelines.lps.weights import layer_name, renamed
from tests.parity import parity

SCORERS = {
    "LPSLogitLayers": "conv",
    "LPSLogitLayersSkip": "residual_conv",
    "SAInner": "attention",
    "SAInner_bn": "normalised_attention",
    "GraphLogitLayers": "graph",
    "ComponentPerceptron": "perceptron",
}
PADDINGS = {"constant": "zeros", "zero": "zeros"}
#: mode of the authors -> (training, how it samples)
MODES = {
    "train": (True, "gumbel"),
    "train_convex": (True, "softmax"),
    "test": (False, "argmax"),
    "test_gumbel": (False, "gumbel"),
    "test_convex": (False, "softmax"),
}
KNOWN = {
    *("C", "h", "stride", "aa", "size", "group", "noaa", "logits", "pad", "mode", "tau", "train_convex", "scale"),
    *("comp_convex", "convex", "gumbel", "get_samples", "use_get_logits", "aa_pad", "filter_pad", "filter_scale"),
}


def turned(phases: Tensor) -> Tensor:
    """Phases or weights by phase, in the authors' order (the column moves first) -> ours, and back."""
    if phases.dtype == torch.int64:
        return torch.tensor([0, 2, 1, 3])[phases]
    return phases[..., [0, 2, 1, 3]]


def filter_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    kind = kwargs.get("aa", "LowPassFilter" if "size" in kwargs else None)
    padding = kwargs.get("aa_pad", kwargs.get("filter_pad", "circular"))
    options: dict[str, Any] = {"padding": PADDINGS.get(padding, padding)}
    if kind in (None, "skip"):
        return options
    if kind == "DDAC":
        return options | {"filter": "adaptive", "size": kwargs["size"], "groups": kwargs.get("group", 8)}
    if kind != "LowPassFilter":
        raise KeyError(kind)
    return options | {"size": kwargs["size"]}


def mode(kwargs: dict[str, Any]) -> str:
    if "mode" in kwargs:
        return kwargs["mode"]
    if kwargs.get("train_convex"):
        return "train_convex"
    if kwargs.get("comp_convex") or kwargs.get("convex"):
        return "test_convex"
    return "test_gumbel" if kwargs.get("gumbel") else "test"


def down(case: dict[str, Any]) -> LearnablePolyphaseDownsample2d:
    kwargs = case["kwargs"]
    if unknown := set(kwargs) - KNOWN:
        raise KeyError(f"{case['model']} is not known to take {sorted(unknown)}")
    scoring = kwargs.get("use_get_logits", True)
    training, sampling = MODES[mode(kwargs)]
    padding = kwargs.get("pad", "circular")
    layer = LearnablePolyphaseDownsample2d(
        kwargs["C"],
        kwargs.get("stride", 2),
        scorer=SCORERS[kwargs.get("logits", "LPSLogitLayers")] if scoring else None,
        hidden=kwargs.get("h"),
        scorer_padding=PADDINGS.get(padding, padding),
        select="before_blur" if kwargs.get("noaa") else "after_blur",
        extension="zeros",
        sampling=sampling if training else "gumbel",
        test_sampling="argmax" if training else sampling,
        **filter_options(kwargs),
    )
    state = case["state"]
    layer.load_state_dict(renamed(state, {name: layer_name(name) for name in state}, layer))
    if scoring:
        layer.set_tau(kwargs.get("tau", float(layer.tau)))
    return layer.train(training)


def grid_of(inputs: dict[str, Tensor]) -> Tensor | SoftGrid | None:
    """The grid that a case hands over: weights, or scores of which the best is taken."""
    if "prob" in inputs or "weights" in inputs:
        weights = turned(inputs["prob"] if "prob" in inputs else inputs["weights"])
        return SoftGrid(weights, weights.log())
    return None


def run_down(case: dict[str, Any]) -> dict[str, Tensor]:
    layer, inputs, wanted = down(case), case["inputs"], case["outputs"]
    x = next(value for name, value in inputs.items() if re.fullmatch(r"x\d*", name))
    noise = turned(inputs["gumbel"]) if "gumbel" in inputs else None
    if any(name.startswith("grad_") for name in wanted):
        return _gradients(layer, x, inputs["w"], noise)
    suffixes = {found[1] for name in wanted if (found := re.fullmatch(r"y(_m?\d+_m?\d+)", name))}
    outputs: dict[str, Tensor] = {}
    with torch.no_grad():
        for suffix in suffixes or {""}:
            shifts = [int(part.replace("m", "-")) for part in suffix.split("_")[1:]]
            moved = x.roll(shifts, (2, 3)) if shifts else x
            grid = _given(layer, inputs)
            y, grid = layer(moved, grid, return_grid=True, noise=noise)
            outputs[f"y{suffix}"] = y
            if layer.scorer is not None:
                outputs |= {f"{name}{suffix}": value for name, value in _choice(layer, moved, grid).items()}
    return outputs


def _given(layer: LearnablePolyphaseDownsample2d, inputs: dict[str, Tensor]) -> Tensor | SoftGrid | None:
    if layer.scorer is None and not layer.training and "prob" in inputs:
        scores = inputs["prob"]
        # a shortcut in test takes the best of what it is handed, lowest phase first in the authors' order
        return turned(scores.argmax(1))
    if layer.scorer is None and "scores" in inputs:
        return turned(inputs["scores"].argmax(1))
    return grid_of(inputs)


def _choice(layer: LearnablePolyphaseDownsample2d, x: Tensor, grid: Tensor | SoftGrid) -> dict[str, Tensor]:
    scores = turned(layer.scores(x))
    best = scores.topk(2, 1).values
    found = {"scores": scores, "gap": best[:, 0] - best[:, 1]}
    if isinstance(grid, SoftGrid):
        weights = turned(grid.weights)
        return found | {"weights": weights, "prob": weights, "phase": weights.argmax(1)}
    return found | {"phase": turned(grid)}


def _gradients(layer: LearnablePolyphaseDownsample2d, x: Tensor, w: Tensor, noise: Tensor | None) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x, noise=noise)
    loss = (y * w).sum()
    loss.backward()
    outputs = {"y": y.detach(), "loss": loss.detach(), "grad_x": x.grad}
    for theirs, ours in _parameters(layer):
        grad = layer.get_parameter(ours).grad
        outputs[f"grad_{theirs}"] = torch.empty(0) if grad is None else grad
    return outputs


def _parameters(layer: LearnablePolyphaseDownsample2d) -> Iterator[tuple[str, str]]:
    for name, _ in layer.named_parameters():
        theirs = re.sub(r"^scorer\.", "component_selection.get_logits.", name)
        theirs = re.sub(r"^filter\.", "_antialias_layer.", theirs)
        if isinstance(layer.scorer, PerceptronScorer):
            theirs = theirs.replace("get_logits.conv.", "get_logits.perceptron.")
        yield theirs, name


def up(kwargs: dict[str, Any], mode: str) -> LearnablePolyphaseUpsample2d:
    scale = kwargs.get("scale", kwargs.get("filter_scale", 1))
    layer = LearnablePolyphaseUpsample2d(
        kwargs.get("C"),
        kwargs.get("stride", 2),
        gain=scale**2,
        redraw=kwargs.get("get_samples", False),
        soften_twice=True,
        **filter_options(kwargs),
    )
    layer.set_tau(kwargs.get("tau", 1.0))
    return layer.train(mode.startswith("train"))


@torch.no_grad()
def run_up(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs, inputs = case["kwargs"], case["inputs"]
    if unknown := set(kwargs) - KNOWN:
        raise KeyError(f"{case['model']} is not known to take {sorted(unknown)}")
    noise = turned(inputs["gumbel"]) if "gumbel" in inputs else None
    if "scores" in inputs:
        scores = turned(inputs["scores"])
        if noise is None and not kwargs.get("get_samples"):
            return {"z": up(kwargs, "test")(inputs["y"], turned(inputs["scores"].argmax(1)))}
        return {"z": up(kwargs, "train")(inputs["y"], SoftGrid(scores.softmax(1), scores), noise=noise)}
    training = "weights" in inputs
    return {"z": up(kwargs, "train" if training else "test_convex")(inputs["y"], grid_of(inputs))}


@torch.no_grad()
def run_down_up(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs = case["kwargs"]
    layer = down({**case, "kwargs": {key: value for key, value in kwargs.items() if key != "scale"}})
    x = next(value for name, value in case["inputs"].items() if re.fullmatch(r"x\d*", name))
    noise = turned(case["inputs"]["gumbel"]) if "gumbel" in case["inputs"] else None
    y, grid = layer(x, return_grid=True, noise=noise)
    z = up(kwargs, mode(kwargs))(y, grid)
    return {"y": y, "z": z, "error": torch.zeros(()), **_choice(layer, x, grid)}


def run_norm(case: dict[str, Any]) -> dict[str, Tensor]:
    """The authors' APS: the norms of the filtered phases, and the lowest phase in their order where two tie."""
    kwargs = case["kwargs"]
    layer = PolyphaseDownsample2d(
        kwargs.get("C"),
        size=kwargs.get("size", 1),
        padding=filter_options(kwargs)["padding"],
        select="before_blur" if kwargs.get("noaa") else "after_blur",
    )
    x = next(value for name, value in case["inputs"].items() if re.fullmatch(r"x\d*", name))
    y, phase = layer(x, return_grid=True)
    return {"y": y, "phase": turned(phase)}


RUNNERS = {
    "PolyphaseInvariantDown2D(LPS)": run_down,
    "PolyphaseInvariantDown2D(LPS), shortcut": run_down,
    "PolyphaseInvariantUp2D(LPS_u)": run_up,
    "LPD then LPU": run_down_up,
    "PolyphaseInvariantDown2D(max_2_norm)": run_norm,
}


def run_layer(case: dict[str, Any]) -> dict[str, Tensor]:
    """Every output of a layer case of this system; KeyError for a layer that is not known."""
    return RUNNERS[case["model"]](case)


def is_layer(case: dict[str, Any]) -> bool:
    return case["model"] in RUNNERS


def gradient_is_noise(name: str) -> bool:
    """Whether a gradient is that of the scorer's last bias, which the softmax ignores: nothing but rounding."""
    return name == "grad_component_selection.get_logits.conv2.bias"


__all__ = ["down", "gradient_is_noise", "is_layer", "parity", "run_layer", "turned"]
