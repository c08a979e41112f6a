"""The reference's evaluations of shifts, on its toy network, by our grids and metrics."""

import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.metrics import agreement, topk_correct
from stillpoint.pipelines.alias_free import grids

#: the reference's batches
BATCHES = (4, 3, 3)


def run_metric(case: dict[str, Any]) -> dict[str, Tensor]:
    images, labels = case["inputs"]["images"].double(), case["inputs"]["target"]
    weight = case["state"]["weight"].double()

    def predict(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight.T

    found: dict[str, float] = {}
    for name in case["outputs"]:
        kind = name.partition(":")[0]
        if kind not in {key.partition(":")[0] for key in found}:
            found |= {f"{kind}:{key}": value for key, value in _evaluate(kind, case, predict, images, labels).items()}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}


def _evaluate(kind: str, case: dict[str, Any], predict: Any, images: Tensor, labels: Tensor) -> dict[str, float]:
    correct = topk_correct(predict(images), labels, (1, 5)).double().mean(0) * 100
    first, fifth = correct.tolist()
    if kind.startswith("full"):
        size = int(kind.removeprefix("full"))
        whole = grids.right_under_all(predict, images, labels, grids.integer_grid(size))
        half = grids.right_under_all(predict, images, labels, grids.half_grid(size))
        return {
            "full_adversarial_acc1": first,
            "full_adversarial_acc5": fifth,
            "full_adversarial_shift_robust_score": _mean(whole),
            "full_adversarial_sub_shift_robust_score": _mean(half),
            "full_adversarial_total_robust_score": _mean(whole & half),
        }
    if kind.startswith("random"):
        drawn = _draws(case, kind)
        parts = zip(images.split(BATCHES), labels.split(BATCHES), drawn, strict=True)
        right = torch.cat([grids.right_under_all(predict, x, y, [tuple(s) for s in pairs]) for x, y, pairs in parts])
        return {
            "full_adversarial_acc1": first,
            "full_adversarial_acc5": fifth,
            "full_adversarial_shift_robust_score": _mean(right),
        }
    if kind.startswith("fraction"):
        grid = grids.fraction_grid(int(kind.removeprefix("fraction")))
        right = grids.right_under_all(predict, images, labels, grid)
        return {"acc1": first, "acc5": fifth, "sub_shift_robust_score": _mean(right)}
    if kind.startswith("up"):
        return _random_shift(int(kind.removeprefix("up")), case, predict, images, labels, first, fifth)
    return _consistency(kind, case, predict, images, labels, first, fifth)


def _random_shift(
    up: int, case: dict[str, Any], predict: Any, images: Tensor, labels: Tensor, first: float, fifth: float
) -> dict[str, float]:
    draws = _draws(case, f"up={up}")
    shifts = (
        [draws[k] for k in range(3)]
        if up == 0
        else [[s + r / up for s, r in zip(draws[2 * k], draws[2 * k + 1], strict=True)] for k in range(3)]
    )
    moved = torch.cat(
        [predict(grids.shifted(x, (-a, -b))) for x, (a, b) in zip(images.split(BATCHES), shifts, strict=True)]
    )
    before = predict(images)
    accuracy = 100 * _mean(moved.argmax(1) == labels)
    return {
        "acc1": first,
        "acc5": fifth,
        "shift_consistency": 100 * _mean(agreement(before, moved)),
        "shift_mac": _confidence_change(before, moved),
        "shift_accuracy": accuracy,
        "shift_accuracy_degredation": 100 * (first - accuracy) / first,
    }


def _consistency(
    kind: str, case: dict[str, Any], predict: Any, images: Tensor, labels: Tensor, first: float, fifth: float
) -> dict[str, float]:
    before = predict(images)
    losses = [F.cross_entropy(b, y).item() for b, y in zip(before.split(BATCHES), labels.split(BATCHES), strict=True)]
    found = {"loss": sum(losses) / len(losses), "acc1": first, "acc5": fifth}
    if kind == "evaluate":
        rolls = _draws(case, "evaluate")
        moved = [predict(grids.shifted(x, tuple(s))) for x, s in zip(images.split(BATCHES), rolls, strict=True)]
        return found | {"consist": 100 * _mean(agreement(before, torch.cat(moved)))}
    a, b = (1, -2) if kind == "given" else _draws(case, "drawn")[0]
    for name, short, shift in (("shift", "shift", (a, b)), ("sub_pix_shift", "subpix_shift", (-a - 0.5, -b - 0.5))):
        moved = predict(grids.shifted(images, shift))
        accuracy = 100 * _mean(moved.argmax(1) == labels)
        found |= {
            f"{name}_consistency": _mean(agreement(before, moved)),
            f"{name}_mac": _confidence_change(before, moved),
            f"{name}_accuracy": accuracy,
            f"{short}_accuracy_degredation": 100 * (first - accuracy) / first,
        }
    return found


def _confidence_change(before: Tensor, after: Tensor) -> float:
    """Mean absolute change of the probability of the class predicted before."""
    chosen = before.argmax(1, keepdim=True)
    return (before.softmax(1).gather(1, chosen) - after.softmax(1).gather(1, chosen)).abs().mean().item()


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _draws(case: dict[str, Any], kind: str) -> list[Any]:
    """The shifts that the reference drew, which its case's note tells behind the name of the evaluation."""
    note = case["note"][case["note"].index(f"{kind}:" if "=" not in kind else f"{kind}: draws") :]
    begin = note.index("[[")
    found, _ = json.JSONDecoder().raw_decode(note[begin:])
    return found
