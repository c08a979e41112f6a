"""The interface of an evaluation, and the view of a batch that it gets."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stillpoint.core.data.sets import FolderSet, ImageSet, sample

Result = dict[str, float | Tensor]
#: options of the metrics in an evaluation, whose process sees all images and so needs no synchronisation
ALONE: dict[str, Any] = {"sync_on_compute": False}


class View:
    """A batch for an evaluation: normalised images on the device, and the network.

    images       (B, C, H, W)
    labels       (B,)
    indices      (B,), positions of the images in their set, on the CPU
    predict      images -> float32 logits
    progress     for evaluations that take long within one batch
    wide         (B, C, H', W'): with EVALUATE.MARGIN the larger crop around `images`; with AUGMENT.CANVAS_PADDING the
                 padded images of which they are random windows
    step, steps  the batch is number `step` of `steps`
    image_set    the set of `indices`, for evaluations that need the stored images
    normalise    stored pixels -> what `predict` takes
    root         data root, for evaluations that need other images; None: the default
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
        """Positions in the batch of the `limit` images of the set that an expensive evaluation uses."""
        if limit is None:
            return torch.arange(len(self.indices))
        chosen = torch.arange(limit) if self.image_set is None else sample(self.image_set.labels, limit)
        return torch.isin(self.indices, chosen).nonzero().flatten()

    @cached_property
    def logits(self) -> Tensor:
        """(B, K) of the unshifted images, computed once for all evaluations."""
        return self.predict(self.images)


class Evaluation(Protocol):
    """The interface of an evaluation, as of a metric: `update` gets every batch once, `compute` returns the results.

    A factory ``(config, seed)`` builds it from metrics of `stillpoint.core.metrics`, whose sums are exact.
    """

    def update(self, view: View) -> None: ...

    def compute(self) -> Result:
        """Floats (fractions in [0, 1]), and tensors for maps over shifts; their names start with the evaluation's."""
        ...
