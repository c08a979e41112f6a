"""The layers of translation invariant polyphase sampling: the authors' names and keywords -> ours."""

import re
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.layers.translation_invariant import Response, TranslationInvariantDownsample2d
from stillpoint.core.layers.translation_losses import Shift, evenness_penalty, shift_features, undoing_losses
from stillpoint.pipelines.tips.models import ChannelPolyphase2d
from stillpoint.pipelines.tips.weights import layer_name

EXTENSIONS = {"zero": "zeros"}
KNOWN = {"in_channels", "max_shift_h", "max_shift_w", "transform_type", "kernel", "kernel_size", "pad_type", "stride"}


def numpy_shifts(seed: int, largest: Shift, draws: int = 1) -> list[Shift]:
    """What the authors' code draws after `numpy.random.seed(seed)`: a row, then a column, at every call."""
    random = np.random.RandomState(seed)
    return [tuple(int(random.randint(-m, m + 1)) for m in largest) for _ in range(draws)]  # type: ignore[misc]


def seed_of(case: dict[str, Any]) -> int:
    found = re.search(r"numpy seed (\d+)", case["note"])
    return int(found[1]) if found else 0


def layer(case: dict[str, Any]) -> TranslationInvariantDownsample2d:
    kwargs = case["kwargs"]
    if unknown := set(kwargs) - KNOWN:
        raise KeyError(f"{case['model']} is not known to take {sorted(unknown)}")
    padding = kwargs.get("pad_type", "reflect")
    pool = TranslationInvariantDownsample2d(
        kwargs["in_channels"],
        kwargs.get("stride", 2),
        size=kwargs.get("kernel", kwargs.get("kernel_size", 3)),
        extension=EXTENSIONS.get(padding, padding),
    )
    pool.load_state_dict({layer_name(name): tensor for name, tensor in case["state"].items()})
    return pool


def responses(pool: TranslationInvariantDownsample2d, x: Tensor) -> tuple[Tensor, Response]:
    pool.watched = []
    y = pool(x)
    return y, pool.watched[0]


def run_tips(case: dict[str, Any]) -> dict[str, Tensor]:
    pool, x, wanted, kwargs = layer(case), case["inputs"]["x"], case["outputs"], case["kwargs"]
    largest = kwargs.get("max_shift_h", 0), kwargs.get("max_shift_w", 0)
    (shift,), kind = numpy_shifts(seed_of(case), largest), kwargs.get("transform_type", "standard")
    if any(name.startswith("grad_") for name in wanted):
        return _gradients(case, pool, shift, kind)
    suffixes = {found[1] for name in wanted if (found := re.fullmatch(r"y(_m?\d+_m?\d+)", name))}
    outputs = {"shift": torch.tensor(shift)}
    with torch.no_grad():
        for suffix in suffixes or {""}:
            roll = [int(part.replace("m", "-")) for part in suffix.split("_")[1:]]
            y, seen = responses(pool, x.roll(roll, (2, 3)) if roll else x)
            found = {"y": y, "tau": seen.tau, "psi": seen.psi, "x_t": shift_features(seen.x, shift=shift, kind=kind)}
            outputs |= {f"{name}{suffix}": value for name, value in found.items()}
    return outputs


def _gradients(
    case: dict[str, Any], pool: TranslationInvariantDownsample2d, shift: Shift, kind: str
) -> dict[str, Tensor]:
    """Of the output, the regulariser or the auxiliary loss: which one, the note says."""
    note = case["note"]
    outputs = {"shift": torch.tensor(shift)}
    for suffix, detach in (("", False), ("_if_x_t_were_detached", True)):
        x = case["inputs"]["x"].clone().requires_grad_()
        y, seen = responses(pool, x)
        if "regulariser" in note.partition("Gradients of")[2]:
            loss = evenness_penalty([seen])
        elif "MSE" in note.partition("Gradients of")[2]:
            loss = undoing_losses([seen], shifts=[shift], kind=kind, detach=detach)[0]
        else:
            loss = (y * case["inputs"]["w"]).sum()
        parts = x, pool.psi.weight, pool.scale.weight
        found = torch.autograd.grad(loss, parts, allow_unused=True)
        outputs[f"loss{suffix}"] = loss.detach()
        for name, grad in zip(("grad_x", "grad_conv1", "grad_conv2"), found, strict=True):
            outputs[f"{name}{suffix}"] = torch.empty(0) if grad is None else grad
    return outputs


def run_shift(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs, x = case["kwargs"], case["inputs"]["x"]
    outputs: dict[str, Tensor] = {}
    for seed in {int(found[1]) for name in case["outputs"] if (found := re.search(r"seed(\d+)$", name))}:
        (shift,) = numpy_shifts(seed, (kwargs["max_shift_h"], kwargs["max_shift_w"]))
        outputs[f"shift_seed{seed}"] = torch.tensor(shift)
        outputs[f"x_t_seed{seed}"] = shift_features(x, shift=shift, kind=kwargs["transform_type"])
    return outputs


def run_aps(case: dict[str, Any]) -> dict[str, Tensor]:
    return {"y": ChannelPolyphase2d(case["inputs"]["x"].shape[1])(case["inputs"]["x"])}


def run_pool(case: dict[str, Any]) -> dict[str, Tensor]:
    x, name = case["inputs"]["x"], case["model"].lower()
    if "blur" in name:
        return {"y": BlurPool2d(x.shape[1], size=3, padding="reflect")(x)}
    return {"y": F.max_pool2d(x, 2) if "max" in name else F.avg_pool2d(x, 2)}


RUNNERS = {
    "TIPS": run_tips,
    "feat_transform": run_shift,
    "APS (of the TIPS repository)": run_aps,
    "BlurPool (of the TIPS repository)": run_pool,
    "MaxPool2d": run_pool,
    "AvgPool2d": run_pool,
}


def is_layer(case: dict[str, Any]) -> bool:
    return case["model"] in RUNNERS


def run_layer(case: dict[str, Any]) -> dict[str, Tensor]:
    """Every output of a layer case of this system; KeyError for a layer that is not known."""
    return RUNNERS[case["model"]](case)
