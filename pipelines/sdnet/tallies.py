"""Counts accuracies under many conditions."""

from typing import Any

from torch import Tensor

from stillpoint.core.metrics import topk_correct
from stillpoint.core.metrics.accumulate import Tally


class Tallies:
    """Accuracies by key, a tuple that names a condition; counts are exact, so batch sizes do not matter."""

    def __init__(self) -> None:
        self.tallies: dict[Any, Tally] = {}

    def update(self, key: Any, logits: Tensor, labels: Tensor) -> None:
        self.tallies.setdefault(key, Tally()).update(topk_correct(logits, labels)[:, 0])

    def mean(self, *start: Any) -> float:
        """Mean of the accuracies whose keys begin with `start`."""
        accuracies = [tally.mean for key, tally in self.tallies.items() if key[: len(start)] == start]
        return sum(accuracies) / len(accuracies)
