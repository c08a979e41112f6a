"""Measures any network on one picture, or on a batch of images in memory, without a data set or a configuration."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stillpoint.core.base.errors import UserError, nearest
from stillpoint.core.base.modes import evaluating
from stillpoint.core.config.schema import EvaluateConfig, validate
from stillpoint.core.data.loading import Batch
from stillpoint.core.data.shifts import crop_window, roll, shift_zeros
from stillpoint.core.evaluation.engine import Predictor, one_pass
from stillpoint.core.evaluation.registry import EVALUATIONS
from stillpoint.core.metrics import relative_logit_change

Boundary = Literal["circular", "zeros", "crop"]


@dataclass(frozen=True)
class ShiftMap:
    """What a network says of one picture at every shift of up to m pixels.

    Arrays are (2m + 1, 2m + 1); entry [m + r, m + c] belongs to a shift by r rows down and c columns to the right.
    prediction    int64, class number
    change        float64, relative logit change from the unshifted picture (`metrics.relative_logit_change`)
    probability   float64, softmax probability of the class that the unshifted picture is given
    """

    boundary: Boundary
    max_shift: int
    prediction: np.ndarray
    change: np.ndarray
    probability: np.ndarray

    @property
    def unshifted(self) -> int:
        """Class of the unshifted picture."""
        return int(self.prediction[self.max_shift, self.max_shift])

    @property
    def same(self) -> np.ndarray:
        """bool (2m + 1, 2m + 1): the class is that of the unshifted picture."""
        return self.prediction == self.unshifted

    @property
    def consistency(self) -> float:
        """Fraction of the shifts, the one by nothing left out, that keep the class."""
        return (int(self.same.sum()) - 1) / (self.same.size - 1)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists, the summary first."""
        return {
            "boundary": self.boundary,
            "max_shift": self.max_shift,
            "class": self.unshifted,
            "consistency": self.consistency,
            "max_logit_change": float(self.change.max()),
            "min_probability": float(self.probability.min()),
            "max_probability": float(self.probability.max()),
            "prediction": self.prediction.tolist(),
            "change": self.change.tolist(),
            "probability": self.probability.tolist(),
        }


