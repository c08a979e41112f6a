"""Cases of translation invariant polyphase sampling: layers, networks, training steps, rates and metrics."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.config.schema import TrainConfig
from stillpoint.core.layers.translation_losses import Shift, evenness_penalty, undoing_losses, watch
from stillpoint.core.metrics.accuracy import topk_accuracy
from stillpoint.core.training.schedule import rate
from stillpoint.pipelines.tips.models import classifier, pool_factory
from stillpoint.pipelines.tips.protocol import batch_shifts, draw, evaluate
from stillpoint.pipelines.tips.training import authors_warmup, objective
from stillpoint.pipelines.tips.weights import from_authors, network_name
from tests.parity import parity
from tests.parity.adapters import tips_layers
from tests.parity.adapters.tips_layers import seed_of

#: flag of the authors -> our pool; the first that is set counts, in this order
POOLS = {"tips": "tips", "maxpool": "max", "avgpool": "average", "blurpool": "blur", "aps": "channel_polyphase"}
ALPHA, MOMENTUM, CLIP = 0.35, 0.9, 1.0


def is_network(case: dict[str, Any]) -> bool:
    return case["model"] not in ("evaluate_module", *tips_layers.RUNNERS) and "schedule" not in case["note"]


def run(case: dict[str, Any]) -> dict[str, Tensor]:
    if tips_layers.is_layer(case):
        return tips_layers.run_layer(case)
    if case["model"] == "train_module":
        return _steps(case)
    if case["model"] == "evaluate_module":
        return _evaluation(case)
    if "learning_rate" in case["model"]:
        return _rates(case)
    return _forward(case)


def tolerance(case: dict[str, Any], name: str) -> float | None:
    # two steps of float32: the reference itself is that far from float64
    return 1e-3 if name.startswith("after_first8") else None


def network(arch: str, kwargs: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """Our network of an architecture and the authors' flags, with their weights."""
    kind = next((ours for flag, ours in POOLS.items() if kwargs.get(flag)), "max")
    with parity.Undrawn():
        net = classifier(
            arch,
            pool_factory(kind),
            num_down=kwargs["num_down"],
            num_classes=kwargs.get("num_classes", len(state["fc.bias"])),
            in_channels=state["conv1.weight"].shape[1],
        )
    net.load_state_dict(from_authors(state, net))
    return net


