"""Measures any network on one image or on a user's data, without a registered data set or configuration."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from stillpoint.core.base.errors import UserError, nearest
from stillpoint.core.base.modes import evaluating
from stillpoint.core.base.words import counted
from stillpoint.core.config.schema import EvaluateConfig, validate
from stillpoint.core.data.loading import Batch
from stillpoint.core.data.shifts import crop_window, roll, shift_zeros
from stillpoint.core.evaluation.boxes import is_boxes, measure_boxes
from stillpoint.core.evaluation.dense import measure_maps
from stillpoint.core.evaluation.engine import Predictor, chosen, one_pass
from stillpoint.core.evaluation.networks import batches, callable_of, device_of
from stillpoint.core.evaluation.registry import EVALUATIONS
from stillpoint.core.evaluation.view import Result, View
from stillpoint.core.metrics import relative_logit_change
from stillpoint.core.metrics.outputs import Output, as_tensor, logits_of

#: evaluations whose views are interpolated, which stored pixels (uint8) cannot be
_INTERPOLATED = ("fractional", "subpixel", "rotation", "scaling")

Boundary = Literal["circular", "zeros", "crop"]


@dataclass(frozen=True)
class ShiftMap:
    """A network's predictions for one image at every shift of up to m pixels.

    Arrays are (2m + 1, 2m + 1); entry [m + r, m + c] belongs to a shift by r rows down and c columns to the right.
    prediction    int64, class number
    change        float64, relative logit change from the unshifted image (`metrics.relative_logit_change`)
    probability   float64, softmax probability of the unshifted image's class
    """

    boundary: Boundary
    max_shift: int
    prediction: np.ndarray
    change: np.ndarray
    probability: np.ndarray

    @property
    def unshifted(self) -> int:
        """Class of the unshifted image."""
        return int(self.prediction[self.max_shift, self.max_shift])

    @property
    def same(self) -> np.ndarray:
        """bool (2m + 1, 2m + 1): the class is that of the unshifted image."""
        return self.prediction == self.unshifted

    @property
    def consistency(self) -> float:
        """Fraction of the non-zero shifts that keep the class."""
        return (int(self.same.sum()) - 1) / (self.same.size - 1)

    def to_dict(self) -> dict[str, Any]:
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
    net: nn.Module | Callable[..., Any],
    image: Tensor | np.ndarray,
    *,
    max_shift: int = 8,
    boundary: Boundary = "circular",
    batch_size: int = 64,
    output: Output | None = None,
    preprocess: Callable[[Tensor], Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ShiftMap:
    """The `ShiftMap` of one image (C, H, W) on the device of `net`: normalised, or uint8 with `preprocess`.

    boundary    "circular": pixels that leave one edge enter at the other. "zeros": zeros enter, the mean colour after
                normalisation. "crop": the network sees windows of (H - 2 max_shift) x (W - 2 max_shift) of the image,
                which must be larger by that much.

    `net` is in eval mode during the call. Raises ValueError for an image of another rank or dtype or too small for the
    shifts, for another boundary, for `max_shift` or `batch_size` below 1, for a network that returns no logits, and for
    logits that are not finite.
    """
    image = as_tensor(image) if isinstance(image, np.ndarray) else image
    _check_images(image, (3,), "the image must be", "(C, H, W),")
    if boundary not in ("circular", "zeros", "crop"):
        raise ValueError(f"boundary must be circular, zeros or crop, not {boundary!r}")
    if max_shift < 1:
        raise ValueError(f"max_shift must be at least 1, not {max_shift}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    height, width = image.shape[1:]
    if boundary == "crop" and min(height, width) <= 2 * max_shift:
        raise ValueError(
            f"boundary crop needs an image of more than 2 x {max_shift} pixels a side, not {height}x{width}"
        )
    axis = torch.arange(-max_shift, max_shift + 1)
    shifts = torch.cartesian_prod(axis, axis).to(image.device)  # (S, 2)
    middle = len(shifts) // 2
    predict = Predictor(net, output=output, preprocess=preprocess)
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
        raise ValueError("the network returns logits that are not finite (NaN or infinity) for this image")
    scores = torch.cat(logits)  # (S, K)
    reference = scores[middle]
    side = 2 * max_shift + 1
    chances = scores.double().softmax(1)[:, reference.argmax()]
    columns = (scores.argmax(1), relative_logit_change(reference.expand_as(scores), scores), chances)
    prediction, change, probability = (column.cpu().numpy().reshape(side, side) for column in columns)
    return ShiftMap(boundary, max_shift, prediction, change, probability)


class InMemory:
    """A loader of normalised images (N, C, H, W) in memory, in order."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def epoch(self, epoch: int):
        for step, start in enumerate(range(0, len(self.images), self.batch_size)):
            part = slice(start, start + self.batch_size)
            indices = torch.arange(len(self.images))[part]
            yield Batch(step, self.images[part], self.labels[part], indices)


