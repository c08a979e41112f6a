"""Sums over a data set that do not depend on how it was cut into batches."""

import math

import torch
from torch import Tensor


class Tally:
    """Counts successes over images, `per_image` trials each, in exact integers.

    `update` takes booleans or whole numbers (B,) or (B, trials); its sums stay on their device until they are read.
    """

    def __init__(self, per_image: int = 1) -> None:
        if per_image < 1:
            raise ValueError(f"per_image must be at least 1, not {per_image}")
        self.per_image = per_image
        self.images = 0
        # sum and sum of squares of successes per image
        self._sums: Tensor | None = None

    def update(self, successes: Tensor) -> None:
        counts = (
            successes.detach().to(torch.int64).flatten(1).sum(1) if successes.ndim > 1 else successes.detach().long()
        )
        sums = torch.stack([counts.sum(), (counts * counts).sum()])
        self._sums = sums if self._sums is None else self._sums + sums
        self.images += len(counts)

    @property
    def successes(self) -> int:
        return 0 if self._sums is None else int(self._sums[0])

    @property
    def mean(self) -> float:
        """Successes over trials, in [0, 1]; exactly 1.0 only when every trial succeeded."""
        if self.images == 0:
            raise ValueError("the mean of no image is not defined")
        return self.successes / (self.images * self.per_image)

    @property
    def standard_error(self) -> float:
        """Of `mean`, taking images (not trials, which share an image) as independent; 0.0 for a single image."""
        if self._sums is None or self.images < 2:
            return 0.0
        n, total, squares = self.images, int(self._sums[0]), int(self._sums[1])
        # n * squares - total**2 in exact integers: no cancellation
        return math.sqrt((n * squares - total * total) / (n - 1)) / n / self.per_image


class Values:
    """Keeps one number or several per image; `mean` is correctly rounded, so no order or grouping changes it."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def update(self, values: Tensor) -> None:
        self._parts.append(values.detach().flatten())

    def _all(self) -> Tensor:
        if not any(part.numel() for part in self._parts):
            raise ValueError("the mean and the largest of no value are not defined")
        return torch.cat(self._parts).double().cpu()

    @property
    def mean(self) -> float:
        values = self._all()
        return math.fsum(values.tolist()) / len(values)

    @property
    def max(self) -> float:
        return float(self._all().max())