def _drawn(random: np.random.RandomState, side: int, count: int) -> list[Shift]:
    return [draw(random, (side // 4, side // 4)) for _ in range(count)]


@torch.no_grad()
def _forward(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs, x = case["kwargs"], case["inputs"]["x"]
    net = network(case["model"], kwargs, case["state"]).eval()
    with watch(net) as seen:
        logits = net(x)
    if not seen:
        return {"logits": logits}
    shifts = _drawn(np.random.RandomState(seed_of(case)), x.shape[2], len(seen))
    levels: dict[tuple[int, ...], list[Tensor]] = {}
    for response in seen:
        levels.setdefault(tuple(response.psi.shape[2:]), []).append(response.psi)
    return {
        "logits": logits,
        "tau_mean": torch.stack([r.tau.mean(1) for r in seen], 1),
        "tau_std": torch.stack([r.tau.std(1) for r in seen], 1),
        "psi_mean": torch.stack([torch.cat(parts, 1).mean((1, 2, 3)) for parts in levels.values()], 1),
        "aux": undoing_losses(seen, shifts=shifts, kind="circular", detach=False),
        "regulariser": evenness_penalty(seen),
        "shifts": torch.tensor(shifts),
    }


def _steps(case: dict[str, Any]) -> dict[str, Tensor]:
    """An epoch of the authors' training: the shifted target attached, the gradient's norm clipped."""
    kwargs, inputs = case["kwargs"], case["inputs"]
    flags = {flag: kwargs[flag] for flag in POOLS if flag in kwargs} or {"tips": True}
    net = network(kwargs["net"], {"num_down": kwargs["num_down"], **flags}, case["state"]).train()
    # the authors count epochs from 1
    lr, epoch = 0.01, kwargs["epoch"] - 1
    recipe = TrainConfig(lr=lr, schedule="multistep", milestones=(60, 75, 90), gamma=0.2, epochs=100)
    if kwargs.get("cosine_and_warmup"):
        recipe = TrainConfig(
            lr=lr, schedule="cosine", lr_min=lr * 0.2**3, cosine_offset=1, epochs=kwargs.get("epochs", 20)
        )
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=MOMENTUM)
    random, means, drawn = np.random.RandomState(seed_of(case)), [], []
    for batch in range(kwargs["batches"]):
        x, labels = inputs[f"x{batch}"], inputs[f"label{batch}"]
        with watch(net) as seen:
            logits = net(x)
        shifts = _drawn(random, x.shape[2], len(seen))
        task = F.cross_entropy(logits, labels)
        aux, evenness = undoing_losses(seen, shifts=shifts, kind="circular", detach=False), evenness_penalty(seen)
        if not kwargs.get("tau_returned", True):
            evenness = torch.zeros(())
        loss = objective(task, aux, evenness, alpha=ALPHA, awake=kwargs["epoch"] >= kwargs["wake_up_at"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        used = rate(recipe, epoch, batch, kwargs["batches"])
        if kwargs.get("cosine_and_warmup"):
            used = authors_warmup(used, epoch, batch, kwargs["batches"], at_end=rate(recipe, 9, 0, kwargs["batches"]))
        optimizer.param_groups[0]["lr"] = used
        optimizer.step()
        top = 100 * topk_accuracy(logits.detach(), labels, (1, 5))
        means.append([loss.detach(), task.detach(), evenness.detach(), *top, *aux.detach()])
        drawn.append(shifts)
    loss, task, evenness, top1, top5, *aux = torch.tensor(means, dtype=torch.float64).mean(0)
    outputs = {
        "loss": loss, "cls": task, "reg": evenness, "top1": top1, "top5": top5, "aux": torch.stack(aux),
        "shifts": torch.tensor(drawn), "lr_last": torch.tensor(used, dtype=torch.float64),
    }  # fmt: skip
    state = net.state_dict()
    for theirs in case["state"]:
        ours = state[network_name(theirs)]
        outputs |= {f"after_norm_{theirs}": ours.double().norm(), f"after_first8_{theirs}": ours.flatten()[:8]}
    return outputs


def _evaluation(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs, inputs, state = case["kwargs"], case["inputs"], case["state"]
    largest, count = (kwargs["max_shift_h"], kwargs["max_shift_w"]), len(kwargs["batches"])

    def net(x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), state["fc.weight"], state["fc.bias"])

    batches = [(inputs[f"x{i}"], inputs[f"label{i}"]) for i in range(count)]
    found = evaluate(net, batches, largest=largest, random=np.random.RandomState(seed_of(case)))
    again = np.random.RandomState(seed_of(case))
    shifts = torch.tensor([batch_shifts(again, largest) for _ in batches])
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()} | {"shifts": shifts}


def _rates(case: dict[str, Any]) -> dict[str, Tensor]:
    outputs: dict[str, list[float]] = {}
    for given in case["kwargs"].values():
        lr = given["lr"]
        if "decay_epochs" in given:
            milestones = tuple(given["decay_epochs"])
            recipe = TrainConfig(lr=lr, schedule="multistep", milestones=milestones, gamma=given["rate"], epochs=100)
            outputs["steps"] = [rate(recipe, epoch, 0, 1) for epoch in range(100)]
            continue
        name = "cosine" if lr == 0.01 else f"cosine_lr{lr}"
        recipe = TrainConfig(lr=lr, schedule="cosine", lr_min=lr * 0.2**3, cosine_offset=1, epochs=given["epochs"])
        outputs[name] = [rate(recipe, epoch, 0, 1) for epoch in range(given["epochs"])]
        warm = f"{name}_warmup_3_batches"
        if warm in case["outputs"]:
            end = rate(recipe, 9, 0, 3)
            outputs[warm] = [
                authors_warmup(rate(recipe, n // 3, n % 3, 3), n // 3, n % 3, 3, at_end=end)
                for n in range(len(case["outputs"][warm]))
            ]
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in outputs.items()}
