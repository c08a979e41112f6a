"""Accuracy of label maps, and their stability under shifts of the image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def label_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (B, H, W) of logits (B, K, h, w), resized to `size` bilinearly; labels (B, H, W) stay as they are."""
    if maps.ndim == 3 and not maps.is_floating_point():
        return maps
    if maps.ndim != 4:
        raise ValueError(f"maps must be logits (B, K, h, w) or integer labels (B, H, W), not {tuple(maps.shape)}")
    if maps.shape[2:] != size:
        maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return maps.argmax(1)


def confusion_matrix(predicted: Tensor, labels: Tensor, *, classes: int, ignore: int = 255) -> Tensor:
    """Counts of pixels by (label, predicted class), (classes, classes) int64, without pixels labelled `ignore`.

    ValueError for maps of another shape than the labels, and for labels that are neither a class nor `ignore`.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"predicted maps of shape {tuple(predicted.shape)} for labels of shape {tuple(labels.shape)}")
    valid = labels != ignore
    labels, predicted = labels[valid].long(), predicted[valid].long()
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError(
            f"labels must lie between 0 and {classes - 1}, or be {ignore}, "
            f"got {int(labels.min())} to {int(labels.max())}"
        )
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def segmentation_scores(matrix: Tensor, *, transposed: bool = False) -> dict[str, float]:
    """Scores of a `confusion_matrix`, as fractions; classes that never occur are left out of the means.

    pixel_accuracy, mean_accuracy (over classes, of their own pixels), mean_iou and frequency_weighted_iou.

    With `transposed`, labels and predictions are exchanged, as in the code of learnable polyphase sampling: then
    mean_accuracy is the mean precision, and frequencies are those of predictions. The other two are the same.
    """
    matrix = (matrix.T if transposed else matrix).double()
    hits, rows, columns = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = hits / (rows + columns - hits)
    share = rows / matrix.sum()
    return {
        "pixel_accuracy": float(hits.sum() / matrix.sum()),
        "mean_accuracy": float((hits / rows).nanmean()),
        "mean_iou": float(iou.nanmean()),
        "frequency_weighted_iou": float((share * iou)[share > 0].sum()),
    }


def label_agreement(still: Tensor, moved: Tensor, shift: Sequence[int], *, circular: bool = True) -> Tensor:
    """Fraction of pixels whose label moves with the image, float64 (B,).

    Args:
        still: (B, H, W) predicted labels of the images.
        moved: (B, H, W) predicted labels of the images shifted by `shift` pixels (rows, columns).
        circular: whether the shift was circular; otherwise only the pixels in both views are compared.

    ValueError for maps of different shapes, or without common pixels.
    """
    if still.shape != moved.shape or still.ndim != 3:
        raise ValueError(
            f"label maps must be (B, H, W) of one shape, got {tuple(still.shape)} and {tuple(moved.shape)}"
        )
    down, right = (int(pixels) for pixels in shift)
    if circular:
        return (still == moved.roll((-down, -right), (1, 2))).double().mean((1, 2))
    height, width = still.shape[1:]
    if abs(down) >= height or abs(right) >= width:
        raise ValueError(f"a shift of {(down, right)} leaves nothing of maps of {height}x{width}")
    seen = moved[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
    same = still[:, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
    return (seen == same).double().mean((1, 2))