class Measured(dict[str, float | Tensor]):
    """The result of `measure`: numbers by name, fractions in [0, 1], and tensors for maps over shifts."""

    @property
    def one_class(self) -> bool:
        """Whether all images got the same class, which makes every consistency 1 and meaningless."""
        return bool(self.get("classes_given") == 1 and self.get("images", 0) > 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in self.items()}

    def __str__(self) -> str:
        lines = [f"{name}: {value:.6g}" for name, value in self.items() if not isinstance(value, Tensor)]
        if self.one_class:
            lines.append("the network assigns one class to all images: its consistency is meaningless")
        return "\n".join(lines)


class _Given:
    """Counts the images, and the distinct classes predicted for them."""

    def __init__(self) -> None:
        self.images, self.classes = 0, set[int]()

    def update(self, view: View) -> None:
        self.images += len(view.images)
        self.classes |= set(view.logits.argmax(1).tolist())

    def compute(self) -> Result:
        return {"images": float(self.images), "classes_given": float(len(self.classes))}


class _Stream:
    """A loader over any data; images without labels get the network's own predictions."""

    def __init__(self, data: Iterable[tuple[Tensor, Tensor | None]], steps: int, predict: Predictor) -> None:
        self.data, self.steps, self.predict = data, steps, predict

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        first = 0
        for step, (images, labels) in enumerate(self.data):
            if labels is None:
                labels = self.predict(images).argmax(1)
            else:
                _check_labels(labels, len(images))
                self.predict.highest = int(labels.max()) if len(labels) else -1
            numbers = torch.arange(first, first + len(images))
            yield Batch(step, images, labels.to(images.device, torch.int64), numbers)
            first += len(images)


def measure(
    net: nn.Module | Callable[..., Any],
    data: Any,
    labels: Any = None,
    *,
    evaluations: str | Sequence[str] = ("accuracy", "circular"),
    output: Output | None = None,
    preprocess: Callable[[Tensor], Any] | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    **settings: Any,
) -> Measured:
    """Measures how shifts change the output of your own network.

    net          images -> logits (B, K): a module, also scripted or exported, in eval mode during the call, or a
                 function. One that returns maps (B, K, H, W) is measured by `measure_maps`, with zeros at the edge if
                 `evaluations` is "crop", and a detector by `measure_boxes`; of the settings both take only
                 ``max_shift`` and ``repeats``
    data         images (N, C, H, W), normalised for `net`, or uint8 if `net` or `preprocess` normalises; signals (N, C,
                 L), shifted along L only; a NumPy array of either; a Dataset; or a DataLoader, whose batches are
                 images, (images, labels) or dictionaries. They are moved to the network's device
    labels       (N,) class numbers; without them the predicted class of each unshifted image counts as correct, and no
                 accuracy is returned
    evaluations  any of "accuracy", "circular", "windows", "crop", "fractional", "flips", "erase", "all_shifts",
                 "worst_shift", "subpixel", "walk", "rotation", "scaling"; "corruptions" needs a registered data set
    output       where the logits are in the output of `net`, if ambiguous: a key, a position, or a function
    preprocess   applied to images, shifted ones too, before `net`
    settings     those of `stillpoint.core.config.schema.EvaluateConfig` in lower case: ``max_shift=8, repeats=2``

    Returns the numbers by name, with the counts ``images`` and ``classes_given`` (distinct predicted classes). Raises
    ValueError for unsupported images, labels or networks, and `UserError` for unknown evaluations and settings or
    values out of range.

    Examples:
        >>> net = stillpoint.create("aps/resnet20_aps1", dataset="cifar10", width=0.25)
        >>> stillpoint.measure(net, torch.randn(4, 3, 32, 32), max_shift=2)["circular_consistency"]
        1.0
    """
    config = _config(evaluations, settings)
    device = device_of(net)
    batched = iter(batches(data, labels, config.batch_size))
    first = next(batched, None)
    if first is None or not len(first[0]):
        raise UserError("there are no images to measure")
    _check_images(first[0], (3, 4), "images must be", "(N, C, H, W), or signals (N, C, L),")
    signals, known = first[0].ndim == 3, first[1]
    stream = _images(chain([first], batched), device)
    if signals:
        # signals are shifted as images of one row; the network sees them without that axis
        given_back = preprocess or (lambda x: x)
        preprocess = lambda x: given_back(x.squeeze(2))  # noqa: E731
    tried = _tried(net, first[0][:1], preprocess, device, signals)
    if is_boxes(tried):
        pictures = (images for images, _ in stream)
        chosen_shifts = _shifts("a detector", config.metrics, settings)
        return Measured(measure_boxes(net, pictures, preprocess=preprocess, seed=seed, **chosen_shifts))
    if logits_of(tried, output).ndim == 4:
        chosen_shifts = _shifts("a network that returns maps", config.metrics, settings)
        edge: Any = "zeros" if "crop" in config.metrics else "circular"
        options: dict[str, Any] = {"output": output, "preprocess": preprocess, "seed": seed, **chosen_shifts}
        return Measured(measure_maps(net, stream, boundary=edge, **options))
    if first[0].dtype == torch.uint8 and (between := [name for name in config.metrics if name in _INTERPOLATED]):
        raise ValueError(
            f"views between the pixels need floating-point images: leave {' and '.join(between)} out for uint8"
        )
    asked = config.metrics if known is not None else tuple(name for name in config.metrics if name != "accuracy")
    given = _Given()
    factories = {**EVALUATIONS, "given": lambda config, seed: given}
    config = config.model_copy(update={"metrics": (*asked, "given")})
    predict = Predictor(net, output=output, preprocess=preprocess)
    loader = _Stream(stream, _steps(data, config.batch_size), predict)
    return Measured(one_pass(predict, loader, config, seed, factories, progress))


