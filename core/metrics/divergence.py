"""Divergence of a classifier's probabilities under a shift from those of the unshifted image."""

from torch import Tensor


def kl_divergence(reference: Tensor, other: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p || q) of softmax probabilities in nats: logits (..., K) and (..., K) -> (...).

    Computed from log-softmax, so that tiny probabilities neither lose digits nor become NaN. Non-negative up to
    rounding, zero for equal probabilities, unchanged by a constant added to all logits of a row. ValueError unless both
    have the same number of classes.
    """
    if reference.shape[-1:] != other.shape[-1:]:
        raise ValueError(
            f"logits of {reference.shape[-1]} and {other.shape[-1]} classes cannot be compared: shapes "
            f"{tuple(reference.shape)} and {tuple(other.shape)}"
        )
    p, q = reference.log_softmax(-1), other.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def shift_divergence(logits: Tensor) -> Tensor:
    """`kl_divergence` of every shift from the first: logits (B, S, K) of S shifts -> (B, S), the first column zero.

    Its mean over images is the curve of Leterme et al., whose shifts are multiples of half a pixel.
    """
    if logits.ndim != 3:
        raise ValueError(f"logits of shifts must be (B, S, K), got shape {tuple(logits.shape)}")
    return kl_divergence(logits[:, :1], logits)
