"""The schedules, losses and metrics of learnable polyphase sampling."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillpoint.core.config.schema import TrainConfig
from stillpoint.core.layers.phase_scorers import ConvScorer
from stillpoint.core.metrics.segmentation import confusion_matrix, segmentation_scores
from stillpoint.core.training.annealing import multistep, piecewise_linear, step_decay
from stillpoint.core.training.loss import pixel_losses
from stillpoint.core.training.schedule import rate
from stillpoint.pipelines.lps.models import scorer_parameters
from stillpoint.pipelines.lps.protocol import Offset, imagenet_consistency, imagenet_offsets


def knows(case: dict[str, Any]) -> bool:
    return not case["state_shapes"]


def run(case: dict[str, Any]) -> dict[str, Tensor]:
    wanted = set(case["outputs"])
    if case["model"] in ("StepDecay", "MultiStep"):
        return _tau(case)
    if "lr" in wanted:
        return _schedule(case)
    if wanted & {"focal", "crossentropy"}:
        return _loss(case)
    if any(name.startswith("seed") for name in wanted):
        return _offsets(case)
    if {"standard", "circular"} <= wanted:
        return _consistency(case)
    if any("iou" in name.lower() for name in wanted):
        return _scores(case)
    raise KeyError(case["model"])


def tolerance(case: dict[str, Any], name: str) -> float | None:
    return None


def _tau(case: dict[str, Any]) -> dict[str, Tensor]:
    outputs = {}
    for name, given in case["kwargs"].items():
        count, start = len(case["outputs"][name]), given.get("start", 1.0)
        if case["model"] == "StepDecay":
            options = {"every": given["step_size"], "gamma": given["gamma"], "least": given.get("min_value", 0.0)}
            values = [step_decay(n, **options, start=start) for n in range(count)]
        else:
            options = {"milestones": given["milestones"], "temperatures": given["temperatures"]}
            schedule = piecewise_linear if given.get("rate", "zero") == "linear" else multistep
            values = [schedule(n, **options, start=start) for n in range(count)]
        outputs[name] = torch.tensor(values, dtype=torch.float64)
    return outputs


def _schedule(case: dict[str, Any]) -> dict[str, Tensor]:
    given = case["kwargs"]
    recipe = TrainConfig(
        lr=given["lr"], schedule="step", step_epochs=given["step_size"], gamma=given["gamma"],
        warmup_epochs=given["warmup_epochs"], epochs=given["epochs"],
    )  # fmt: skip
    steps = given["batches"]
    rates = [rate(recipe, n // steps, n % steps, steps) for n in range(steps * given["epochs"])]
    toy = nn.Module()
    toy.plain, toy.scorer = nn.Parameter(torch.zeros(1)), ConvScorer(1).conv1
    free = scorer_parameters(toy)
    groups = torch.tensor([len(list(toy.parameters())) - len(free), len(free)])
    return {"lr": torch.tensor(rates, dtype=torch.float64), "weight_decay_groups": groups}


def _loss(case: dict[str, Any]) -> dict[str, Tensor]:
    logits, target = (case["inputs"][k] for k in ("logits", "target"))
    if (ignore := case["kwargs"].get("ignore_index", 255)) != 255:
        raise KeyError(f"pixels of no class are 255 here, not {ignore}")
    outputs: dict[str, Tensor] = {}
    valid = (target != 255).sum()
    losses = {
        "focal": lambda x: pixel_losses(x, target).mean(),
        "focal_gamma2": lambda x: pixel_losses(x, target, gamma=2.0).mean(),
        "crossentropy": lambda x: pixel_losses(x, target).sum() / valid,
    }
    for name, loss in losses.items():
        x = logits.clone().requires_grad_()
        value = loss(x)
        value.backward()
        outputs |= {name: value.detach(), f"{name}_grad": x.grad}
    return outputs


def _offsets(case: dict[str, Any]) -> dict[str, Tensor]:
    given = case["kwargs"]
    return {
        name: torch.tensor(_drawn(int(name.removeprefix("seed")), given, given["batches"]))
        for name in case["outputs"]
        if name.startswith("seed")
    }


def _drawn(seed: int, given: dict[str, Any], batches: int) -> list[Offset]:
    random = np.random.RandomState(seed)
    found = [
        imagenet_offsets(random, largest=given["shift_max"], samples=given["shift_samples"]) for _ in range(batches)
    ]
    return [pair for standard, circular in found for pair in (*standard, *circular)]


def _consistency(case: dict[str, Any]) -> dict[str, Tensor]:
    """The model of the case weighs pixels by where they are; its weights are among the outputs."""
    given, weight = case["kwargs"], case["outputs"]["weight"]

    def net(x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows, columns = torch.arange(height) / (height - 1), 1 - torch.arange(width) / (width - 1)
        scores = torch.einsum("kc,bcij->bkij", weight, x)
        return (scores * (rows[:, None] * columns)).mean((2, 3))

    random, found, drawn = np.random.RandomState(given["shift_seed"]), [], []
    for batch in range(given["batches"]):
        offsets = imagenet_offsets(random, largest=given["shift_max"], samples=given["shift_samples"])
        drawn += [*offsets[0], *offsets[1]]
        found.append(imagenet_consistency(net, case["inputs"][f"x{batch}"], offsets, patch=given["shift_patch_size"]))
    standard, circular = torch.tensor(found).T
    return {"standard": standard, "circular": circular, "offsets": torch.tensor(drawn), "weight": weight}


def _scores(case: dict[str, Any]) -> dict[str, Tensor]:
    """The authors' names for the scores, which they take of the transposed matrix."""
    inputs = case["inputs"]
    labels = next(value for name, value in inputs.items() if name.startswith(("label", "target")))
    predicted = next(value for name, value in inputs.items() if name.startswith(("pred", "out")))
    classes = case["kwargs"].get("num_classes", case["kwargs"].get("classes", 21))
    matrix = confusion_matrix(predicted.argmax(1) if predicted.ndim == 4 else predicted, labels, classes=classes)
    found = {
        name: torch.tensor(v, dtype=torch.float64) for name, v in segmentation_scores(matrix, transposed=True).items()
    }
    return {
        "Acc": found["pixel_accuracy"],
        "Mean_Acc": found["mean_accuracy"],
        "FreqW_Acc": found["frequency_weighted_iou"],
        "Mean_IoU": found["mean_iou"],
        "mIoU": found["mean_iou"],
    }
