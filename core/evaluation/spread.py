"""The mean of a number over images and its standard error, from exact sums, whatever the order of batches."""

import math

import torch
from torch import Tensor

from stillpoint.core.evaluation.view import ALONE
from stillpoint.core.metrics.accumulate import Values


def wide(logits: Tensor) -> Tensor:
    """Logits in float64 (float32 on MPS, which lacks it): a divergence of nearly equal rows cancels digits."""
    return logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)


class Spread:
    """`mean` and `standard_error` over images of numbers (B,), or (B, views), averaged over each image's views."""

    def __init__(self) -> None:
        self.values, self.squares, self.images = Values(**ALONE), Values(**ALONE), 0

    def take(self, values: Tensor) -> None:
        own = wide(values).flatten(1).mean(1) if values.ndim > 1 else wide(values)
        self.values.take(own)
        self.squares.take(own.square())
        self.images += len(own)

    @property
    def mean(self) -> float:
        return self.values.mean

    @property
    def standard_error(self) -> float:
        """Standard error of `mean` for independent images; 0.0 for fewer than two."""
        if self.images < 2:
            return 0.0
        variance = max(self.squares.mean - self.values.mean**2, 0.0)
        return math.sqrt(variance / (self.images - 1))
