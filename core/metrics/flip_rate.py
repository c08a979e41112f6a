"""Flip rate: how often the predicted class changes when the image moves by a given step."""

import torch
from torch import Tensor


def flips(predictions: Tensor, step: int) -> Tensor:
    """Whether the class changes from shift k to shift k + step: predicted classes (B, S) -> bool (B, S - step).

    ValueError for a step below 1 or one that leaves no pair of shifts.
    """
    if predictions.ndim != 2 or predictions.is_floating_point():
        raise ValueError(
            f"predictions must be class numbers (B, S), got {predictions.dtype} {tuple(predictions.shape)}"
        )
    if not 1 <= step < predictions.shape[1]:
        raise ValueError(
            f"step must be from 1 to {predictions.shape[1] - 1} for {predictions.shape[1]} shifts, got {step}"
        )
    return predictions[:, :-step] != predictions[:, step:]


def flip_rates(predictions: Tensor, max_step: int) -> Tensor:
    """Flip rates for the steps 1 to `max_step`, over images and pairs of shifts: (B, S) -> float64 (max_step,).

    For a step of 1, the flip rate of Hendrycks and Dietterich ("Benchmarking neural network robustness to common
    corruptions and perturbations", ICLR 2019) without their division by AlexNet's.
    """
    return torch.stack([flips(predictions, step).double().mean() for step in range(1, max_step + 1)])
