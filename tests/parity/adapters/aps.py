"""The networks of adaptive polyphase sampling, by the authors' names, keywords and weights."""

import re
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.backbones.phase_control import record_grids
from stillpoint.core.backbones.resnet import FAMILY
from stillpoint.core.config.former import SPELLINGS
from stillpoint.pipelines.aps.catalogue import KINDS
from stillpoint.pipelines.aps.config import HALVINGS, Model
from stillpoint.pipelines.aps.models import build
from stillpoint.pipelines.aps.weights import authors_names, from_authors
from tests.parity import parity
from tests.parity.adapters import aps_layers

#: keyword of the authors -> key of our MODEL section; the others are dealt with one by one
KEYWORDS = {
    "filter_size": "filter_size",
    "conv_pad_type": "conv_padding",
    "padding_mode": "conv_padding",
    "apspool_criterion": "criterion",
    "aps_criterion": "criterion",
    "pool_only": "pool_only",
    "out_channels": "out_channels",
}
#: Two phases whose norms are nearer than this (relatively) are a tie, and the reference may have chosen either. Its
#: norms are sums of up to 800,000 squares in float32: adding those of a 224x224 image's first selection one after
#: another moved the norm by 1.1e-5. Ours are added in float64.
TIE = 2e-5
#: How far the exact values of two training steps, those of float64, are from the reference's float32 ones where that is
#: more than a network's tolerance: a step magnifies rounding. Ours are held to the exact ones (test_aps_adapter.py).
ROUNDING = {"gradnorm": 1.4e-4, "logits1": 6.5e-4, "conv1.1.weight": 5.1e-3}


def is_network(case: dict[str, Any]) -> bool:
    return not (aps_layers.is_layer(case) or _is_metric(case))


def run(case: dict[str, Any]) -> dict[str, Tensor]:
    if aps_layers.is_layer(case):
        return aps_layers.run_layer(case)
    if _is_metric(case) or "consistency" in case["outputs"]:
        from tests.parity.adapters.aps_metrics import run_metric

        return run_metric(case)
    if "loss0" in case["outputs"]:
        return _train(case)
    return _forward(case)


def tolerance(case: dict[str, Any], output: str) -> float | None:
    return ROUNDING.get(output) if "loss0" in case["outputs"] else None


def model(case: dict[str, Any]) -> Model:
    """The MODEL section of a case; KeyError for a model or keyword that is not known."""
    name, kwargs = case["model"], dict(case["kwargs"])
    settings: dict[str, Any] = {}
    if match := re.fullmatch(r"UNet_([34])down(_lpf|_aps|_InstanceNorm)?", name):
        settings["arch"], kind = f"unet{match[1]}", match[2]
        settings["downsample"] = KINDS.get((kind or "")[1:], "none")
        settings["filter_size"] = 3 if settings["downsample"] != "none" else None
        settings["norm"] = "instance" if kind == "_InstanceNorm" else None
        settings["conv_padding"] = "zeros"
        kwargs.pop("in_channels")
        if kwargs.pop("bilinear", False):
            raise KeyError("bilinear")
        _widths(settings, kwargs.pop("inner_channels_list"))
        if kwargs.pop("sinc_mode", False):
            settings |= {"downsample": "ideal_lowpass", "filter_size": None}
            kwargs.pop("filter_size", None)
    elif match := re.fullmatch(r"([a-z]+\d+(?:_\d+x\d+d)?)(?:_(lpf|aps)(\d)?)?", name):
        settings["arch"], settings["downsample"] = match[1], KINDS.get(match[2] or "", "none")
        settings["form"] = "imagenet" if match[3] else "cifar"
        settings["filter_size"] = int(match[3] or 4) if match[2] else None
        for own in ("block", "layers"):
            kwargs.pop(own, None)
        if "layer_channels" in kwargs:
            _widths(settings, kwargs.pop("layer_channels"))
        kwargs.pop("num_classes", None)
    if settings.get("arch") not in HALVINGS:
        raise KeyError(name)
    for key, value in kwargs.items():
        if settings["downsample"] == "none" and KEYWORDS[key] == "filter_size":
            continue
        settings[KEYWORDS[key]] = SPELLINGS["CRITERION"].get(value, value)
    return Model(**settings)


def network(case: dict[str, Any]) -> nn.Module:
    """Our network for a case, with the case's weights, in evaluation mode."""
    state = case["state"]
    first = next(value for value in state.values() if value.ndim == 4 and value.shape[-1] > 1)
    classes = state["fc.weight"].shape[0] if "fc.weight" in state else 0
    # 224 suits every network; the form is given by the case and not by its size
    with parity.Undrawn():
        net = build(model(case), in_channels=first.shape[1], num_classes=classes, image_size=224)
    net.load_state_dict(from_authors(state, net))
    return net.eval()


@torch.no_grad()
def _forward(case: dict[str, Any]) -> dict[str, Tensor]:
    (x,) = case["inputs"].values()
    net = network(case)
    recorded = [case["outputs"][name] for name in sorted(case["outputs"], key=_number) if name.startswith("phase")]
    with record_grids(net) as found:
        out = net(x)
    phases = [selection.phase for selection in found]
    if recorded and any(not torch.equal(ours, theirs) for ours, theirs in zip(phases, recorded, strict=True)):
        with record_grids(net, force=recorded) as found:
            out = net(x)
        phases = [settled(s.scores, s.phase) for s in found]
    return {"out": out, **{f"phase{i}": phase for i, phase in enumerate(phases)}}


def settled(scores: Tensor, phase: Tensor) -> Tensor:
    """(B,) `phase` where its score is a tie with the best one, else the best phase."""
    best, index = scores.max(1)
    gap = (best - scores.gather(1, phase[:, None])[:, 0]) / best.abs()
    return torch.where(gap < TIE, phase, index)


@patch("stillpoint.core.kernels.fused", lambda *args, **kwargs: False)
def _train(case: dict[str, Any]) -> dict[str, Tensor]:
    """Two steps by plain PyTorch; tests/core/kernels compares the kernels with it one by one."""
    x, labels = case["inputs"]["x"], case["inputs"]["labels"]
    net = network(case).train()
    names = authors_names(case["state"], net)
    parameters = dict(net.named_parameters())
    ordered = [parameters[name] for name in names.values() if name in parameters]
    optimizer = torch.optim.SGD(ordered, lr=0.1, momentum=0.9, weight_decay=5e-4)
    outputs: dict[str, Tensor] = {}
    for step in range(2):
        with record_grids(net) as found:
            logits = net(x)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            outputs["gradnorm"] = torch.stack([p.grad.norm() for p in ordered if p.grad is not None])
            outputs["phases"] = torch.stack([selection.phase for selection in found])
        optimizer.step()
        outputs |= {f"logits{step}": logits.detach(), f"loss{step}": loss.detach()}
    state = net.state_dict()
    return outputs | {theirs: state[ours] for theirs, ours in names.items()}


def _is_metric(case: dict[str, Any]) -> bool:
    return not case["state_shapes"]


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name) or -1)


def _widths(settings: dict[str, Any], widths: list[int]) -> None:
    if any(b != 2 * a for a, b in pairwise(widths)):
        raise KeyError(f"widths {widths}")
    settings["width"] = widths[0] / FAMILY.get(settings["arch"], {}).get("widths", (64,))[0]
