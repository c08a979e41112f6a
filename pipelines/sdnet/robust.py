"""Robust inference: sets the first layer's lambda by its reconstruction error, since more noise needs a larger lambda.

Source: Dai et al. (2022), section on robust inference, and their code, whose noises and levels are `NOISES`. They
choose the best lambda of each level on labelled test images; here it is chosen on held-out images (EVALUATE.PROTOCOL
authors repeats theirs). They only fit the line from error to lambda; here it is applied to unseen images without
labels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillpoint.core.base.randomness import uniform_integers
from stillpoint.core.config.schema import RunConfig
from stillpoint.core.data.build import image_size, images
from stillpoint.core.data.corruptions import noise
from stillpoint.core.data.corruptions.draws import Draws
from stillpoint.core.data.loading import Batch, DeviceLoader
from stillpoint.core.data.sets import FolderSet, ImageSet, evenly
from stillpoint.core.data.streaming import StreamLoader
from stillpoint.core.layers.sparse_coding import SparseCoding2d
from stillpoint.core.metrics import topk_correct
from stillpoint.core.metrics.accumulate import Values
from stillpoint.pipelines.sdnet.pixels import Pixels

#: noise -> (function, the authors' levels from the weakest to the strongest)
NOISES: dict[str, tuple[Callable[..., np.ndarray], tuple[float, ...]]] = {
    "gaussian": (noise.gaussian_noise, tuple(round(0.02 * k, 2) for k in range(1, 11))),
    "shot": (noise.shot_noise, tuple(float(60 - 6 * k) for k in range(10))),
    "speckle": (noise.speckle_noise, tuple(round(0.1 * k, 1) for k in range(1, 7))),
    "impulse": (noise.impulse_noise, tuple(round(0.03 * k, 2) for k in range(1, 11))),
}
#: the condition without noise
CLEAN = "clean"
POOLED = "pooled"
Condition = tuple[str, float]


def levels(name: str, count: int) -> list[float]:
    """At most `count` of a noise's levels, evenly from the weakest to the strongest."""
    known = NOISES[name][1]
    return [known[round(k)] for k in np.linspace(0, len(known) - 1, min(count, len(known)))]


def conditions(count: int) -> list[Condition]:
    """All conditions: no noise first, then every noise with its levels."""
    return [(CLEAN, 0.0), *((name, level) for name in NOISES for level in levels(name, count))]


def noisy(pictures: np.ndarray, condition: Condition, indices: Tensor, *key: int | str) -> np.ndarray:
    """`pictures`, uint8 (N, H, W, 3), with noise; an image's draws depend only on (key, condition, its index)."""
    name, level = condition
    if name == CLEAN:
        return pictures
    seeds = uniform_integers(indices, 0, 1 << 32, 1, "noise", name, f"{level:g}", *key)[:, 0].numpy()
    changed = NOISES[name][0](pictures, Draws(seeds), level)
    return (changed.clip(0, 1) * 255).astype(np.uint8)  # cut to 8 bits, as the authors do


@contextmanager
def inference_penalty(layer: SparseCoding2d, value: float) -> Iterator[None]:
    """A context in which the layer's lambda is `value`."""
    before, layer.penalty = layer.penalty, value
    try:
        yield
    finally:
        layer.penalty = before


@torch.no_grad()
def reconstruction_errors(layer: SparseCoding2d, seen: Tensor) -> Tensor:
    """``|x - A z|^2`` (B,) of normalised images (B, C, H, W) at the layer's lambda."""
    return layer.losses(seen, layer(seen))[0]


def fit_line(errors: np.ndarray, lambdas: np.ndarray) -> tuple[float, float, float]:
    """(slope, intercept, fraction of variance explained) of the least-squares line through points (N,), (N,)."""
    if np.ptp(errors) == 0 or np.ptp(lambdas) == 0:  # without variance in either
        return 0.0, float(lambdas.mean()), 0.0
    slope, intercept = np.polyfit(errors, lambdas, 1)
    spread = float(((lambdas - lambdas.mean()) ** 2).sum())
    left = float(((lambdas - slope * errors - intercept) ** 2).sum())
    return float(slope), float(intercept), 1 - left / spread


