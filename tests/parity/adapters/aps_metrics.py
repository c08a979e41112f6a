"""APS cases of whole evaluations (``eval_*``) and of agreement and averaging (``metric_*``)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.backbones.resnet import FAMILY
from stillpoint.core.config.former import SPELLINGS
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.evaluation.engine import evaluate
from stillpoint.core.evaluation.measure import InMemory
from stillpoint.core.metrics import agreement
from stillpoint.pipelines.aps.catalogue import KINDS
from stillpoint.pipelines.aps.config import Model
from stillpoint.pipelines.aps.evaluate import AUTHORS, AuthorsPairs, batch_mean, torch_topk_correct
from stillpoint.pipelines.aps.models import build
from stillpoint.pipelines.aps.weights import from_authors
from tests.parity import parity

_BATCH, _MAX_SHIFT = 16, 3
_AGREEMENT = {"agreement_percent", "top1", "top5"}
_AVERAGES = {"imagenet_weighted_percent", "cifar_unweighted_fraction"}


def run_metric(case: dict[str, Any]) -> dict[str, Tensor]:
    """The outputs of an ``eval_*`` or ``metric_*`` case; KeyError for another one."""
    if {"images", "labels"} <= set(case["inputs"]):
        return _evaluation(case)
    if set(case["outputs"]) <= _AGREEMENT:
        return _agreement(case)
    if set(case["outputs"]) <= _AVERAGES:
        return _averages(case)
    raise KeyError(f"no metric of APS gives {sorted(case['outputs'])}")


def _section(case: dict[str, Any]) -> Model:
    arch, _, kind = case["model"].partition("_")
    options = dict(case["kwargs"])
    settings = {"arch": arch, "downsample": KINDS.get(kind, "none")}
    if kind:
        settings["filter_size"] = options.pop("filter_size", 1)
    widths = options.pop("layer_channels", None)
    if widths:
        settings["width"] = widths[0] / FAMILY[arch].get("widths", (64,))[0]
    settings["conv_padding"] = options.pop("conv_pad_type", "circular").removesuffix("_pad")
    if kind == "aps":
        criterion = options.pop("apspool_criterion", "l2")
        settings["criterion"] = SPELLINGS["CRITERION"].get(criterion, criterion)
    for name in ("filter_size", "apspool_criterion", "num_classes"):
        options.pop(name, None)
    if options:
        raise KeyError(f"{case['model']} is not known to take {sorted(options)}")
    return Model(**settings)


def _evaluation(case: dict[str, Any]) -> dict[str, Tensor]:
    # the case's images are five times the 5x5 circular box mean of its input
    padded = F.pad(case["inputs"]["images"], (2, 2, 2, 2), mode="circular")
    images, labels = 5 * F.avg_pool2d(padded, 5, stride=1), case["inputs"]["labels"]
    classes = len(case["state"]["fc.bias"])
    with parity.Undrawn():
        net = build(_section(case), in_channels=images.shape[1], num_classes=classes, image_size=images.shape[2])
    net.load_state_dict(from_authors(case["state"], net))
    net.eval()
    sides = {name.removeprefix("erase").partition("_")[0] for name in case["outputs"] if name.startswith("erase")}
    config = EvaluateConfig(
        metrics=("accuracy", "circular", "crop", "flips", *(("erase",) if sides else ())),
        max_shift=_MAX_SHIFT,
        erase=tuple(int(side) for side in sides),
    )
    found = evaluate(net, InMemory(images, labels, _BATCH), config, evaluations=AUTHORS)
    got = {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}
    got["consistency"] = got["circular_consistency"]
    got["flip_accuracy"], got["flip_consistency"] = got["flips_accuracy"], got["flips_consistency"]
    # cropping moves nothing but the pair: its accuracy is that of the images as they are
    got["crop_accuracy"] = got["accuracy"]
    pairs = AuthorsPairs(config, 0)
    got["shifts"] = torch.tensor([pairs.draw() for _ in range(-(-len(images) // _BATCH))])
    with torch.inference_mode():
        got["logits"] = net(images)
    return got


def _agreement(case: dict[str, Any]) -> dict[str, Tensor]:
    first, second, labels = (case["inputs"][name] for name in ("logits0", "logits1", "labels"))
    top = 100 * torch_topk_correct(first, labels).double().mean(0)
    return {
        "agreement_percent": 100 * agreement(first, second).double().mean(),
        "top1": top[:1],
        "top5": top[1:],
    }


def _averages(case: dict[str, Any]) -> dict[str, Tensor]:
    sizes = case["kwargs"]["batches"]
    same = agreement(case["inputs"]["logits0"], case["inputs"]["logits1"]).double()
    means = [part.mean().item() for part in same.split(sizes)]
    return {
        "imagenet_weighted_percent": torch.tensor(100 * batch_mean(means, sizes, weighted=True), dtype=torch.float64),
        "cifar_unweighted_fraction": torch.tensor(batch_mean(means, sizes, weighted=False), dtype=torch.float64),
    }
