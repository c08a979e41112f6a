"""The paper's consistency on ImageNet: windows of the network's size out of a larger crop, and rolls of that crop.

Only under ``EVALUATE.PROTOCOL authors``, because of its peculiarities: one draw for a whole batch from NumPy's
generator, and rolled images classified at the size of the crop, not of the windows. Our own measurements are
``circular`` and ``crop``.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch.nn.functional as F

from stillpoint.core.config.schema import EvaluateConfig, RunConfig
from stillpoint.core.evaluation.registry import EVALUATIONS, Evaluation, Result, View
from stillpoint.pipelines.lps.protocol import imagenet_consistency, imagenet_offsets

#: the authors' seed and number of views
SEED, SAMPLES = 7, 2


class StandardAndCircular:
    """``standard_consistency`` and ``rolled_consistency``: means over batches of the fraction of images with the same
    class throughout."""

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


def evaluations(config: RunConfig) -> Mapping[str, Callable[[EvaluateConfig, int], Evaluation]]:
    """Core's, and under the authors' protocol their own."""
    if config.evaluate.protocol == "authors":
        return {**EVALUATIONS, "standard_and_circular": StandardAndCircular}
    return EVALUATIONS