def measure_image(
    net: nn.Module,
    image: Tensor,
    *,
    max_shift: int = 8,
    boundary: Boundary = "circular",
    batch_size: int = 64,
    progress: Callable[[str, int, int], None] | None = None,
) -> ShiftMap:
    """The `ShiftMap` of one normalised picture, (C, H, W), on the device of `net`.

    boundary    "circular": what leaves one edge enters at the other. "zeros": zeros enter, the mean colour after
                normalisation. "crop": the picture's own pixels enter; the network sees windows of
                (H - 2 max_shift) x (W - 2 max_shift), so the picture must be larger by that much.

    `net` is put in eval mode, and back afterwards. Raises ValueError for a picture of another rank or dtype or too
    small for the shifts, for a network that gives no logits, and for logits that are not finite.
    """
    _check_images(image, 3, "a picture is", "(C, H, W)")
    if boundary not in ("circular", "zeros", "crop"):
        raise ValueError(f"boundary must be circular, zeros or crop, not {boundary!r}")
    if max_shift < 1:
        raise ValueError(f"max_shift must be at least 1, not {max_shift}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    height, width = image.shape[1:]
    if boundary == "crop" and min(height, width) <= 2 * max_shift:
        raise ValueError(f"windows that move by {max_shift} pixels need a picture larger than {height}x{width}")
    axis = torch.arange(-max_shift, max_shift + 1)
    shifts = torch.cartesian_prod(axis, axis).to(image.device)  # (S, 2)
    middle = len(shifts) // 2
    predict = Predictor(net)
    logits = []
    with evaluating(net):
        for start in range(0, len(shifts), batch_size):
            if progress is not None:
                progress("shifts", start, len(shifts))
            part = shifts[start : start + batch_size]
            batch = image.expand(len(part), -1, -1, -1)
            if boundary == "circular":
                moved = roll(batch, part)
            elif boundary == "zeros":
                moved = shift_zeros(batch, part)
            else:
                # the content moves down when the window moves up
                moved = crop_window(batch, max_shift - part, (height - 2 * max_shift, width - 2 * max_shift))
            logits.append(predict(moved))
    if progress is not None:
        progress("shifts", len(shifts), len(shifts))
    if not predict.finite:
        raise ValueError("the network gives logits that are not finite (NaN or infinity) for this picture")
    scores = torch.cat(logits)  # (S, K)
    reference = scores[middle]
    side = 2 * max_shift + 1
    chances = scores.double().softmax(1)[:, reference.argmax()]
    columns = (scores.argmax(1), relative_logit_change(reference.expand_as(scores), scores), chances)
    prediction, change, probability = (column.cpu().numpy().reshape(side, side) for column in columns)
    return ShiftMap(boundary, max_shift, prediction, change, probability)


class InMemory:
    """A loader of normalised images (N, C, H, W) that are in memory already, in order."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def epoch(self, epoch: int):
        for step, start in enumerate(range(0, len(self.images), self.batch_size)):
            part = slice(start, start + self.batch_size)
            indices = torch.arange(len(self.images))[part]
            yield Batch(step, self.images[part], self.labels[part], indices)


def measure(
    net: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    evaluations: str | Sequence[str] = ("accuracy", "circular"),
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    **settings: Any,
) -> dict[str, float | Tensor]:
    """Runs evaluations of `stillpoint.core.evaluation.registry` on a network of your own.

    net         images (B, C, H, W) -> logits (B, K); put in eval mode, and back afterwards
    images      (N, C, H, W), normalised as `net` wants them, on its device
    labels      (N,) class numbers; without them the network's own class of each unshifted image counts as right, and
                its accuracy is left out
    settings    those of `config.schema.EvaluateConfig` in small letters: ``max_shift=8, repeats=2, batch_size=64``

    Returns names and numbers as `evaluation.engine.evaluate` does. Raises ValueError for images, labels or a network of
    another form, and `UserError` for evaluations and settings that are unknown or out of range.
    """
    _check_images(images, 4, "images must be", "(N, C, H, W)")
    if labels is not None:
        _check_labels(labels, len(images))
    for name in settings:
        known = [key for key in EvaluateConfig.model_fields if key != "metrics"]
        if name not in known:
            raise UserError(f"unknown setting {name!r}: one of {', '.join(known)}{nearest(name, known)}")
    names = (evaluations,) if isinstance(evaluations, str) else evaluations
    config = validate(EvaluateConfig, {"metrics": names, **settings})
    if config.protocol != "stillpoint":
        raise ValueError(f"protocol={config.protocol!r} is a paper's and known to its pipeline: stillpoint evaluate")
    if labels is None:
        labels = _classes(net, images, config.batch_size)
        config = config.model_copy(update={"metrics": tuple(name for name in config.metrics if name != "accuracy")})
    loader = InMemory(images, labels.to(images.device, torch.int64), config.batch_size)
    return one_pass(Predictor(net, labels=labels), loader, config, seed, EVALUATIONS, progress)


def _classes(net: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    predict = Predictor(net)
    with evaluating(net):
        return torch.cat([predict(part).argmax(1) for part in images.split(batch_size)])


def _check_images(images: Any, ndim: int, what: str, form: str) -> None:
    if not isinstance(images, Tensor):
        raise ValueError(f"{what} a tensor {form}, not {type(images).__name__}")
    if images.ndim != ndim:
        raise ValueError(f"{what} {form}, not of shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"{what} of floating numbers, normalised as the network wants them, not {images.dtype}")


def _check_labels(labels: Any, count: int) -> None:
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be a tensor (N,) of class numbers, not {type(labels).__name__}")
    if labels.shape != (count,):
        raise ValueError(
            f"there must be labels (N,), one for each of {count} images, not of shape {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be class numbers, integers, not {labels.dtype}")
    if count and int(labels.min()) < 0:
        raise ValueError(f"labels must be class numbers from 0 on, not {int(labels.min())}")
