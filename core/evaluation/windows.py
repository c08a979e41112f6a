"""The evaluation "windows": windows of the network's size out of a larger image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.shifts import crop_window
from stillpoint.core.evaluation.view import ALONE, Result, View
from stillpoint.core.metrics import agreement
from stillpoint.core.metrics.accumulate import Tally


def wide_images(view: View, max_shift: int) -> tuple[Tensor, int]:
    """(images larger than the network's size, number of window positions on each axis)."""
    wide = view.wide if view.wide is not None else F.pad(view.images, (max_shift,) * 4, mode="replicate")
    return wide, wide.shape[2] - view.images.shape[2]


class Windows:
    """Shift consistency (Zhang 2019, section 4): do two windows of the network's size in a larger crop get one class?

    Each image draws its own two corners per repeat, uniform over 0..margin-1 on each axis (as published, without the
    last position); the paper draws one pair for a whole batch.
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.seed, self.repeats, self.max_shift = seed, config.repeats, config.max_shift
        self.pairs = Tally(**ALONE)

    def update(self, view: View) -> None:
        wide, positions = wide_images(view, self.max_shift)
        size = (view.images.shape[2], view.images.shape[3])
        same = []
        for repeat in range(self.repeats):
            corners = uniform_integers(view.indices, 0, positions, 4, "windows", self.seed, repeat).to(wide.device)
            first, second = (view.predict(crop_window(wide, corners[:, k : k + 2], size)) for k in (0, 2))
            same.append(agreement(first, second))
        self.pairs.update(torch.stack(same, 1))

    def compute(self) -> Result:
        return {
            "windows_consistency": self.pairs.mean,
            "windows_consistency_standard_error": self.pairs.standard_error,
        }
