"""The evaluation "walk": the image moves along the diagonal, one pixel at a time."""

import torch

from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.shifts import roll
from stillpoint.core.evaluation.spread import Spread, wide
from stillpoint.core.evaluation.view import ALONE, Result, View
from stillpoint.core.metrics.accumulate import Tally
from stillpoint.core.metrics.flip_rate import flips


class Walk:
    """Circular shifts by 0, 1, ..., 2 MAX_SHIFT pixels on both axes at once.

    ``walk_flip_rate`` is the fraction of pairs of views whose class differs, averaged over distances of 1 to 2
    MAX_SHIFT pixels with equal weights (the mean flip rate of Hendrycks and Dietterich, ICLR 2019);
    ``walk_flip_rate_step1`` is that of neighbouring views. ``walk_stability`` is one minus the mean change of the true
    class's probability from one view to the next (Zhang, ICML 2019, figure 1, whose views are windows).
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.steps = 2 * config.max_shift
        self.flipped, self.neighbours, self.changes = Spread(), Tally(**ALONE), Spread()

    def update(self, view: View) -> None:
        logits = [view.logits, *(view.predict(roll(view.images, (k, k))) for k in range(1, self.steps + 1))]
        classes = torch.stack([one.argmax(1) for one in logits], 1)  # (B, steps + 1)
        of_step = [flips(classes, step).double().mean(1) for step in range(1, self.steps + 1)]
        self.flipped.take(torch.stack(of_step, 1))
        self.neighbours.count(flips(classes, 1))
        own = [wide(one).softmax(1).gather(1, view.labels[:, None])[:, 0] for one in logits]
        self.changes.take(torch.stack(own, 1).diff(dim=1).abs())

    def compute(self) -> Result:
        return {
            "walk_flip_rate": self.flipped.mean,
            "walk_flip_rate_standard_error": self.flipped.standard_error,
            "walk_flip_rate_step1": self.neighbours.mean,
            "walk_stability": 1 - self.changes.mean,
            "walk_stability_standard_error": self.changes.standard_error,
        }
