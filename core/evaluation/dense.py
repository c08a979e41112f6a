"""Measures how well the label maps of a segmentation network move with the image."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.modes import evaluating, weights_fixed
from stillpoint.core.evaluation.engine import Predictor
from stillpoint.core.evaluation.view import ALONE
from stillpoint.core.metrics.outputs import Output
from stillpoint.core.metrics.segmentation_metrics import MapConsistency
from stillpoint.core.metrics.views import Boundary


def measure_maps(
    net: nn.Module | Callable[..., Any],
    data: Iterable[tuple[Tensor, Tensor | None]],
    *,
    boundary: Boundary = "circular",
    max_shift: int | None = None,
    repeats: int = 5,
    ignore: int = 255,
    output: Output | None = None,
    preprocess: Callable[[Tensor], Any] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Label agreement and mean IoU of roll(f(x), s) and f(roll(x, s)), where f returns logits (B, K, h, w).

    data        batches of images (B, C, H, W) on the network's device, and of labels (B, H, W) or None
    max_shift   each axis is uniform in -max_shift..max_shift; None: 32, or a quarter of the image if that is less
    ignore      label of pixels without a class

    Returns ``maps_agreement`` (mASSC) and ``maps_agreement_variance`` over the repeats, ``maps_iou`` between both maps,
    ``images`` and ``classes_given``; with labels ``maps_miou``, ``maps_shifted_miou`` and ``maps_miou_change`` as well.
    Maps smaller than the image are first resized to it bilinearly.
    """
    batches = iter(data)
    first = next(batches, None)
    if first is None:
        raise UserError("there are no images to measure")
    predict = Predictor(net, maps=True, output=output, preprocess=preprocess)
    with evaluating(net), weights_fixed():
        logits = predict(first[0][:1])
        if logits.ndim != 4:
            raise ValueError(f"the network must return maps of logits (B, K, h, w), not {tuple(logits.shape)}")
        reach = max_shift or max(1, min(32, *(side // 4 for side in first[0].shape[2:])))
        options: dict[str, Any] = {"boundary": boundary, "max_shift": reach, "repeats": repeats, "seed": seed}
        metric = MapConsistency(classes=logits.shape[1], ignore=ignore, **options, **ALONE)
        labelled, seen = False, 0
        for images, labels in chain([first], batches):
            metric.update(predict, images, labels=labels)
            labelled, seen = labelled or labels is not None, seen + len(images)
    if not predict.finite:
        raise UserError("the network returns logits that are not finite (NaN or infinity): it cannot be measured")
    found = {
        "images": float(seen),
        "classes_given": float(torch.count_nonzero(metric.between.sum(0))),
        "maps_agreement": float(metric.compute()),
        "maps_agreement_variance": metric.variance,
        "maps_iou": metric.iou,
    }
    if labelled:
        still, moved = metric.change
        found |= {"maps_miou": still, "maps_shifted_miou": moved, "maps_miou_change": moved - still}
    return found