def _tried(net: Any, images: Tensor, preprocess: Callable[[Tensor], Any] | None, device: Any, signals: bool) -> Any:
    """The output of a network for one image."""
    one = (images.unsqueeze(2) if signals else images).to(device)
    with evaluating(net), torch.inference_mode():
        try:
            return callable_of(net)(one if preprocess is None else preprocess(one))
        except RuntimeError as error:
            if one.dtype != torch.uint8 or preprocess is not None:
                raise
            why = str(error).partition("\n")[0]
            raise ValueError(
                f"the network does not accept uint8 images: pass preprocess= to convert them ({why})"
            ) from error


def _shifts(network: str, evaluations: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    """The given settings of `measure_maps` and `measure_boxes`; `UserError` for any other setting or evaluation."""
    shifts = ("max_shift", "repeats")
    if odd := [name for name in evaluations if name not in ("accuracy", "circular", "crop")]:
        raise UserError(f"the evaluation {odd[0]!r} does not support {network}: use circular or crop")
    if {"circular", "crop"} <= set(evaluations):
        raise UserError(f"{network} takes one of circular and crop at a time, not both")
    if odd := [name for name in settings if name not in (*shifts, "batch_size", "protocol")]:
        raise UserError(f"the setting {odd[0]!r} has no effect on {network}: only {' and '.join(shifts)} do")
    return {name: settings[name] for name in shifts if name in settings}


def _steps(data: Any, batch_size: int) -> int:
    """The number of batches; 0 if unknown."""
    count = len(data) if hasattr(data, "__len__") else 0
    return -(-count // batch_size) if isinstance(data, Tensor | np.ndarray | Dataset) else count


def _images(
    data: Iterable[tuple[Tensor, Tensor | None]], device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches of images (B, C, H, W) on the device; signals (B, C, L) as images of one row."""
    for images, labels in data:
        _check_images(images, (3, 4), "images must be", "(N, C, H, W), or signals (N, C, L),")
        yield (images.unsqueeze(2) if images.ndim == 3 else images).to(device), labels


def _config(evaluations: str | Sequence[str], settings: dict[str, Any]) -> EvaluateConfig:
    known = [key for key in EvaluateConfig.model_fields if key != "metrics"]
    for name in settings:
        if name not in known:
            raise UserError(f"unknown setting {name!r}: choose from {', '.join(known)}{nearest(name, known)}")
    names = (evaluations,) if isinstance(evaluations, str) else evaluations
    config = validate(EvaluateConfig, {"metrics": names, **settings})
    if config.protocol != "stillpoint":
        raise ValueError(f"protocol={config.protocol!r} needs a paper's pipeline: use stillpoint evaluate")
    chosen(config.metrics, EVALUATIONS)
    return config


def _check_images(images: Any, ndims: tuple[int, ...], what: str, expected: str) -> None:
    if not isinstance(images, Tensor):
        raise ValueError(f"{what} a tensor {expected}, not {type(images).__name__}")
    if images.ndim not in ndims:
        raise ValueError(f"{what} {expected} not of shape {tuple(images.shape)}")
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise ValueError(
            f"{what} floating-point and normalised for the network, or uint8 if it takes stored pixels, not "
            f"{images.dtype}"
        )


def _check_labels(labels: Any, count: int) -> None:
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be a tensor (N,) of class numbers, not {type(labels).__name__}")
    if labels.shape != (count,):
        raise ValueError(
            f"labels must be (N,), one for each of {counted(count, 'image')}, not of shape {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integer class numbers, not {labels.dtype}")
    if count and int(labels.min()) < 0:
        raise ValueError(f"labels must be class numbers of at least 0, not {int(labels.min())}")
