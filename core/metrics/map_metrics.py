"""Whether a segmentation network's label maps move with the image: a torchmetrics `Metric`."""

import math
import statistics
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.data.shifts import roll, shift_zeros
from stillpoint.core.metrics.accumulate import Exact
from stillpoint.core.metrics.outputs import Output, as_tensor, is_network
from stillpoint.core.metrics.views import Boundary, check_boundary, prepared


def label_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (B, H, W) from logits (B, K, h, w), first resized to `size` bilinearly; labels are returned unchanged."""
    if maps.ndim == 3 and not maps.is_floating_point():
        return maps
    if maps.ndim != 4:
        raise ValueError(f"maps must be logits (B, K, h, w) or labels (B, H, W), not {tuple(maps.shape)}")
    if maps.shape[2:] != size:
        maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return maps.argmax(1)


def confusion(first: Tensor, second: Tensor, classes: int) -> Tensor:
    """How many pixels of each class of `first` (rows) have each class in `second`: labels of one shape -> (K, K)."""
    pairs = first.flatten() * classes + second.flatten()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def mean_iou(counts: Tensor) -> float:
    """Mean intersection over union of the classes that occur in either map; NaN if none does."""
    both = counts.diagonal().tolist()
    union = (counts.sum(0) + counts.sum(1) - counts.diagonal()).tolist()
    known = [b / u for b, u in zip(both, union, strict=True) if u]
    return sum(known) / len(known) if known else math.nan


class MapConsistency(Exact):
    """Fraction of pixels whose label moves with the image: roll(f(x), s) against f(roll(x, s)), in [0, 1].

    With a network, ``update(net, images)`` or ``update(net, images, labels)``: `repeats` shifts s of each image, each
    axis uniform in -max_shift..max_shift. With zeros entering at the edge, only pixels inside both views count. With
    maps that are already aligned, ``update(first, second)``: logits (B, K, H, W) or labels.

    The result is the mean over repeats of the fraction over all pixels (mean average segmentation shift consistency,
    mASSC, of Rojas-Gomez et al., NeurIPS 2022), and `variance` its population variance over the repeats. With
    `classes`, `iou` is the mean IoU of both maps, and with labels `change` is how much a shift changes the network's
    mean IoU. Pixels labelled `ignore` are left out of these alone.
    """

    higher_is_better = True
    same: Tensor
    pixels: Tensor
    still: Tensor
    moved: Tensor
    between: Tensor

    def __init__(
        self,
        *,
        boundary: Boundary = "circular",
        max_shift: int = 32,
        repeats: int = 5,
        classes: int | None = None,
        ignore: int = 255,
        seed: int = 0,
        output: Output | None = None,
        **kwargs: Any,
    ) -> None:
        check_boundary(boundary)
        if max_shift < 1 or repeats < 1:
            raise ValueError(f"max_shift is {max_shift} and repeats {repeats}; both must be at least 1")
        super().__init__(boundary, max_shift, repeats, classes, ignore, seed, **kwargs)
        self.boundary, self.max_shift, self.repeats, self.seed = boundary, max_shift, repeats, seed
        self.classes, self.ignore, self.output = classes, ignore, output
        for name in ("same", "pixels"):
            self.whole(name, torch.zeros(repeats))
        if classes:
            for name in ("still", "moved", "between"):
                self.whole(name, torch.zeros(classes, classes))

    def update(self, first: Any, second: Any, labels: Any = None, indices: Any = None) -> None:
        if not is_network(first):
            maps = as_tensor(first), as_tensor(second)
            size = (maps[0].shape[-2], maps[0].shape[-1])
            before, after = (label_map(one, size) for one in maps)
            self._count(0, before, after, torch.ones_like(before, dtype=torch.bool))
            return
        predict, images, numbers = prepared(first, second, self.drawn, indices, self.output)
        size = (images.shape[2], images.shape[3])
        plain = label_map(predict(images), size)
        right = None if labels is None else as_tensor(labels).to(images.device)
        if right is not None and self.classes:
            self.still = self.still + self._against(right, plain)
        for repeat in range(self.repeats):
            drawn = uniform_integers(numbers, -self.max_shift, self.max_shift + 1, 2, "maps", self.seed, repeat)
            shifts, move = drawn.to(images.device), roll if self.boundary == "circular" else shift_zeros
            after = label_map(predict(move(images, shifts)), size)
            before = move(plain[:, None], shifts)[:, 0]
            there = move(torch.ones_like(plain, dtype=torch.bool)[:, None], shifts)[:, 0]
            self._count(repeat, before, after, there)
            if right is not None and self.classes:
                moved = move(right[:, None], shifts)[:, 0].masked_fill(~there, self.ignore)
                self.moved = self.moved + self._against(moved, after)
        self.drawn += len(images)

    def _count(self, repeat: int, before: Tensor, after: Tensor, there: Tensor) -> None:
        place = torch.zeros_like(self.same)
        place[repeat] = 1
        self.same = self.same + place * self.here(((before == after) & there).sum())
        self.pixels = self.pixels + place * self.here(there.sum())
        if self.classes:
            self.between = self.between + self.here(confusion(before[there], after[there], self.classes))

    def _against(self, right: Tensor, found: Tensor) -> Tensor:
        kept = (right != self.ignore) & (right >= 0)
        return self.here(confusion(right[kept].long(), found[kept], self.classes or 0))

    def _fractions(self) -> list[float]:
        found = [s / p for s, p in zip(self.same.tolist(), self.pixels.tolist(), strict=True) if p]
        if not found:
            raise ValueError("the consistency of no pixel is not defined")
        return found

    def compute(self) -> Tensor:
        return self.number(statistics.fmean(self._fractions()))

    @property
    def variance(self) -> float:
        return self.over_processes(lambda: statistics.pvariance(self._fractions()))

    @property
    def iou(self) -> float:
        """Mean IoU of f(roll(x, s)) with roll(f(x), s), over all repeats. ValueError without `classes`."""
        self._known()
        return self.over_processes(lambda: mean_iou(self.between))

    @property
    def change(self) -> tuple[float, float]:
        """Mean IoU with the labels, without and with a shift; (NaN, NaN) if there were no labels."""
        self._known()
        return self.over_processes(lambda: (mean_iou(self.still), mean_iou(self.moved)))

    def _known(self) -> None:
        if not self.classes:
            raise ValueError("the mean IoU needs the number of classes: MapConsistency(classes=21)")
