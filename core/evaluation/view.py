"""What an evaluation is, and one batch as it sees it."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stillpoint.core.data.sets import FolderSet, ImageSet, sample

Result = dict[str, float | Tensor]
#: what the metrics of an evaluation are told: each process that evaluates sees all images
ALONE: dict[str, Any] = {"sync_on_compute": False}


class View:
    """One batch as an evaluation sees it: normalised images on the device, and the network.

    images (B, C, H, W), labels (B,), indices (B,) numbers of the images in their set, on the CPU. `predict` maps
    images to float32 logits. `progress` is for an evaluation that takes long within one batch. `wide` (B, C, H', W') is
    the larger crop whose middle `images` are, where EVALUATE.MARGIN asks for one, or the padded images they are random
    windows of, where AUGMENT.CANVAS_PADDING does. It is batch `step` of `steps`. `image_set` is where `indices` point,
    for an evaluation that makes views of the images as they were stored, and `normalise` makes of stored pixels what
    `predict` takes. `root` is the folder of the data, for one
    that needs other images besides; none: the usual one.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        predict: Callable[[Tensor], Tensor],
        progress: Callable[[str, int, int], None] = lambda what, done, total: None,
        *,
        wide: Tensor | None = None,
        step: int = 0,
        steps: int = 1,
        image_set: ImageSet | FolderSet | None = None,
        normalise: Callable[[Tensor], Tensor] | None = None,
        root: Path | str | None = None,
    ) -> None:
        self.image_set, self.normalise, self.root = image_set, normalise, root
        self.images, self.labels, self.indices = images, labels, indices
        self.predict, self.progress = predict, progress
        self.wide, self.step, self.steps = wide, step, steps

    def sample(self, limit: int | None) -> Tensor:
        """Places in the batch of the images, `limit` of the whole set, that a measurement too dear for all looks at."""
        if limit is None:
            return torch.arange(len(self.indices))
        chosen = torch.arange(limit) if self.image_set is None else sample(self.image_set.labels, limit)
        return torch.isin(self.indices, chosen).nonzero().flatten()

    @cached_property
    def logits(self) -> Tensor:
        """(B, K) of the images as they are, computed once for all evaluations."""
        return self.predict(self.images)


class Evaluation(Protocol):
    """A torchmetrics metric of views: `update` takes every batch once, `compute` says the numbers.

    Made by a factory ``(config, seed)``; it looks at images and holds `stillpoint.core.metrics`, whose sums are exact.
    """

    def update(self, view: View) -> None: ...

    def compute(self) -> Result:
        """Floats, fractions in [0, 1], and tensors for maps over shifts. Names start with the evaluation's."""
        ...
