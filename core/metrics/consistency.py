"""Consistency: how often a classifier gives two views of an image the same class (Zhang, ICML 2019, section 4)."""

from torch import Tensor


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Whether two views of each image are given the same class: logits (..., K) and (..., K) -> bool (...).

    The class is the argmax, the lowest one among equal logits. A row with a NaN agrees with nothing: a diverged network
    must not count as consistent. ValueError for different numbers of classes.

    Examples:
        >>> metrics.agreement(torch.eye(3), torch.eye(3).flip(0))
        tensor([False,  True, False])
    """
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(f"logits of {first.shape[-1]} and {second.shape[-1]} classes cannot be compared")
    defined = ~(first.isnan().any(-1) | second.isnan().any(-1))
    return (first.argmax(-1) == second.argmax(-1)) & defined


def consistency(first: Tensor, second: Tensor) -> float:
    """Fraction of images that are given the same class in both views, in [0, 1]; ValueError for no images.

    Examples:
        >>> metrics.consistency(torch.eye(4), torch.eye(4)[[0, 1, 3, 2]])
        0.5
    """
    same = agreement(first, second)
    if same.numel() == 0:
        raise ValueError("consistency needs at least one image, got none")
    return int(same.sum()) / same.numel()
