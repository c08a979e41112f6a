"""Metrics: pure functions from logits or maps to numbers, and torchmetrics `Metric`s built on them.

Functions are imported without torchmetrics, whose import takes seconds; classes import it. A new metric is a file here
and an entry of `_CLASSES`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stillpoint.core.metrics.accuracy import topk_accuracy, topk_correct
from stillpoint.core.metrics.consistency import agreement, consistency
from stillpoint.core.metrics.equivariance import equivariance_error, nmse, psnr, ssim
from stillpoint.core.metrics.logit_change import relative_logit_change

if TYPE_CHECKING:
    from stillpoint.core.metrics.accumulate import Tally, Values
    from stillpoint.core.metrics.accuracy_metrics import Accuracy, WorstShiftAccuracy
    from stillpoint.core.metrics.corruption_metric import CorruptionError
    from stillpoint.core.metrics.segmentation_metrics import MapConsistency, SegmentationScores
    from stillpoint.core.metrics.shift_metrics import (
        FlipRate,
        FractionalConsistency,
        LogitChange,
        ShiftConsistency,
        ShiftDivergence,
    )

#: class -> its file in this subpackage
_CLASSES = {
    "Accuracy": "accuracy_metrics",
    "CorruptionError": "corruption_metric",
    "FlipRate": "shift_metrics",
    "FractionalConsistency": "shift_metrics",
    "LogitChange": "shift_metrics",
    "MapConsistency": "segmentation_metrics",
    "SegmentationScores": "segmentation_metrics",
    "ShiftConsistency": "shift_metrics",
    "ShiftDivergence": "shift_metrics",
    "Tally": "accumulate",
    "Values": "accumulate",
    "WorstShiftAccuracy": "accuracy_metrics",
}

__all__ = [
    "Accuracy",
    "CorruptionError",
    "FlipRate",
    "FractionalConsistency",
    "LogitChange",
    "MapConsistency",
    "SegmentationScores",
    "ShiftConsistency",
    "ShiftDivergence",
    "Tally",
    "Values",
    "WorstShiftAccuracy",
    "agreement",
    "consistency",
    "equivariance_error",
    "nmse",
    "psnr",
    "relative_logit_change",
    "ssim",
    "topk_accuracy",
    "topk_correct",
]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(import_module(f"{__name__}.{_CLASSES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
