"""The authors' evaluation loops and learning rates, on recorded draws."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillpoint.core.config.schema import EvaluateConfig, TrainConfig
from stillpoint.core.evaluation.registry import View
from stillpoint.core.layers.blur import BlurPool2d
from stillpoint.core.metrics import agreement, topk_accuracy
from stillpoint.core.training.schedule import rate
from stillpoint.pipelines.blurpool.evaluate import AuthorsWindows, diagonal_sweep


class TinyNet(nn.Module):
    """The small network of these cases: convolution, ReLU, blur, linear."""

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        weight = state["conv.weight"]
        width, channels, kernel, _ = weight.shape
        self.conv = nn.Conv2d(channels, width, kernel, stride=4, padding=kernel // 2)
        self.blur = BlurPool2d(width, 2, size=state["blur.filt"].shape[-1])
        self.fc = nn.Linear(state["fc.weight"].shape[1], state["fc.weight"].shape[0])
        self.load_state_dict({name: tensor for name, tensor in state.items() if name != "blur.filt"})

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blur(F.relu(self.conv(x))).flatten(1))


def _smooth(images: Tensor) -> Tensor:
    channels = images.shape[1]
    box = images.new_full((channels, 1, 31, 31), 1 / 31)
    return F.conv2d(F.pad(images, (15,) * 4, mode="circular"), box, groups=channels)


def _shift(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs, images = case["kwargs"], _smooth(case["inputs"]["images"])
    net, size = TinyNet(case["state"]), kwargs["crop"]
    config = EvaluateConfig(repeats=kwargs["epochs_shift"], protocol="authors")
    evaluation = AuthorsWindows(config, 0)
    evaluation.random = np.random.RandomState(kwargs["numpy_seed"])
    batches = images.split(kwargs["batch_size"])
    margin = (images.shape[2] - size) // 2
    each = np.zeros((kwargs["epochs_shift"], len(batches)))
    for step, wide in enumerate(batches):
        middle = wide[:, :, margin : margin + size, margin : margin + size]
        labels = torch.zeros(len(wide), dtype=torch.int64)
        answers: list[Tensor] = []

        def predict(x: Tensor, answers: list[Tensor] = answers) -> Tensor:
            answers.append(net(x))
            return answers[-1]

        view = View(middle, labels, torch.arange(len(wide)), predict, wide=wide, step=step, steps=len(batches))
        evaluation.update(view)
        for number, (first, second) in enumerate(zip(answers[0::2], answers[1::2], strict=True)):
            each[number, step] = 100 * agreement(first, second).double().mean()
    consistency = 100 * evaluation.compute()["windows_consistency"]
    return {
        "consistency": torch.tensor(consistency),
        "offsets": torch.from_numpy(evaluation.offsets),
        "batch_agreement": torch.from_numpy(each.ravel()),
    }


def _diagonal(case: dict[str, Any]) -> dict[str, Tensor]:
    kwargs, net = case["kwargs"], TinyNet(case["state"])
    images = _smooth(case["inputs"]["images"])[: kwargs["n"]]
    found = diagonal_sweep(net, images, case["inputs"]["target"].long(), kwargs["crop"], kwargs["D"])
    return {
        "diag_probs": 100 * found["probability"],
        "diag_probs2": 100 * found["runner_up"],
        "diag_corrs": found["correct"],
        "diag_preds": found["predicted"],
    }


def _agreement(case: dict[str, Any]) -> dict[str, Tensor]:
    first, second, target = (case["inputs"][name] for name in ("logits0", "logits1", "target"))
    same = agreement(first, second)
    outputs = {"agreement": 100 * same.double().mean(), "agree_each": same}
    for name, logits in (("logits0", first), ("logits1", second)):
        top1, top5 = (100 * topk_accuracy(logits, target.long(), (1, 5)))[:, None]
        outputs |= {f"acc1_{name}": top1, f"acc5_{name}": top5}
    return outputs


def _schedules(case: dict[str, Any]) -> dict[str, Tensor]:
    def rates(recipe: TrainConfig) -> list[float]:
        return [rate(recipe, epoch, 0, 100) for epoch in range(recipe.epochs)]

    cosine = rates(TrainConfig(lr=0.05, epochs=150, schedule="cosine", cosine_offset=1))
    step = TrainConfig(lr=0.1, epochs=90, schedule="step", step_epochs=30)
    finetune = TrainConfig(lr=0.01, epochs=60, schedule="step", step_epochs=30)
    # the authors' resumed run decays once more what the checkpoint had already decayed: torch's recursion from there
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    for _ in range(75):
        optimizer.step()
        scheduler.step()
    resumed = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    for _ in range(75):
        optimizer.step()
        resumed.step()
    faulty = []
    for _ in range(75):
        resumed.step()
        faulty.append(optimizer.param_groups[0]["lr"])
    return {
        "step_lr0_1_90": torch.tensor(rates(step)),
        "finetune_lr0_01_60": torch.tensor(rates(finetune)),
        "cosine_lr0_05_150": torch.tensor(cosine),
        "cosine_resumed_at_75": torch.tensor(faulty),
    }


KINDS = {
    "validate_shift": _shift,
    "validate_diagonal": _diagonal,
    "agreement+accuracy": _agreement,
    "lr_schedule": _schedules,
}


def run(case: dict[str, Any]) -> dict[str, Tensor]:
    """Every output of a case of one of `KINDS`."""
    return KINDS[case["model"]](case)
