"""The evaluation "fractional": circular shifts by fractions of a pixel."""

import torch

from stillpoint.core.config.schema import EvaluateConfig
from stillpoint.core.data.shifts import fourier_shift
from stillpoint.core.evaluation.view import ALONE, Result, View
from stillpoint.core.metrics.shift_metrics import FractionalConsistency, LogitChange


class Fractional:
    """Circular shifts by k/FRACTIONS of a pixel on both axes, k = 1..FRACTIONS, by trigonometric interpolation.

    The last shift is a whole pixel; only the curves include it.
    """

    def __init__(self, config: EvaluateConfig, seed: int) -> None:
        self.kept = FractionalConsistency(fractions=config.fractions, **ALONE)
        self.changes = [LogitChange(**ALONE) for _ in self.kept.shifts()]

    def update(self, view: View) -> None:
        moved = [view.predict(fourier_shift(view.images, (shift, shift))) for shift in self.kept.shifts()]
        self.kept.update(view.logits, torch.stack(moved, 1))
        for changes, logits in zip(self.changes, moved, strict=True):
            changes.update(view.logits, logits)

    def compute(self) -> Result:
        curve, largest = self.kept.curve, [values.max for values in self.changes]
        return {
            "fractional_consistency": float(self.kept.compute()),
            "fractional_worst_consistency": min(curve[:-1]),
            "fractional_max_logit_change": max(largest[:-1]),
            "fractional_consistency_curve": torch.tensor(curve),  # (FRACTIONS,)
            "fractional_logit_change_curve": torch.tensor(largest),
            "fractional_mean_logit_change_curve": torch.tensor([values.mean for values in self.changes]),
        }
