"""The evaluation "subpixel": circular shifts by half a pixel, a quarter, and random fractions."""

import torch

from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.shifts import fourier_shift
from stillpoint.core.evaluation.spread import Spread
from stillpoint.core.evaluation.view import ALONE, Result, View
from stillpoint.core.metrics import agreement, relative_logit_change
from stillpoint.core.metrics.accumulate import Tally
from stillpoint.core.metrics.shift_metrics import LogitChange

#: shifts in pixels on both axes
FIXED = {"half": 0.5, "quarter": 0.25}
#: random shifts are multiples of 1 / _PART pixel
_PART = 1 << 16


class Subpixel:
    """Whether images moved by trigonometric interpolation keep their class, and how far their logits move.

    Shifts are half and a quarter of a pixel on both axes, and for each image REPEATS random ones, each axis uniform in
    -MAX_SHIFT..MAX_SHIFT pixels.

    At even sizes a fractional shift changes an image's highest frequency, which no network can undo. So the law is
    tested on LIMIT_ALL_SHIFTS images without it: ``subpixel_law_max_logit_change`` compares two of their phases.
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.seed, self.repeats, self.reach = seed, config.repeats, config.max_shift
        self.limit, self.law = config.limit_all_shifts, LogitChange(**ALONE)
        self.kept = {name: Tally(**ALONE) for name in (*FIXED, "random")}
        self.changes, self.change = LogitChange(**ALONE), Spread()

    def update(self, view: View) -> None:
        groups: dict[str, list[torch.Tensor]] = {
            name: [torch.full((2,), shift, dtype=torch.float64)] for name, shift in FIXED.items()
        }
        groups["random"] = [self._drawn(view.indices, repeat) for repeat in range(self.repeats)]
        changes = []
        for name, shifts in groups.items():
            moved = [view.predict(fourier_shift(view.images, shift)) for shift in shifts]
            self.kept[name].count(torch.stack([agreement(view.logits, one) for one in moved], 1))
            for one in moved:
                self.changes.update(view.logits, one)
            changes += [relative_logit_change(view.logits, one) for one in moved]
        self.change.take(torch.stack(changes, 1))
        rows = view.sample(self.limit).to(view.images.device)
        if len(rows):
            half = fourier_shift(view.images[rows], (0.5, 0.5))
            self.law.update(view.predict(fourier_shift(half, (-0.5, -0.5))), view.predict(half))

    def _drawn(self, indices: torch.Tensor, repeat: int) -> torch.Tensor:
        """Random shifts (B, 2) in pixels."""
        span = self.reach * _PART
        return uniform_integers(indices, -span, span, 2, "subpixel", self.seed, repeat).double() / _PART

    def compute(self) -> Result:
        found: Result = {}
        for name, tally in self.kept.items():
            found[f"subpixel_{name}_consistency"] = tally.mean
            found[f"subpixel_{name}_consistency_standard_error"] = tally.standard_error
        return found | {
            "subpixel_law_max_logit_change": self.law.max,
            "subpixel_max_logit_change": self.changes.max,
            "subpixel_mean_logit_change": self.change.mean,
            "subpixel_mean_logit_change_standard_error": self.change.standard_error,
        }
