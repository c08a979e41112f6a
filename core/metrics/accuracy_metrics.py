"""Accuracy as torchmetrics `Metric`s: of unshifted images, and at each image's worst shift."""

from typing import Any

import torch

from stillpoint.core.metrics.accumulate import Tally
from stillpoint.core.metrics.accuracy import topk_correct
from stillpoint.core.metrics.outputs import Output, as_tensor, is_network
from stillpoint.core.metrics.views import every_shift, prepared


class Accuracy(Tally):
    """Fraction of images whose label is among the `top_k` highest logits, in [0, 1].

    ``update(net, images, labels)`` or ``update(logits, labels)``, with logits (B, K). Equal logits are ranked by class
    number; a row with a NaN is never correct.

    Examples:
        >>> accuracy = metrics.Accuracy()
        >>> accuracy.update(torch.eye(3), torch.tensor([0, 1, 0]))
        >>> round(float(accuracy.compute()), 4)
        0.6667
    """

    def __init__(self, *, top_k: int = 1, output: Output | None = None, **kwargs: Any) -> None:
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        super().__init__(top_k, **kwargs)
        self.top_k, self.output = top_k, output

    def update(self, first: Any, second: Any, labels: Any = None) -> None:  # type: ignore[override]
        if is_network(first):
            predict, images, _ = prepared(first, second, output=self.output)
            logits, labels = predict(images), needed(labels)
        else:
            logits, labels = as_tensor(first), second
        self.count(topk_correct(logits, as_tensor(labels).to(logits.device), (self.top_k,))[:, 0])


class WorstShiftAccuracy(Tally):
    """Fraction of images that are classified correctly at every shift, in [0, 1].

    With a network, ``update(net, images, labels)``: at each of the H x W circular shifts, `batch_size` views at a time.
    With logits (B, S, K), ``update(logits, labels)``: at each of the S views.

    Examples:
        >>> worst = metrics.WorstShiftAccuracy()
        >>> views = torch.tensor([[[2.0, 1.0], [1.0, 2.0]], [[2.0, 1.0], [2.0, 1.0]]])  # 2 images, 2 shifts
        >>> worst.update(views, torch.tensor([0, 0]))
        >>> float(worst.compute())
        0.5
    """

    def __init__(self, *, batch_size: int = 250, output: Output | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_size, self.output = batch_size, output

    def update(self, first: Any, second: Any, labels: Any = None) -> None:  # type: ignore[override]
        if is_network(first):
            predict, images, _ = prepared(first, second, output=self.output)
            classes = as_tensor(needed(labels)).to(images.device)
            right = [
                topk_correct(predict(moved), classes[image])[:, 0]
                for image, moved in every_shift(images, self.batch_size)
            ]
            self.count(torch.cat(right).view(-1, len(images)).all(0))
            return
        logits = as_tensor(first)
        if logits.ndim != 3:
            raise ValueError(f"logits of shifts must be (B, S, K), got shape {tuple(logits.shape)}")
        classes = as_tensor(second).to(logits.device)
        views = [topk_correct(view, classes)[:, 0] for view in logits.unbind(1)]
        self.count(torch.stack(views, 1).all(1))


def needed(labels: Any) -> Any:
    """Returns `labels`; ValueError with the correct call if they are missing."""
    if labels is None:
        raise ValueError("labels are needed: update(net, images, labels=labels), or update(logits, labels)")
    return labels
