"""The mean corruption error as a torchmetrics `Metric`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stillpoint.core.data.corruptions import BENCHMARK, SEVERITIES, corrupt
from stillpoint.core.metrics.accumulate import Exact
from stillpoint.core.metrics.accuracy import topk_correct
from stillpoint.core.metrics.accuracy_metrics import needed
from stillpoint.core.metrics.corruption import mean_corruption_error
from stillpoint.core.metrics.outputs import Output, as_tensor, is_network
from stillpoint.core.metrics.views import prepared


class CorruptionError(Exact):
    """Mean error under common corruptions (Hendrycks and Dietterich, ICLR 2019), divided by `baselines` if given.

    With a network, ``update(net, images, labels)``: images uint8 (B, 3, S, S), S of 32, 64 or 224, are corrupted by
    each corruption and severity, and `preprocess` (default: pixels / 255) makes them the network's input. With logits
    of corrupted images, ``update(logits, labels, corruption="fog", severity=3)``.

    corruptions     names; default: the 15 of the benchmark
    baselines       errors of the normalising network, by corruption: for each severity, or their mean
    seed            of the corruptions' random numbers, which also depend on the image's number

    `errors` holds the error of every corruption and severity. ValueError for a result before each has had an image.

    Examples:
        >>> error = metrics.CorruptionError(corruptions=["fog"])
        >>> for severity in range(1, 6):
        ...     error.update(torch.eye(2), torch.tensor([0, 0]), corruption="fog", severity=severity)
        >>> float(error.compute())
        0.5
    """

    higher_is_better = False
    wrong: Tensor
    images: Tensor

    def __init__(
        self,
        *,
        corruptions: Sequence[str] = BENCHMARK,
        baselines: Mapping[str, Sequence[float] | float] | None = None,
        preprocess: Callable[[Tensor], Any] | None = None,
        seed: int = 0,
        output: Output | None = None,
        **kwargs: Any,
    ) -> None:
        if not corruptions:
            raise ValueError("a mean corruption error needs at least one corruption")
        super().__init__(tuple(corruptions), sorted((baselines or {}).items()), seed, **kwargs)
        self.corruptions, self.baselines, self.seed = tuple(corruptions), baselines, seed
        self.preprocess, self.output = preprocess or _scaled, output
        for name in ("wrong", "images"):
            self.whole(name, torch.zeros(len(self.corruptions), len(SEVERITIES)))

    def update(
        self,
        first: Any,
        second: Any,
        labels: Any = None,
        corruption: str | None = None,
        severity: int | None = None,
        indices: Any = None,
    ) -> None:
        if not is_network(first):
            if corruption not in self.corruptions or severity not in SEVERITIES:
                raise ValueError(
                    f"corruption must be one of {', '.join(self.corruptions)} and severity one of "
                    f"{', '.join(map(str, SEVERITIES))}, got {corruption!r} and {severity!r}"
                )
            self._count(as_tensor(first), as_tensor(second), corruption, severity)
            return
        predict, images, numbers = prepared(first, second, self.drawn, indices, self.output)
        if images.dtype != torch.uint8:
            raise ValueError(f"corruptions act on stored pixels: images must be uint8 (B, 3, S, S), not {images.dtype}")
        classes = as_tensor(needed(labels))
        pixels = images.permute(0, 2, 3, 1).cpu().contiguous().numpy()
        for name in self.corruptions:
            for level in SEVERITIES:
                changed = corrupt(pixels, name, level, indices=numbers.numpy(), seed=self.seed)
                stored = torch.from_numpy(changed).permute(0, 3, 1, 2).contiguous().to(images.device)
                self._count(predict(self.preprocess(stored)), classes, name, level)
        self.drawn += len(images)

    def _count(self, logits: Tensor, labels: Tensor, corruption: str, severity: int) -> None:
        right = self.here(topk_correct(logits, labels.to(logits.device))[:, 0])
        place = torch.zeros_like(self.images)
        place[self.corruptions.index(corruption), SEVERITIES.index(severity)] = 1
        self.wrong = self.wrong + place * (~right).sum()
        self.images = self.images + place * len(right)

    def compute(self) -> Tensor:
        return self.number(mean_corruption_error(self._errors(), self.baselines))

    @property
    def errors(self) -> dict[str, list[float]]:
        """Top-1 errors in [0, 1] by corruption, in the order of severities."""
        return self.over_processes(self._errors)

    def _errors(self) -> dict[str, list[float]]:
        if not self.images.all():
            absent = [name for name, row in zip(self.corruptions, self.images, strict=True) if not row.all()]
            raise ValueError(f"a severity of {', '.join(absent)} has no images: update all severities first")
        rows = zip(self.corruptions, self.wrong.tolist(), self.images.tolist(), strict=True)
        return {name: [w / n for w, n in zip(wrong, images, strict=True)] for name, wrong, images in rows}


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.float() / 255
