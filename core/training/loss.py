"""The loss of a batch, and the sums over an epoch for the history's rows."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from stillpoint.core.base.distributed import Group
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import TrainConfig


def criterion(train: TrainConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a batch as a sum over its images, in float32."""
    if train.label_smoothing and train.loss != "cross_entropy":
        raise UserError(f"TRAIN.LABEL_SMOOTHING belongs to the loss cross_entropy, not to {train.loss}")
    if train.clamp is not None and train.loss != "mse":
        raise UserError(f"TRAIN.CLAMP belongs to the loss mse, not to {train.loss}")
    if train.loss == "nll":
        return lambda output, labels: functional.nll_loss(output.float(), labels, reduction="sum")
    if train.loss == "mse":
        return partial(_squared_error, clamp=train.clamp)
    smoothing = train.label_smoothing
    return lambda output, labels: functional.cross_entropy(
        output.float(), labels, reduction="sum", label_smoothing=smoothing
    )


def _squared_error(output: Tensor, target: Tensor, *, clamp: float | None = None) -> Tensor:
    """Mean over an image's pixels, summed over images; `output` is first clamped to -clamp..clamp."""
    if output.shape != target.shape:
        raise UserError(
            f"TRAIN.LOSS mse needs targets of shape {tuple(output.shape[1:])}, not {tuple(target.shape[1:])}"
        )
    output = output.float()
    if clamp is not None:
        output = output.clamp(-clamp, clamp)
    return (output - target).square().flatten(1).mean(1).sum()


class Sums:
    """Loss, correct predictions and images of an epoch so far; the first two stay on the device."""

    def __init__(self, device: torch.device) -> None:
        # Apple's GPUs have no float64
        self.loss = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0

    def add(self, loss: Tensor, output: Tensor, labels: Tensor) -> None:
        self.loss += loss.detach()
        if labels.dim() == 1:
            self.correct += (output.detach().argmax(1) == labels).sum()
        self.images += len(labels)

    def all(self, together: Group) -> tuple[float, int, int]:
        """(loss, correct, images) over all processes."""
        counts = torch.stack([self.correct, self.correct.new_tensor(self.images)])
        correct, images = together.sum(counts).tolist()
        return float(together.sum(self.loss)), correct, images

    def means(self, together: Group, train: TrainConfig) -> tuple[float, float | None]:
        """(loss, accuracy) over all processes; the accuracy is None where the targets are images."""
        loss, correct, images = self.all(together)
        return loss / images, None if train.loss == "mse" else correct / images
