"""Measures a detector: are the boxes of a shifted image the shifted boxes?"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stillpoint.core.base.errors import UserError
from stillpoint.core.base.modes import evaluating, weights_fixed
from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.data.shifts import shift_zeros
from stillpoint.core.evaluation.view import ALONE
from stillpoint.core.metrics.accumulate import Tally, Values


def is_boxes(output: Any) -> bool:
    """Whether `output` is one dictionary of boxes per image, as torchvision's detectors return."""
    return (
        isinstance(output, list | tuple)
        and len(output) > 0
        and all(isinstance(one, Mapping) and {"boxes", "scores", "labels"} <= set(one) for one in output)
    )


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (N, 4) and (M, 4) of (left, top, right, bottom): (N, M)."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    both = (high - low).clamp_min(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return both / (areas[0][:, None] + areas[1] - both).clamp_min(torch.finfo(first.dtype).tiny)


def matched(ious: Tensor, least: float) -> list[tuple[int, int]]:
    """Greedy pairs (row, column) of boxes, each used once: the largest IoU first, down to `least`."""
    pairs, left = [], ious.clone()
    while left.numel() and float(left.max()) >= least:
        row, column = divmod(int(left.argmax()), left.shape[1])
        pairs.append((row, column))
        left[row], left[:, column] = -1, -1
    return pairs


def measure_boxes(
    net: nn.Module | Callable[..., Any],
    data: Iterable[Tensor],
    *,
    max_shift: int = 8,
    repeats: int = 5,
    score: float = 0.5,
    least: float = 0.5,
    preprocess: Callable[[Tensor], Any] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Compares the boxes of shifted images with the shifted boxes of the originals; zeros enter at the edge.

    net         batches (B, C, H, W) -> for each image a dictionary of "boxes" (N, 4), "scores" and "labels" (N,)
    data        batches of images on the network's device
    max_shift   `repeats` shifts of each image, each axis uniform in -max_shift..max_shift pixels
    score       minimum score of a box in the unshifted image
    least       IoU from which two boxes of one label are a pair

    Returns ``boxes`` (the number compared: those that stay within the image), ``boxes_matched`` (the fraction with a
    partner), ``boxes_iou`` (mean IoU of the pairs) and ``boxes_score_change`` (mean change of their scores); without a
    pair the last two are 0 and 1. `UserError` if there is no box to compare.
    """
    found, overlaps, changes = Tally(**ALONE), Values(**ALONE), Values(**ALONE)
    first = 0
    with evaluating(net), weights_fixed(), torch.inference_mode():
        for images in data:
            numbers = torch.arange(first, first + len(images))
            first += len(images)
            plain = _detected(net, images, preprocess)
            for repeat in range(repeats):
                shifts = uniform_integers(numbers, -max_shift, max_shift + 1, 2, "boxes", seed, repeat)
                moved = _detected(net, shift_zeros(images, shifts.to(images.device)), preprocess)
                for before, after, shift in zip(plain, moved, shifts, strict=True):
                    kept = _shifted(before, shift, images, score)
                    same = kept["labels"][:, None] == after["labels"]
                    ious = box_iou(kept["boxes"], after["boxes"]).masked_fill(~same, -1)
                    pairs = matched(ious, least)
                    rows, columns = ([pair[k] for pair in pairs] for k in (0, 1))
                    hit = torch.zeros(len(kept["boxes"]), dtype=torch.bool)
                    hit[rows] = True
                    found.count(hit)
                    overlaps.take(ious[rows, columns])
                    changes.take((kept["scores"][rows] - after["scores"][columns]).abs())
    if not int(found.images):
        raise UserError(
            f"no box with a score of at least {score:g} stays within the shifted images, so nothing can be compared: "
            "measure_boxes(net, batches, score=...) takes a lower score"
        )
    pairs_found = int(found.successes) > 0
    return {
        "images": float(first),
        "boxes": float(found.images),
        "boxes_matched": found.mean,
        "boxes_iou": overlaps.mean if pairs_found else 0.0,
        "boxes_score_change": changes.mean if pairs_found else 1.0,
    }


def _detected(net: Any, images: Tensor, preprocess: Callable[[Tensor], Any] | None) -> list[dict[str, Tensor]]:
    output = net(images if preprocess is None else preprocess(images))
    return [{key: one[key].detach().float().cpu() for key in ("boxes", "scores", "labels")} for one in output]


def _shifted(boxes: dict[str, Tensor], shift: Tensor, images: Tensor, score: float) -> dict[str, Tensor]:
    """Boxes of at least `score`, moved with the image, that lie within it."""
    row, column = shift.tolist()
    moved = boxes["boxes"] + torch.tensor([column, row, column, row], dtype=torch.float32)
    height, width = images.shape[2:]
    inside = (moved >= 0).all(1) & (moved <= torch.tensor([width, height, width, height])).all(1)
    kept = inside & (boxes["scores"] >= score)
    return {"boxes": moved[kept], "scores": boxes["scores"][kept], "labels": boxes["labels"][kept]}
