"""Evaluation as in the APS authors' code (``EVALUATE.PROTOCOL authors``).

One pair of shifts, drawn from a NumPy RandomState(0) for each evaluation, serves a whole batch, so results depend on
the batch size. The CIFAR code averages batch means unweighted (a smaller last batch counts as much as the others); the
ImageNet code weights them by batch size. Numbers are fractions here; the authors print ImageNet's in percent.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.base.errors import UserError
from stillpoint.core.config.catalogue import info
from stillpoint.core.config.schema import EvaluateConfig, RunConfig
from stillpoint.core.data.shifts import crop_window, roll
from stillpoint.core.evaluation.erase import Together, erased
from stillpoint.core.evaluation.registry import EVALUATIONS, Evaluation, Result, View
from stillpoint.core.metrics import agreement, topk_correct
from stillpoint.pipelines.aps import reconstruction

#: An erased square's corner is drawn from 0 to the image's side less this and the square's side, exclusive.
_ERASE_MARGIN = 3


def batch_mean(means: Sequence[float], sizes: Sequence[int], *, weighted: bool) -> float:
    """Mean of batch means, weighted by batch size (ImageNet form) or unweighted (CIFAR form)."""
    if weighted:
        return sum(mean * size for mean, size in zip(means, sizes, strict=True)) / sum(sizes)
    return sum(means) / len(means)


def torch_topk_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each label is the first, and among the first five, of ``torch.topk(logits, 5)``: bool (B, 2).

    It follows the ImageNet code. `torch.topk` does not define the order of equal logits, so on ties this may differ
    from the argmax, from `stillpoint.core.metrics.topk_correct` and between versions of torch.
    """
    found = logits.topk(min(5, logits.shape[1]), 1).indices == labels[:, None]
    return torch.stack([found[:, 0], found.any(1)], 1)


class AuthorsAccuracy:
    """Accuracy on unshifted images: top-1 by argmax in the CIFAR form, top-1 and top-5 by topk in the ImageNet form."""

    def __init__(self, config: EvaluateConfig, seed: int, *, weighted: bool = False) -> None:
        self.weighted, self.sizes = weighted, list[int]()
        names = ("accuracy", "accuracy_top5") if weighted else ("accuracy",)
        self.means: dict[str, list[float]] = {name: [] for name in names}

    def update(self, view: View) -> None:
        count = torch_topk_correct if self.weighted else topk_correct
        right = count(view.logits, view.labels).double().mean(0).tolist()
        self.sizes.append(len(view.labels))
        for means, mean in zip(self.means.values(), right, strict=True):
            means.append(mean)

    def compute(self) -> Result:
        return {name: batch_mean(m, self.sizes, weighted=self.weighted) for name, m in self.means.items()}


class AuthorsPairs:
    """Whether two shifts per batch get the same class, each axis uniform in -MAX_SHIFT..MAX_SHIFT-1; one pass.

    `erase` is the side of a square set to zero in the whole batch, whose corner is drawn before the shifts; `flip`
    reverses both axes; `crop` moves windows over the image padded by MAX_SHIFT zeros instead of rolling it.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        seed: int,
        *,
        name: str = "circular",
        crop: bool = False,
        flip: bool = False,
        erase: int = 0,
        weighted: bool = False,
    ) -> None:
        self.name, self.crop, self.flip, self.erase, self.weighted = name, crop, flip, erase, weighted
        self.max_shift, self.random = config.max_shift, np.random.RandomState(0)
        self.sizes, self.consistency, self.accuracy = list[int](), list[float](), list[float]()

    def update(self, view: View) -> None:
        images = view.images.flip(2, 3) if self.flip else view.images
        height, width = images.shape[2:]
        if self.erase:
            if self.erase >= min(height, width) - _ERASE_MARGIN:
                raise UserError(
                    f"the authors' protocol cannot erase squares of {self.erase} pixels from {height}x{width} images: "
                    f"EVALUATE.ERASE must be below {min(height, width) - _ERASE_MARGIN}"
                )
            corner = self.random.randint(0, min(height, width) - _ERASE_MARGIN - self.erase, 2)
            images = erased(images, torch.from_numpy(corner).expand(len(images), 2), self.erase)
        first, second = (view.predict(self._move(images, shift)) for shift in self.draw())
        self.sizes.append(len(images))
        self.consistency.append(agreement(first, second).double().mean().item())
        if images is not view.images:
            right = topk_correct(view.predict(images), view.labels)
            self.accuracy.append(right.double().mean().item())

    def draw(self) -> list[list[int]]:
        """The next batch's two shifts, each (rows, columns)."""
        return [self.random.randint(-self.max_shift, self.max_shift, 2).tolist() for _ in range(2)]

    def _move(self, images: Tensor, shift: Sequence[int]) -> Tensor:
        if not self.crop:
            return roll(images, shift)
        m = self.max_shift
        return crop_window(F.pad(images, (m, m, m, m)), [m + s for s in shift], (images.shape[2], images.shape[3]))

    def compute(self) -> Result:
        found: Result = {f"{self.name}_accuracy": self._mean(self.accuracy)} if self.accuracy else {}
        return found | {f"{self.name}_consistency": self._mean(self.consistency)}

    def _mean(self, means: Sequence[float]) -> float:
        return batch_mean(means, self.sizes, weighted=self.weighted)


def authors_erase(config: EvaluateConfig, seed: int, *, weighted: bool = False) -> Evaluation:
    """One evaluation for each side of ``EVALUATE.ERASE``."""
    if not config.erase:
        raise UserError("the evaluation erase needs the sides of its squares in pixels: set EVALUATE.ERASE")
    sides = config.erase
    return Together([AuthorsPairs(config, seed, name=f"erase{p}", erase=p, weighted=weighted) for p in sides])


def _forms(weighted: bool) -> dict[str, Callable[[EvaluateConfig, int], Evaluation]]:
    return {
        "accuracy": partial(AuthorsAccuracy, weighted=weighted),
        "circular": partial(AuthorsPairs, weighted=weighted),
        "crop": partial(AuthorsPairs, name="crop", crop=True, weighted=weighted),
        "erase": partial(authors_erase, weighted=weighted),
        "flips": partial(AuthorsPairs, name="flips", flip=True, weighted=weighted),
    }


#: Replacements for core's evaluations under the authors' protocol, as in their CIFAR code and their ImageNet code.
AUTHORS = _forms(weighted=False)
AUTHORS_IMAGENET = _forms(weighted=True)


def evaluations(config: RunConfig) -> Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]:
    """The evaluations of a run by name: core's, some of them replaced by the authors' under their protocol.

    A U-Net, which returns images, has those of `pipelines.aps.reconstruction`.
    """
    if info(config.data.name).pairs:
        return reconstruction.EVALUATIONS
    if config.evaluate.protocol != "authors":
        return EVALUATIONS
    return EVALUATIONS | (AUTHORS_IMAGENET if config.data.name == "imagenet" else AUTHORS)
