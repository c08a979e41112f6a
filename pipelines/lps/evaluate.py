"""The measurements of ``EVALUATE.PROTOCOL authors``, with the peculiarities of the authors' code.

On ImageNet, NumPy's generator draws once for a whole batch, and rolled images are classified at the size of the larger
crop, not of the windows; on CIFAR-10 windows and rolls have one size. Stillpoint's own measures are ``circular`` and
``crop``. Segmenters too are measured with one draw for a whole batch and by means over batches, and the score called
mean accuracy is the mean precision.
"""

import statistics
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from stillpoint.core.base.randomness import generator
from stillpoint.core.config.catalogue import info
from stillpoint.core.config.schema import EvaluateConfig, RunConfig
from stillpoint.core.data.shifts import roll, shift_zeros
from stillpoint.core.evaluation.registry import EVALUATIONS, MAP_EVALUATIONS, Evaluation, Result, View
from stillpoint.core.evaluation.segmentation import Segmentation
from stillpoint.core.metrics.fidelity import all_agree
from stillpoint.core.metrics.segmentation import label_agreement, label_map, segmentation_scores
from stillpoint.pipelines.lps.config import SMALL
from stillpoint.pipelines.lps.protocol import draw_offsets, imagenet_consistency, imagenet_offsets

#: the authors' seed and number of views
SEED, SAMPLES = 7, 2


class StandardAndCircular:
    """``standard_consistency`` and ``rolled_consistency``: mean over batches of the fraction that keeps one class."""

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.random, self.max_shift = np.random.RandomState(SEED), config.max_shift
        self.found: list[tuple[float, float]] = []

    def update(self, view: View) -> None:
        wide = view.wide if view.wide is not None else F.pad(view.images, (self.max_shift,) * 4, mode="circular")
        patch = view.images.shape[2]
        offsets = imagenet_offsets(self.random, largest=wide.shape[2] - patch, samples=SAMPLES)
        self.found.append(imagenet_consistency(view.predict, wide, offsets, patch=patch))

    def compute(self) -> Result:
        standard, circular = np.mean(self.found, 0) / 100
        return {"standard_consistency": float(standard), "rolled_consistency": float(circular)}


class BatchPairs:
    """`StandardAndCircular` for CIFAR-10: PyTorch draws two shifts of a batch, each axis from -MAX_SHIFT..MAX_SHIFT-1,
    for windows of the padded images, and two more for rolls. The authors set no seed; here it is the run's."""

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.random, self.reach = generator("lps authors", seed), config.max_shift
        self.found: list[tuple[float, ...]] = []

    def update(self, view: View) -> None:
        shares = []
        for move in (shift_zeros, roll):
            shifts = torch.randint(-self.reach, self.reach, (SAMPLES, 2), generator=self.random).tolist()
            # a window that moves down shows content that moves up
            signs = -1 if move is shift_zeros else 1
            seen = [view.predict(move(view.images, (signs * i, signs * j))).argmax(1) for i, j in shifts]
            shares.append(float(all_agree(seen).double().mean()))
        self.found.append(tuple(shares))

    def compute(self) -> Result:
        standard, circular = np.mean(self.found, 0)
        return {"standard_consistency": float(standard), "rolled_consistency": float(circular)}


class Precision(Segmentation):
    """Scores of the transposed confusion matrix, whose mean accuracy is the mean precision."""

    def compute(self) -> Result:
        assert self.found is not None, "there is at least one image"
        scores = segmentation_scores(self.found.matrix, transposed=True)
        return {f"segmentation_{name}": value for name, value in scores.items()}


class BatchShifts:
    """REPEATS shifts of each batch, each axis uniform in -MAX_SHIFT..MAX_SHIFT: mASSC is the mean over shifts of means
    over batches. The authors set no seed; here it is the run's."""

    def __init__(self, config: EvaluateConfig, seed: int, *, circular: bool) -> None:
        self.name, self.circular = "circular_maps" if circular else "crop_maps", circular
        self.random, self.reach, self.repeats = np.random.RandomState(seed), config.max_shift, config.repeats
        self.found: list[list[float]] = []

    def update(self, view: View) -> None:
        size = (view.images.shape[2], view.images.shape[3])
        still, move = label_map(view.logits, size), roll if self.circular else shift_zeros
        self.found.append([])
        for shift in draw_offsets(self.random, -self.reach, self.reach + 1, self.repeats):
            moved = label_map(view.predict(move(view.images, shift)), size)
            self.found[-1].append(float(label_agreement(still, moved, shift, circular=self.circular).mean()))

    def compute(self) -> Result:
        means = [statistics.fmean(values) for values in zip(*self.found, strict=True)]
        variance = statistics.pvariance(means)
        return {f"{self.name}_agreement": statistics.fmean(means), f"{self.name}_agreement_variance": variance}


OF_MAPS: dict[str, Callable[[EvaluateConfig, int], Evaluation]] = {
    "segmentation": Precision,
    "circular_maps": partial(BatchShifts, circular=True),
    "crop_maps": partial(BatchShifts, circular=False),
}


def evaluations(config: RunConfig) -> Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]:
    """Core's evaluations, and the authors' own under their protocol."""
    of_maps, authors = info(config.data.name).label_maps, config.evaluate.protocol == "authors"
    if of_maps:
        return MAP_EVALUATIONS | (OF_MAPS if authors else {})
    form = StandardAndCircular if info(config.data.name).size > SMALL else BatchPairs
    own: dict[str, Callable[[EvaluateConfig, int], Evaluation]] = {"standard_and_circular": form}
    return EVALUATIONS | (own if authors else {})
