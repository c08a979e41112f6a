"""The mean of a number over images with its standard error, exact in any order of batches."""

import math

import torch
from torch import Tensor

from stillpoint.core.evaluation.view import ALONE
from stillpoint.core.metrics.accumulate import Values


def wide(logits: Tensor) -> Tensor:
    """Logits in float64, wherever there is one: a divergence of nearly equal rows is a difference of large numbers."""
    return logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)


class Spread:
    """Numbers (B,) of images, or (B, views), whose mean over the views is the image's: `mean` and `standard_error`."""

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
        """Of `mean`, images taken as independent; 0.0 for a single one."""
        if self.images < 2:
            return 0.0
        variance = max(self.squares.mean - self.values.mean**2, 0.0)
        return math.sqrt(variance / (self.images - 1))
