"""Shift metrics: pure functions from logits or maps to numbers, and sums that no batch size can change."""

from stillpoint.core.metrics.accumulate import Tally, Values
from stillpoint.core.metrics.accuracy import topk_accuracy, topk_correct
from stillpoint.core.metrics.consistency import agreement, consistency
from stillpoint.core.metrics.equivariance import equivariance_error, nmse, psnr, ssim
from stillpoint.core.metrics.logit_change import relative_logit_change

__all__ = [
    "Tally",
    "Values",
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
