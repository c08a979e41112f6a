"""Accuracy and shift consistency of segmentation maps, as torchmetrics `Metric`s."""

import statistics
from typing import Any

import torch
from torch import Tensor

from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.data.shifts import roll, shift_zeros
from stillpoint.core.metrics.accumulate import Exact
from stillpoint.core.metrics.outputs import Output, as_tensor, is_network
from stillpoint.core.metrics.segmentation import confusion_matrix, label_map, segmentation_scores
from stillpoint.core.metrics.views import Boundary, check_boundary, prepared


class SegmentationScores(Exact):
    """Mean intersection over union of predicted and true label maps, in [0, 1]; `scores` has the other scores.

    ``update(maps, labels)``: maps are logits (B, K, h, w), resized to the labels' size bilinearly, or predicted labels
    (B, H, W); labels are (B, H, W). Pixels labelled `ignore` do not count. ValueError as in `confusion_matrix`.

    Examples:
        >>> metric = metrics.SegmentationScores(2)
        >>> metric.update(torch.tensor([[[0, 0], [1, 1]]]), torch.tensor([[[0, 1], [1, 1]]]))
        >>> round(metric.compute().item(), 4)  # 1/2 of class 0, 2/3 of class 1
        0.5833
    """

    higher_is_better = True
    matrix: Tensor

    def __init__(self, classes: int, *, ignore: int = 255, **kwargs: Any) -> None:
        super().__init__(classes, ignore, **kwargs)
        self.classes, self.ignore = classes, ignore
        self.whole("matrix", torch.zeros(classes, classes))

    def update(self, maps: Any, labels: Any) -> None:
        labels = as_tensor(labels)
        found = label_map(as_tensor(maps), (labels.shape[-2], labels.shape[-1]))
        counts = confusion_matrix(found, labels.to(found.device), classes=self.classes, ignore=self.ignore)
        self.matrix = self.matrix + self.here(counts)

    def compute(self) -> Tensor:
        return self.number(segmentation_scores(self.matrix)["mean_iou"])

    @property
    def scores(self) -> dict[str, float]:
        """`segmentation_scores` of all pixels."""
        return self.over_processes(lambda: segmentation_scores(self.matrix))


class MapConsistency(Exact):
    """Fraction of pixels whose label moves with the image: roll(f(x), s) against f(roll(x, s)), in [0, 1].

    With a network, ``update(net, images)`` or ``update(net, images, labels)``: `repeats` shifts s of each image, each
    axis uniform in -max_shift..max_shift. With boundary "zeros", only pixels inside both views count. With maps that
    are already aligned, ``update(first, second)``: logits (B, K, H, W) or labels (B, H, W).

    The result is the mean over repeats of the fraction over all pixels (mean average segmentation shift consistency,
    mASSC, of Rojas-Gomez et al., NeurIPS 2022); `variance` is its population variance over the repeats. With `classes`,
    `iou` is the mean IoU of both maps; with labels as well, `change` is the network's mean IoU without and with a
    shift. Pixels labelled `ignore` are left out of `change` only.

    Examples:
        >>> metric = metrics.MapConsistency()
        >>> metric.update(torch.tensor([[[0, 1], [1, 1]]]), torch.tensor([[[0, 0], [1, 1]]]))
        >>> metric.compute().item()
        0.75
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
            raise ValueError(f"max_shift and repeats must be at least 1, got {max_shift} and {repeats}")
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
            pairs = confusion_matrix(after, before.masked_fill(~there, -1), classes=self.classes, ignore=-1)
            self.between = self.between + self.here(pairs)

    def _against(self, right: Tensor, found: Tensor) -> Tensor:
        right = right.masked_fill(right < 0, self.ignore)
        return self.here(confusion_matrix(found, right, classes=self.classes or 0, ignore=self.ignore))

    def _fractions(self) -> list[float]:
        found = [s / p for s, p in zip(self.same.tolist(), self.pixels.tolist(), strict=True) if p]
        if not found:
            raise ValueError("there are no pixels to compare: call update first")
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
        return self.over_processes(lambda: segmentation_scores(self.between)["mean_iou"])

    @property
    def change(self) -> tuple[float, float]:
        """Mean IoU with the labels, without and with a shift; (NaN, NaN) if there were no labels. ValueError without
        `classes`."""
        self._known()

        def both() -> tuple[float, float]:
            still, moved = (segmentation_scores(counts)["mean_iou"] for counts in (self.still, self.moved))
            return still, moved

        return self.over_processes(both)

    def _known(self) -> None:
        if not self.classes:
            raise ValueError("the mean IoU needs the number of classes, such as MapConsistency(classes=21)")