@dataclass(frozen=True)
class Sweep:
    """Accuracy at every lambda under every condition, and the resulting choices and lines.

    accuracy   (conditions, lambdas)
    errors     (conditions,), reconstruction errors at the lambda of training, which need no labels
    """

    conditions: tuple[Condition, ...]
    lambdas: tuple[float, ...]
    accuracy: np.ndarray
    errors: np.ndarray

    @property
    def chosen(self) -> dict[Condition, float]:
        """The best lambda of each condition; the smallest on a tie."""
        return {one: self.lambdas[int(row.argmax())] for one, row in zip(self.conditions, self.accuracy, strict=True)}

    def line(self, name: str = POOLED) -> tuple[float, float, float]:
        """The line of one noise over its levels, or of all conditions together."""
        best = np.array(list(self.chosen.values()))
        own = np.array([name in (POOLED, one[0]) for one in self.conditions])
        return fit_line(self.errors[own], best[own])

    def penalty(self, error: float) -> float:
        """Lambda for images with this mean error (see `errors`) by the pooled line, clipped to the values tried."""
        slope, intercept, _ = self.line()
        return float(np.clip(slope * error + intercept, self.lambdas[0], self.lambdas[-1]))


def part_of(config: RunConfig) -> str:
    """The part on which lambda is chosen: "validation", or "train" without held-out images; the authors use "test"."""
    if config.evaluate.protocol == "authors":
        return "test"
    return "validation" if config.data.validation else "train"


def batches(config: RunConfig, root: Path | str | None, device: torch.device, limit: int | None) -> Iterator[Batch]:
    """Yields the unaltered images on which lambda is chosen, `limit` of them evenly spaced, with their indices."""
    found = images(config, part_of(config), root)  # type: ignore[arg-type]
    assert isinstance(found, ImageSet | FolderSet), "this paper's networks classify"
    return loaded(config, found, evenly(len(found), limit), device)


def loaded(config: RunConfig, whole: ImageSet | FolderSet, numbers: Tensor, device: torch.device) -> Iterator[Batch]:
    """Yields the unaltered images of a set at the indices `numbers`, which the batches keep."""
    found, size = whole.take(numbers), config.evaluate.batch_size
    options: dict[str, Any] = {"device": device, "mean": config.data.mean, "std": config.data.std}
    options["channels_last"] = config.train.channels_last
    source: DeviceLoader | StreamLoader
    if isinstance(found, ImageSet):
        source = DeviceLoader(found, size, **options)
    else:
        side = image_size(config)
        options |= {"size": side, "resize": config.augment.resize or side * 256 // 224}
        source = StreamLoader(found, size, skip_corrupt=config.data.skip_corrupt, **options)
    for batch in source.epoch(0):
        if len(batch.images):
            yield batch._replace(indices=numbers[batch.indices.cpu()])


def sweep(
    config: RunConfig,
    seed: int,
    layer: SparseCoding2d,
    predict: Callable[[Tensor], Tensor],
    root: Path | str | None,
    device: torch.device,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Sweep:
    """Tries every lambda under every condition on the images of `part_of`; `config.evaluate` is sdnet's section."""
    measured: Any = config.evaluate
    tried, pixels = tuple(conditions(measured.noise_levels)), Pixels.of(config)
    right = np.zeros((len(tried), len(measured.lambdas)))
    errors, count = [Values() for _ in tried], 0
    for batch in batches(config, root, device, measured.limit_sweep):
        pictures = pixels.stored(batch.images)
        for row, condition in enumerate(tried):
            progress("choosing lambda", row, len(tried))
            changed = noisy(pictures, condition, batch.indices.cpu(), part_of(config), seed)
            seen = pixels.seen(changed, batch.images)
            errors[row].update(reconstruction_errors(layer, seen))
            for column, value in enumerate(measured.lambdas):
                with inference_penalty(layer, value):
                    right[row, column] += int(topk_correct(predict(seen), batch.labels)[:, 0].sum())
        count += len(batch.images)
    return Sweep(tried, measured.lambdas, right / count, np.array([found.mean for found in errors]))
