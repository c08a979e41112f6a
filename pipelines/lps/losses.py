"""The losses of the paper's segmentation."""

import torch.nn.functional as F
from torch import Tensor

IGNORED = 255


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float = 0.0, ignore: int = IGNORED) -> Tensor:
    """Cross entropy times (1 - p) ** gamma, p being the probability of the label (Lin et al., ICCV 2017).

    (B, classes, H, W) and (B, H, W) -> the mean over ALL pixels, ignored ones counting as zero: the authors' default,
    with gamma 0. `cross_entropy` is the mean over the others.
    """
    loss = F.cross_entropy(logits.float(), labels, ignore_index=ignore, reduction="none")
    return (loss if gamma == 0 else (1 - (-loss).exp()) ** gamma * loss).mean()


def cross_entropy(logits: Tensor, labels: Tensor, *, ignore: int = IGNORED) -> Tensor:
    """The mean over the pixels that are not ignored."""
    return F.cross_entropy(logits.float(), labels, ignore_index=ignore)
