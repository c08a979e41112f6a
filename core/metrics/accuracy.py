"""Top-k accuracy; equal logits are ranked by class number, the lowest first, so that top-1 is the argmax."""

from collections.abc import Sequence

import torch
from torch import Tensor


def topk_correct(logits: Tensor, labels: Tensor, k: Sequence[int] = (1,)) -> Tensor:
    """Whether each image's label is among its k highest logits.

    logits (B, K), class numbers (B,) -> bool (B, len(k)). A row with a NaN is never correct; for k >= K all other rows
    are. Unlike in `torch.topk`, equal logits are ranked by class number, as in argmax. ValueError for other shapes and
    for k below 1.

    Examples:
        >>> metrics.topk_correct(torch.eye(3), torch.tensor([0, 1, 0])).flatten()
        tensor([ True,  True, False])
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits must be (B, K) and labels (B,), not {tuple(logits.shape)} and {tuple(labels.shape)}")
    if not k or min(k) < 1:
        raise ValueError(f"k must be one or more positive numbers, not {tuple(k)}")
    own = logits.gather(1, labels[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    rank = ahead.sum(1).masked_fill(logits.isnan().any(1), max(k))
    return rank[:, None] < torch.as_tensor(list(k), device=logits.device)


def topk_accuracy(logits: Tensor, labels: Tensor, k: Sequence[int] = (1,)) -> Tensor:
    """Fractions of images whose label is among the k highest logits: float64 (len(k),) in [0, 1]; see `topk_correct`.

    Examples:
        >>> metrics.topk_accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0]))
        tensor([0.7500], dtype=torch.float64)
    """
    return topk_correct(logits, labels, k).double().mean(0)
