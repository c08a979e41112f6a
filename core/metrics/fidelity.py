"""The two quantities called shift fidelity or stability in translation invariant polyphase sampling (WACV 2025).

Its code counts images whose class is the same unshifted and under all shifts: `all_agree`. Its table holds the product
of accuracy and consistency: `shift_fidelity`. At full consistency the first is 1, the second the accuracy.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def all_agree(predictions: Sequence[Tensor]) -> Tensor:
    """(B,) bool: whether all of two or more predicted classes (B,) are the same.

    ValueError for fewer than two, or different shapes.
    """
    if len(predictions) < 2 or len({p.shape for p in predictions}) > 1:
        raise ValueError(f"need two or more predictions of one shape, got {[tuple(p.shape) for p in predictions]}")
    first, *others = predictions
    return torch.stack([first == other for other in others]).all(0)


def shift_fidelity(accuracy: float, consistency: float) -> float:
    """accuracy * consistency, both fractions; ValueError for numbers outside [0, 1]."""
    if not (0 <= accuracy <= 1 and 0 <= consistency <= 1):
        raise ValueError(f"accuracy and consistency must be fractions, got {accuracy} and {consistency}")
    return accuracy * consistency
