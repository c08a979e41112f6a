"""The loss of a batch, and an epoch's sums for the rows of the history."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from stillpoint.core.base.distributed import Group
from stillpoint.core.base.errors import UserError
from stillpoint.core.config.schema import TrainConfig
from stillpoint.core.data.label_maps import IGNORED


def criterion(train: TrainConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a batch as a sum over its images, in float32."""
    if train.label_smoothing and train.loss != "cross_entropy":
        raise UserError(f"TRAIN.LABEL_SMOOTHING needs TRAIN.LOSS cross_entropy, not {train.loss}")
    if train.clamp is not None and train.loss != "mse":
        raise UserError(f"TRAIN.CLAMP needs TRAIN.LOSS mse, not {train.loss}")
    if train.loss == "nll":
        return lambda output, labels: functional.nll_loss(output.float(), labels, reduction="sum")
    if train.loss == "mse":
        return partial(_squared_error, clamp=train.clamp)
    return partial(
        _cross_entropy, smoothing=train.label_smoothing, gamma=train.focal_gamma, counted=train.pixels == "all"
    )


def pixel_losses(output: Tensor, labels: Tensor, *, gamma: float = 0.0, smoothing: float = 0.0) -> Tensor:
    """Focal loss: each label's cross entropy times (1 - p) ** gamma, with p its probability (Lin et al., ICCV 2017).

    Takes logits (B, K) with labels (B,), or (B, K, H, W) with (B, H, W). Returns float32 of the labels' shape, 0 at
    pixels `IGNORED`. `UserError` if logits and label maps differ in size.
    """
    if output.shape[2:] != labels.shape[1:]:
        sizes = ("x".join(map(str, shape)) or "one class an image" for shape in (output.shape[2:], labels.shape[1:]))
        raise UserError("the network returns maps of {}, but the label maps are {}".format(*sizes))
    # for whole images, 255 is a class like any other
    left_out = IGNORED if labels.ndim > 1 else -100
    losses = functional.cross_entropy(
        output.float(), labels, reduction="none", ignore_index=left_out, label_smoothing=smoothing
    )
    return losses if gamma == 0 else (1 - (-losses).exp()) ** gamma * losses


def _cross_entropy(output: Tensor, labels: Tensor, *, smoothing: float, gamma: float, counted: bool) -> Tensor:
    """The sum of images' losses; a label map's is the mean over its labelled pixels, with `counted` over all pixels."""
    if labels.ndim == 1 and gamma == 0:
        return functional.cross_entropy(output.float(), labels, reduction="sum", label_smoothing=smoothing)
    losses = pixel_losses(output, labels, gamma=gamma, smoothing=smoothing)
    if labels.ndim == 1:
        return losses.sum()
    judged = labels[0].numel() if counted else (labels != IGNORED).sum((1, 2)).clamp(min=1)
    return (losses.sum((1, 2)) / judged).sum()


def _squared_error(output: Tensor, target: Tensor, *, clamp: float | None = None) -> Tensor:
    """Squared error averaged over an image's pixels, summed over images; `output` is first clamped to -clamp..clamp."""
    if output.shape != target.shape:
        raise UserError(
            f"TRAIN.LOSS mse needs targets of shape {tuple(output.shape[1:])}, not {tuple(target.shape[1:])}"
        )
    output = output.float()
    if clamp is not None:
        output = output.clamp(-clamp, clamp)
    return (output - target).square().flatten(1).mean(1).sum()


class Totals(NamedTuple):
    """An epoch's sums over all processes; `judged` counts the images, or pixels of label maps, that have a class."""

    loss: float
    correct: int
    images: int
    judged: int


class Sums:
    """Loss, correct predictions and images of an epoch so far; all except the number of images stay on the device."""

    def __init__(self, device: torch.device) -> None:
        # Apple's GPUs have no float64
        self.loss = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.judged = torch.zeros_like(self.correct)
        self.images = 0

    def add(self, loss: Tensor, output: Tensor, labels: Tensor) -> None:
        self.loss += loss.detach()
        if not labels.is_floating_point():
            self.correct += (output.detach().argmax(1) == labels).sum()
            self.judged += len(labels) if labels.ndim == 1 else (labels != IGNORED).sum()
        self.images += len(labels)

    def all(self, together: Group) -> Totals:
        """The sums over all processes."""
        counts = torch.stack([self.correct, self.correct.new_tensor(self.images), self.judged])
        correct, images, judged = together.sum(counts).tolist()
        return Totals(float(together.sum(self.loss)), correct, images, judged)

    def fill(self, loss: float, correct: int, images: int, judged: int | None = None) -> None:
        """Sets the sums to those of `Totals`; states of older versions lack `judged`."""
        self.loss.fill_(loss)
        self.correct.fill_(correct)
        self.judged.fill_(images if judged is None else judged)
        self.images = images

    def means(self, together: Group) -> tuple[float, float | None]:
        """(loss, accuracy) over all processes; accuracy is None if the targets are images."""
        found = self.all(together)
        return found.loss / found.images, found.correct / found.judged if found.judged else None
